"""Draws of the replay memory between two hosts: throughput against raw sockets, and what replay costs at a distance.

    python benchmarks/replay_hosts.py [--parts throughput,hidden] [--rounds 9] [--delay 1]

The hosts are two network namespaces of Linux with a cable between them (namespaces.py), one rank on each, every rank
with a core of its own for all of its threads. Between them there is only TCP.

throughput  Draws of 128 records of 3x224x224 uint8 and of 32 of 3x32x32 float32, half of them from the other host; the
            next draw is requested before the one before it is received, as in training. What crosses the cable per
            second and direction, over what two plain sockets carry in both directions at once:
            streamed  one thread sends, one receives, in pieces as long as what crosses in a draw;
            in turn   every rank sends its piece and waits for the other's, as a draw does;
            copying   as streamed, and each rank copies as much memory as a draw takes from its own shard.
            The rates are measured in turn, and the ratios round by round. Aim: 80 % of `streamed`.
hidden      benchmarks/hidden_cost.py over the two hosts, with a delay of DELAY ms in each direction: ResNet-18 with
            half of its samples replayed over as many new ones. Limit 1.02.

The status is 2 if there can be no namespaces here.
"""

import argparse
import ctypes
import json
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from namespaces import ADDRESSES, TwoHosts
from replay_ranks import Sockets, check, full_buffer, run_ranks

# Shape and type of the pictures, records per draw, capacity, draws in a round.
CASES = {
    "128 of 3x224x224 uint8": ((3, 224, 224), torch.uint8, 128, 1000, 20),
    "32 of 3x32x32 float32": ((3, 32, 32), torch.float32, 32, 1000, 1500),
}
AIM = 0.8
HIDDEN_LIMIT = 1.02


class Pieces(Sockets):
    """Two plain sockets, one per direction as it were: what they carry of the pieces that a draw carries."""

    def __init__(self, comm, volume: int):
        super().__init__(comm, volume, ADDRESSES["a"])
        self.own = torch.zeros(volume, dtype=torch.uint8), torch.ones(volume, dtype=torch.uint8)

    def exchange(self, sends: int, receives: int) -> None:
        """In one thread, whichever can go on; so no thread has to be woken."""
        flags = socket.MSG_DONTWAIT
        out, into = memoryview(self.outgoing), self.incoming
        rest_out, rest_in = out[len(out):], into[len(into):]
        sends, receives = sends, receives
        while True:
            if not rest_out and sends:
                rest_out, sends = out, sends - 1
            if not rest_in and receives:
                rest_in, receives = into, receives - 1
            if not rest_out and not rest_in:
                return
            blocked = 0
            if rest_out:
                try:
                    rest_out = rest_out[self.socket.send(rest_out, flags):]
                except BlockingIOError:
                    blocked = 1
            if rest_in:
                try:
                    rest_in = rest_in[self.socket.recv_into(rest_in, len(rest_in), flags):]
                except BlockingIOError:
                    if blocked or not rest_out:
                        select.select([self.socket], [self.socket] if rest_out else [], [])

    def streamed(self, times: int) -> None:
        self.exchange(times, times)

    def in_turn(self, times: int) -> None:
        for _ in range(times):
            self.exchange(1, 1)

    def threads(self, times: int) -> None:
        thread = threading.Thread(target=self.send, args=(times,))
        thread.start()
        self.receive(times)
        thread.join()

    def copying(self, times: int) -> None:
        target, source = (own.data_ptr() for own in self.own)
        for _ in range(times):
            self.exchange(1,1)
            ctypes.memmove(target, source, self.outgoing.nbytes)

    def measure(self, times: int) -> dict[str, float]:
        rates = {}
        for call in (self.streamed, self.in_turn, self.threads, self.copying):
            self.comm.meet()
            cpu, started = time.process_time(), time.perf_counter()
            call(times)
            rates[call.__name__] = times * self.outgoing.nbytes / (time.perf_counter() - started)
            rates["cpu_"+call.__name__] = times * self.outgoing.nbytes / (time.process_time() - cpu)
        return rates


def throughput(comm, case: str, rounds: int) -> list[dict[str, float]]:
    """Bytes per second that this rank received of the other, in each round and each way."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[comm.rank % os.cpu_count()]})
    shape, dtype, n, capacity, draws = CASES[case]
    buffer = full_buffer(comm, capacity, shape, dtype)
    record = torch.Size(shape).numel() * dtype.itemsize
    sockets = Pieces(comm, n // 2 * record)
    found = []
    buffer.request(n)
    for _ in range(rounds + 1):  # the first warms up
        comm.meet()
        before = buffer.statistics().bytes_received
        cpu, started = time.process_time(), time.perf_counter()
        for _ in range(draws):
            buffer.request(n)
            records = buffer.receive()
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        crossed = (buffer.statistics().bytes_received - before)
        check(records, n, shape, dtype)
        found.append({"draw": crossed / seconds, "cpu_draw": crossed / cpu, **sockets.measure(draws)})
    buffer.receive()
    comm.meet()
    buffer.close()
    return found[1:]


def show_throughput(hosts: TwoHosts, rounds: int, cases: list[str]) -> None:
    ways = ("streamed", "in_turn", "threads", "copying")
    print("draws, per direction        MB/s   over sockets: " + "".join(f"{way.replace('_', ' '):>26}" for way in ways))
    for case in cases:
        of_ranks = run_ranks(2, "tcp,self", throughput, hosts.wrappers, case=case, rounds=rounds)
        # The slower rank counts, because the ranks wait for each other in every draw.
        slowest = [{key: min(a[key], b[key]) for key in a} for a, b in zip(*of_ranks)]
        line = f"{case:24} {1e-6 * statistics.median(entry['draw'] for entry in slowest):7.0f}                 "
        for way in ways:
            ratios = sorted(100 * entry["draw"] / entry[way] for entry in slowest)
            line += f" {statistics.median(ratios):8.1f} % ({ratios[0]:3.0f} to {ratios[-1]:3.0f})"
        print(" cpu MB/s draw %.0f" % (1e-6*statistics.median(e["cpu_draw"] for e in slowest)), "; ".join("%s %.0f %.1f%% (%.0f..%.0f)" % (way, 1e-6*statistics.median(e["cpu_"+way] for e in slowest), statistics.median(r:=sorted(100*e["cpu_draw"]/e["cpu_"+way] for e in slowest)), r[0], r[-1]) for way in ways))
        print(f"{line}   aim {100 * AIM:.0f} % of streamed", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="throughput,hidden")
    parser.add_argument("--cases", default=";".join(CASES), help="of throughput, with ; between them")
    parser.add_argument("--rounds", type=int, default=9, help="of throughput")
    parser.add_argument("--delay", type=float, default=1.0, help="of hidden: milliseconds in each direction")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            with TwoHosts(Path(folder)) as hosts:
                show_throughput(hosts, arguments.rounds, arguments.cases.split(";"))
        except OSError as error:
            print(f"two network namespaces cannot be made here: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
