"""Draws of the replay memory between two hosts: throughput against raw sockets, and what replay costs at a distance.

    python benchmarks/replay_hosts.py [--parts throughput,hidden] [--rounds 9] [--delay 1] [--steps 3]

The hosts are two network namespaces of Linux with a cable between them (namespaces.py), one rank on each. Between them
there is only TCP. Status 2: there can be no namespaces here.

throughput  Draws of 128 records of 3x224x224 uint8 and of 32 of 3x32x32 float32, half of them from the other host; the
            next draw is requested before the one before it is received, as in training. A rank has one core for all its
            threads. What crosses the cable in each direction, over what plain sockets carry in both directions at once,
            out of memory as large as a shard:
            streamed  a thread sends and another receives, in pieces as long as what crosses in a draw;
            in turn   the same, but a piece is sent when the one before it has come, as between draws;
            copying   as streamed, and as much is copied as a draw takes from its own shard.
            Bytes per second, and bytes per second of CPU time, which other processes on the cores change less. Measured
            in turn, ratios round by round, the slower rank counts. Aim: 80 % of `streamed`.
hidden      benchmarks/hidden_cost.py with DELAY ms in each direction: ResNet-18 with half of its samples replayed, over
            as many new ones. Limit 1.02.
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from namespaces import ADDRESSES, TwoHosts
from replay_ranks import Sockets, check, full_buffer, run_ranks

ROOT = Path(__file__).resolve().parent.parent
# Shape and type of the pictures, records per draw and in memory, draws in a round.
CASES = {
    "128 of 3x224x224 uint8": ((3, 224, 224), torch.uint8, 128, 1000, 30),
    "32 of 3x32x32 float32": ((3, 32, 32), torch.float32, 32, 1000, 1500),
}
WAYS = ("streamed", "in turn", "copying")
AIM, HIDDEN_LIMIT = 0.8, 1.02


class Pieces(Sockets):
    """A socket between two hosts that carries what a draw does, in both directions at once."""

    def __init__(self, comm, volume: int, pool: int):
        super().__init__(comm, volume, ADDRESSES["a"])
        self.pool = memoryview(bytearray(max(pool, volume)))
        self.places = len(self.pool) // volume
        self.source, self.target = torch.ones(len(self.pool), dtype=torch.uint8), torch.ones(volume, dtype=torch.uint8)

    def send(self, times: int, go: threading.Semaphore | None = None) -> None:
        volume = len(self.incoming)
        for i in range(times):
            if go:
                go.acquire()
            start = i % self.places * volume
            self.socket.sendall(self.pool[start : start + volume])

    def carry(self, way: str, times: int) -> None:
        go = threading.Semaphore(0) if way == "in turn" else None
        thread = threading.Thread(target=self.send, args=(times, go))
        thread.start()
        for i in range(times):
            if go:
                go.release()
            self.receive(1)
            if way == "copying":
                volume = len(self.incoming)
                start = self.source.data_ptr() + i % self.places * volume
                ctypes.memmove(self.target.data_ptr(), start, volume)
        thread.join()


def timed(comm, call, *arguments) -> tuple[float, float]:
    """Seconds, and seconds of CPU time of this process."""
    comm.meet()
    cpu, started = time.process_time(), time.perf_counter()
    call(*arguments)
    return time.perf_counter() - started, time.process_time() - cpu


def throughput(comm, case: str, rounds: int) -> list[dict[str, tuple[float, float]]]:
    """For each round and way: bytes that came from the other rank, per second and per second of CPU time."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[comm.rank % len(cores)]})
    shape, dtype, n, capacity, draws = CASES[case]
    buffer = full_buffer(comm, capacity, shape, dtype)
    record = torch.Size(shape).numel() * dtype.itemsize
    volume = n // 2 * record
    sockets = Pieces(comm, volume, capacity // 2 * record)

    def draw(times: int) -> None:
        for _ in range(times):
            buffer.request(n)
            received.append(buffer.receive())
            del received[:-1]

    received: list = []
    found = []
    buffer.request(n)
    for _ in range(rounds + 1):  # the first warms up
        before = buffer.statistics().bytes_received
        seconds = timed(comm, draw, draws)
        check(received[-1], n, shape, dtype)
        crossed = buffer.statistics().bytes_received - before
        rates = {"draw": tuple(crossed / s for s in seconds)}
        for way in WAYS:
            rates[way] = tuple(draws * volume / s for s in timed(comm, sockets.carry, way, draws))
        found.append(rates)
    buffer.receive()
    comm.meet()
    buffer.close()
    return found[1:]


def show_throughput(rounds: int, folder: Path) -> None:
    print("draws, MB/s in each direction           over sockets: " + "".join(f"{way:>22}" for way in WAYS))
    for case in CASES:
        with TwoHosts(folder) as hosts:
            of_ranks = run_ranks(2, "tcp,self", throughput, hosts.wrappers, case=case, rounds=rounds)
        for number, what in enumerate(("per second", "per CPU second")):
            # Ranks wait for each other in every draw.
            slowest = [{way: min(a[way][number], b[way][number]) for way in a} for a, b in zip(*of_ranks)]
            line = f"{case:23} {what:14} {1e-6 * statistics.median(rates['draw'] for rates in slowest):6.0f}         "
            for way in WAYS:
                ratios = sorted(100 * rates["draw"] / rates[way] for rates in slowest)
                line += f" {statistics.median(ratios):8.1f} % ({ratios[0]:.0f} to {ratios[-1]:.0f})"
            print(line, flush=True)
    print(f"aim: {100 * AIM:.0f} % of streamed")


def show_hidden(delay: float, rounds: int, steps: int, folder: Path) -> None:
    file = folder / "hidden.json"
    with TwoHosts(folder, delay) as hosts:
        places = ",".join(f"{address}:1" for address in ADDRESSES.values())
        line = [hosts.wrappers[0], ROOT / "benchmarks" / "hidden_cost.py", f"--hosts={places}", f"--json={file}"]
        line += ["--models=resnet18", f"--rounds={rounds}", f"--steps={steps}"]
        subprocess.run(list(map(str, line)), check=True, env={**os.environ, "REMERGE_SSH": str(hosts.ssh)})
        crossed = hosts.carried_bytes()
    (entry,) = json.loads(file.read_text())
    ratios = sorted(ours / theirs for ours, theirs in entry["pairs"])
    print(
        f"{delay:g} ms apart, {crossed / 1e6:.0f} MB carried: ResNet-18 with replay over as many new samples "
        f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}), limit {HIDDEN_LIMIT}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="throughput,hidden")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--delay", type=float, default=1.0, help="milliseconds in each direction, of hidden")
    parser.add_argument("--steps", type=int, default=3, help="of ResNet-18 in a round of hidden")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts.split(",")) - {"throughput", "hidden"}:
        parser.error(f"--parts has unknown names {', '.join(sorted(unknown))}; valid: throughput, hidden")
    with tempfile.TemporaryDirectory() as folder:
        try:
            with TwoHosts(Path(folder)):
                pass
        except OSError as error:
            print(f"two network namespaces cannot be made here: {error}", file=sys.stderr)
            return 2
        if "throughput" in arguments.parts:
            show_throughput(arguments.rounds, Path(folder))
        if "hidden" in arguments.parts:
            show_hidden(arguments.delay, arguments.rounds, arguments.steps, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
