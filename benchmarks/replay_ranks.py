"""The cost of a replay memory over several processes: latency, throughput, idle time, and messages by number of ranks.

    python benchmarks/replay_ranks.py [--parts latency,throughput,idle,scaling] [--steps 2000] [--rounds 7]

The script starts its ranks, which communicate only through the native buffer. Parts that send messages run over shared
memory (which UCX chooses within a host) and over TCP (UCX_TLS=tcp,self, as between hosts, here over loopback).

latency     32 records of 3x32x32 float32, y and task from a full memory. In each step both ranks add a batch of 32, and
            request and receive a draw; the draw keeps them in lockstep. Half of it is on the other rank.
            Limits on the median: 0.3 ms over shared memory, 0.6 ms over TCP.
throughput  64 records of 3x224x224 uint8 from 1000 on both ranks, only requested and received.
            Shared memory: bytes delivered to a rank per second, divided by those of a plain copy of as many bytes into
            reused memory, from a pool as large as the shard, made by both ranks at once and by one alone.
            TCP: bytes sent between the ranks, about half of a draw, divided by those that two sockets carry between the
            same processes in large sends and receives, in both directions at once and in one.
            The rates are measured in turn, the ratio round by round. Limit: 60 % of the rate of both ranks at once.
idle        CPU time of the buffer's thread while both ranks sleep for 3 s. Limit: 2 % of a core.
scaling     2 to 16 ranks on this machine, so only bytes and messages are measured, not time: what a rank sends per step
            and draw of 32, compared with the least possible, and a chi-square of the sampling policy at the most ranks.

Drawn records are checked one by one outside the timed parts. All ranks share the machine's cores; with fewer than four
cores the two threads of a rank take turns.
"""

import argparse
import ctypes
import multiprocessing
import os
import socket
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cl.buffers.base import Field
from cl.buffers.native import NativeBuffer
from cl.distributed.watch import Waits

CPU = torch.device("cpu")
CLASSES = 10
WIRES = {"shared memory": None, "tcp": "tcp,self"}  # values of UCX_TLS
LATENCY_LIMITS = {"shared memory": 0.3, "tcp": 0.6}  # ms
THROUGHPUT_LIMIT, IDLE_LIMIT = 0.6, 0.02
START_SECONDS, TIMEOUT = 180, 60.0


class PipeComm:
    """The part of cl.distributed.comm.Comm that the buffer needs; the parent process forwards the objects."""

    token = bytes(16)

    def __init__(self, rank: int, size: int, pipe, is_local: bool):
        self.rank, self.size, self.pipe, self.is_local, self.waits = rank, size, pipe, is_local, Waits()

    def gather(self, content) -> list:
        self.pipe.send(("gather", content))
        return self.pipe.recv()

    def meet(self) -> None:
        self.gather(None)


def rank_main(rank: int, size: int, pipe, is_local: bool, job: Callable, options: dict) -> None:
    try:
        torch.set_num_threads(1)
        pipe.send(("result", job(PipeComm(rank, size, pipe, is_local), **options)))
    except BaseException:
        pipe.send(("error", traceback.format_exc()))


def run_ranks(size: int, tls: str | None, job: Callable, pythons: Sequence[Path] = (), **options) -> list:
    """Run `job(comm, **options)` in each of `size` new processes; returns their results.

    `pythons` start Python, each on a host of its own, and the ranks take turns at them; else all are on this one.
    """
    before = os.environ.pop("UCX_TLS", None)
    if tls:
        os.environ["UCX_TLS"] = tls
    context = multiprocessing.get_context("spawn")  # forked processes would share torch's threads
    resource_tracker.ensure_running()  # here, and not where the first rank is
    pipes, processes = [], []
    try:
        for rank in range(size):
            ours, theirs = context.Pipe()
            context.set_executable(str(pythons[rank % len(pythons)]) if pythons else sys.executable)
            words = (rank, size, theirs, not pythons, job, options)
            process = context.Process(target=rank_main, args=words, daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        while True:
            words = []
            for rank, pipe in enumerate(pipes):
                if not pipe.poll(START_SECONDS):
                    raise RuntimeError(f"rank {rank} of {job.__name__} has not answered for {START_SECONDS} s")
                words.append(pipe.recv())
            for kind, content in words:
                if kind == "error":
                    raise RuntimeError(f"a rank of {job.__name__} failed:\n{content}")
            contents = [content for _, content in words]
            if words[0][0] == "result":
                return contents
            for pipe in pipes:
                pipe.send(contents)
    finally:
        context.set_executable(sys.executable)
        os.environ.pop("UCX_TLS", None)
        if before is not None:
            os.environ["UCX_TLS"] = before
        for process in processes:
            process.join(5)
            if process.is_alive():
                process.kill()


# ---- records that can be checked ------------------------------------------------------------------------------------


def make_records(shape: tuple[int, ...], dtype: torch.dtype, first: int, count: int) -> dict[str, torch.Tensor]:
    """Records numbered from `first`; `task` is the number, which determines the other fields."""
    numbers = torch.arange(first, first + count)
    return {"x": pictures(numbers, shape, dtype), "y": numbers % CLASSES, "task": numbers}


def pictures(numbers: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    size = torch.Size(shape).numel()
    pattern = torch.arange(size) * 7 % 241
    return (pattern + numbers[:, None] * 13).remainder(251).to(dtype).view(-1, *shape)


def check(records, wanted: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    numbers = records["task"]
    assert len(records) == wanted == len(numbers.unique()), "a record is missing or occurs twice"
    assert torch.equal(records["y"], numbers % CLASSES), "labels of other records"
    assert torch.equal(records["x"], pictures(numbers, shape, dtype)), "pictures of other records"


def full_buffer(comm, capacity: int, shape: tuple[int, ...], dtype: torch.dtype) -> NativeBuffer:
    """A memory of `capacity` records in total, numbered consecutively over the ranks."""
    fields = [Field("x", shape, dtype), Field("y", (), torch.int64), Field("task", (), torch.int64)]
    buffer = NativeBuffer(capacity, "reservoir", "uniform", fields, CLASSES, 0, CPU, comm, TIMEOUT)
    own = capacity // comm.size
    for start in range(0, own, 100):
        buffer.add(make_records(shape, dtype, comm.rank * own + start, min(100, own - start)))
    return buffer


# ---- the parts ------------------------------------------------------------------------------------------------------


def latency(comm, steps: int) -> list[float]:
    """Seconds of each step on this rank."""
    shape, dtype, n = (3, 32, 32), torch.float32, 32
    buffer = full_buffer(comm, 1000, shape, dtype)
    batch = make_records(shape, dtype, 10**6 + comm.rank * 1000, n)
    times = []
    for step in range(steps + 100):
        started = time.perf_counter()
        buffer.add(batch)
        buffer.request(n)
        records = buffer.receive()
        times.append(time.perf_counter() - started)
        if step % 100 == 0:
            numbers = records["task"]
            assert torch.equal(records["y"], numbers % CLASSES), "labels of other records"
            assert torch.equal(records["x"], pictures(numbers, shape, dtype)), "pictures of other records"
    buffer.close()
    return times[100:]  # without the warm-up


def throughput(comm, rounds: int, draws: int, sockets: bool) -> dict[str, list[float]]:
    """Bytes per second of this rank in each round, for the buffer and for its peers."""
    shape, dtype, n, capacity = (3, 224, 224), torch.uint8, 64, 1000
    buffer = full_buffer(comm, capacity, shape, dtype)
    volume = n * torch.Size(shape).numel()
    peer = Sockets(comm, volume // 2) if sockets else Copies(comm, volume, capacity // comm.size * volume // n)
    rates = {name: [] for name in ("draw", "crossed", *peer.names)}
    for round in range(rounds + 1):  # the first warms up
        crossed = 0
        comm.meet()
        started = time.perf_counter()
        for _ in range(draws):
            buffer.request(n)
            records = buffer.receive()
            crossed += int((records.ids >> 52 != comm.rank).sum())
        seconds = time.perf_counter() - started
        check(records, n, shape, dtype)
        found = {"draw": draws * volume / seconds, "crossed": crossed * volume / n / seconds, **peer.measure(draws)}
        for name, rate in found.items() if round else ():
            rates[name].append(rate)
    comm.meet()
    buffer.close()
    return rates


class Copies:
    """Plain copies into reused memory, by both ranks at once and by one alone."""

    names = ("at once", "alone")

    def __init__(self, comm, volume: int, pool: int):
        self.comm, self.volume = comm, volume
        self.source = torch.randint(0, 256, (max(pool, volume),), dtype=torch.uint8)
        self.target = torch.zeros(volume, dtype=torch.uint8)

    def copy(self, times: int) -> float:
        places = self.source.numel() // self.volume
        started = time.perf_counter()
        for i in range(times):
            ctypes.memmove(self.target.data_ptr(), self.source.data_ptr() + i % places * self.volume, self.volume)
        return times * self.volume / (time.perf_counter() - started)

    def measure(self, times: int) -> dict[str, float]:
        self.comm.meet()
        both = self.copy(times)
        self.comm.meet()
        alone = self.copy(times) if self.comm.rank == 0 else 0.0
        self.comm.meet()
        return {"at once": both, "alone": self.comm.gather(alone)[0]}


class Sockets:
    """Two sockets between the two ranks, in both directions at once and in one."""

    names = ("at once", "alone")

    def __init__(self, comm, volume: int, address: str = "127.0.0.1"):
        self.comm = comm
        self.outgoing = np.ones(volume, dtype=np.uint8)
        self.incoming = memoryview(bytearray(volume))
        if comm.rank == 0:
            listener = socket.create_server((address, 0))
            comm.gather(listener.getsockname()[1])
            self.socket, _ = listener.accept()
            listener.close()
        else:
            self.socket = socket.create_connection((address, comm.gather(None)[0]))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, times: int) -> None:
        for _ in range(times):
            self.socket.sendall(self.outgoing)

    def receive(self, times: int) -> None:
        for _ in range(times):
            left = self.incoming
            while left:
                left = left[self.socket.recv_into(left) :]

    def measure(self, times: int) -> dict[str, float]:
        self.comm.meet()
        started = time.perf_counter()
        thread = threading.Thread(target=self.send, args=(times,))
        thread.start()
        self.receive(times)
        thread.join()
        both = time.perf_counter() - started
        self.comm.meet()
        started = time.perf_counter()
        (self.send if self.comm.rank == 0 else self.receive)(times)
        alone = time.perf_counter() - started
        slowest = max(self.comm.gather(alone))
        return {name: times * self.outgoing.nbytes / s for name, s in zip(self.names, (both, slowest))}


def idle(comm, seconds: float) -> float:
    """Fraction of a core that the buffer's thread uses while it is idle."""
    shape, dtype = (3, 32, 32), torch.float32
    buffer = full_buffer(comm, 1000, shape, dtype)
    for _ in range(10):
        buffer.request(32)
        check(buffer.receive(), 32, shape, dtype)
    time.sleep(0.2)
    before = buffer.statistics().thread_cpu_seconds
    time.sleep(seconds)
    used = buffer.statistics().thread_cpu_seconds - before
    comm.meet()
    buffer.close()
    return used / seconds


def scaling(comm, steps: int) -> dict:
    """Messages and bytes that this rank sends per step, and how often it draws each record."""
    shape, dtype, n, share = (3, 32, 32), torch.uint8, 32, 64
    buffer = full_buffer(comm, share * comm.size, shape, dtype)
    comm.meet()
    drawn = torch.zeros(share * comm.size, dtype=torch.int64)
    before = buffer.statistics()
    for step in range(steps):
        buffer.request(n)
        records = buffer.receive()
        drawn[records["task"]] += 1
        if step % 50 == 0:
            check(records, n, shape, dtype)
    comm.meet()  # so that the last draw of the other ranks is counted
    after = buffer.statistics()
    least = n * (comm.size - 1) / comm.size * (torch.Size(shape).numel() + 16)
    comm.meet()
    buffer.close()
    return {
        "messages": (after.messages_sent - before.messages_sent) / steps,
        "bytes": (after.bytes_sent - before.bytes_sent) / steps,
        "least": least,
        "drawn": drawn.tolist(),
        "draws": steps,
        "n": n,
    }


# ---- figures --------------------------------------------------------------------------------------------------------


def show_latency(steps: int) -> None:
    print("latency of a small draw, ms     median    p99    limit")
    for wire, tls in WIRES.items():
        of_ranks = run_ranks(2, tls, latency, steps=steps)
        times = sorted(1e3 * seconds for of_rank in of_ranks for seconds in of_rank)
        median, p99 = times[len(times) // 2], times[len(times) * 99 // 100]
        print(f"  {wire:28} {median:7.3f} {p99:7.3f}  {LATENCY_LIMITS[wire]:6.1f}")


def show_throughput(rounds: int, draws: int) -> None:
    print("throughput per rank, MB/s        draw  at once    alone   of at once (low to high)   of alone    limit")
    for wire, tls in WIRES.items():
        of_ranks = run_ranks(2, tls, throughput, rounds=rounds, draws=draws, sockets=tls is not None)
        # The slower rank counts, because the ranks wait for each other in every draw.
        counted = "crossed" if tls else "draw"
        rates = {key: [min(pair) for pair in zip(*(rank[key] for rank in of_ranks))] for key in of_ranks[0]}
        ours, both, alone = (1e-6 * statistics.median(rates[key]) for key in (counted, "at once", "alone"))
        ratios = sorted(a / b for a, b in zip(rates[counted], rates["at once"]))
        single = statistics.median(a / b for a, b in zip(rates[counted], rates["alone"]))
        print(
            f"  {wire + (', crossed' if tls else ''):26} {ours:8.0f} {both:8.0f} {alone:8.0f}   "
            f"{100 * statistics.median(ratios):5.1f} % ({100 * ratios[0]:.0f} to {100 * ratios[-1]:.0f})"
            f"          {100 * single:5.1f} %   {100 * THROUGHPUT_LIMIT:.0f} %"
        )


def show_idle(seconds: float) -> None:
    print("CPU of an idle buffer's thread   rank 0   rank 1   limit")
    for wire, tls in WIRES.items():
        shares = run_ranks(2, tls, idle, seconds=seconds)
        print(f"  {wire:28} {100 * shares[0]:6.2f} % {100 * shares[1]:6.2f} %   {100 * IDLE_LIMIT:.0f} %")


def show_scaling(sizes: list[int], steps: int) -> None:
    # Over TCP, because within a host records may not be sent; here every rank represents a host.
    print("sent by a rank per step, draws of 32   messages      bytes    least bytes   over")
    for size in sizes:
        found = run_ranks(size, "tcp,self", scaling, steps=steps)
        messages, sent = (statistics.mean(entry[key] for entry in found) for key in ("messages", "bytes"))
        least = found[0]["least"]
        print(f"  {size:4} ranks {messages:34.2f} {sent:10.0f} {least:14.0f}  {100 * (sent / least - 1):5.2f} %")
    from scipy.stats import chi2

    # Corrected for draws without replacement, in which the counts of records are not independent.
    counts = np.sum([entry["drawn"] for entry in found], axis=0, dtype=np.float64)
    draws, p = size * steps, found[0]["n"] / len(counts)
    statistic = np.sum((counts - draws * p) ** 2) / (draws * p * (1 - p)) * (len(counts) - 1) / len(counts)
    chance = chi2.sf(statistic, len(counts) - 1)
    print(
        f"  sampling policy at {size} ranks, {draws} draws from {len(counts)} records: chi-square {statistic:.0f} "
        f"at {len(counts) - 1} degrees of freedom, p = {chance:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="latency,throughput,idle,scaling")
    parser.add_argument("--steps", type=int, default=2000, help="of latency")
    parser.add_argument("--rounds", type=int, default=7, help="of throughput")
    parser.add_argument("--draws", type=int, default=60, help="in a round of throughput")
    parser.add_argument("--sizes", default="2,4,8,16", help="numbers of ranks of scaling")
    arguments = parser.parse_args()
    parts = {
        "latency": lambda: show_latency(arguments.steps),
        "throughput": lambda: show_throughput(arguments.rounds, arguments.draws),
        "idle": lambda: show_idle(3.0),
        "scaling": lambda: show_scaling([int(size) for size in arguments.sizes.split(",")], 200),
    }
    names = arguments.parts.split(",")
    if unknown := set(names) - parts.keys():
        parser.error(f"--parts has unknown names {', '.join(sorted(unknown))}; valid: {', '.join(parts)}")
    for name in names:
        parts[name]()


if __name__ == "__main__":
    main()
