"""The cost of the native replay buffer in one process, compared with bare PyTorch operations and common Python code.

    python benchmarks/replay_buffer.py [--rounds 7] [--sizes small,large] [--batches 32,128] [--no-slow]

Records are pictures (5000 of 3x32x32 or 1000 of 3x224x224; uint8 or float32) with label, task and 100 float32 logits.
Everything runs on one core, including the thread of the buffer. The memory is full, and 20 times its capacity was
offered before. Draw: `request` and `receive` of a batch. Add: a batch is offered; about a twentieth of it is stored.

index_select  `torch.index_select(..., out=)` of the same fields into reused memory. Its indices are made in advance, so
              it neither draws nor returns ids. Limit of the draw: 1.0 times its time.
vectorised    A reservoir in numpy and PyTorch: one call of the generator per batch, then `index_copy_` of the stored
              rows. Limit of add: 1.0 times its time.
reference     `cl.buffers.reference`, for comparison.
per sample    Common Python code: a list of samples, a loop with one random number each, and `random.sample` and
              `torch.stack` for a draw. It must take at least 5 times as long for small pictures.

The two parts of a ratio are timed in turn, so that changes of the machine's speed affect both; ratios are taken pair by
pair. Drawn records are checked one by one outside the timed parts.
"""

import argparse
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cl.buffers.base import Field
from cl.buffers.native import NativeBuffer
from cl.buffers.reference import ReferenceBuffer
from cl.distributed.comm import Comm

CPU = torch.device("cpu")
CLASSES, LOGITS, OFFERED = 10, 100, 20  # times the capacity
SIZES = {"small": ((3, 32, 32), 5000), "large": ((3, 224, 224), 1000)}
LIMIT, SLOW_LIMIT = 1.0, 5.0
BLOCK_SECONDS = 0.03  # of one timing


def make_records(numbers: torch.Tensor, fields: list[Field]) -> dict[str, torch.Tensor]:
    """Records whose content follows from their number, which is stored in `task`."""
    records = {"y": numbers % CLASSES, "task": numbers}
    for name, steps in (("x", 7), ("logits", 3)):
        field = next(field for field in fields if field.name == name)
        pattern = torch.arange(torch.Size(field.shape).numel(), dtype=torch.int32) * steps % 241
        values = (pattern + (numbers[:, None] * 13 % 251).int()).remainder_(251)
        records[name] = values.to(field.dtype).view(-1, *field.shape)
    return {field.name: records[field.name] for field in fields}


def check(records: dict[str, torch.Tensor], n: int, fields: list[Field]) -> None:
    numbers = records["task"]
    assert len(numbers) == n, f"got {len(numbers)} records, expected {n}"
    for name, expected in make_records(numbers, fields).items():
        assert torch.equal(records[name], expected), f"{name} of another record"


class IndexSelect:
    """Only the gather: columns of the same records, with indices made in advance."""

    def __init__(self, fields: list[Field], capacity: int, batch: int):
        self.columns = {f.name: torch.zeros(capacity, *f.shape, dtype=f.dtype) for f in fields}
        self.out = {f.name: torch.empty(batch, *f.shape, dtype=f.dtype) for f in fields}
        self.indices = [torch.randint(0, capacity, (batch,)) for _ in range(64)]
        self.turn = 0

    def draw(self) -> dict[str, torch.Tensor]:
        self.turn = (self.turn + 1) % len(self.indices)
        for name, column in self.columns.items():
            torch.index_select(column, 0, self.indices[self.turn], out=self.out[name])
        return self.out


class Vectorised:
    """Reservoir sampling (Vitter's algorithm R), a batch at a time."""

    def __init__(self, columns: dict[str, torch.Tensor], offered: int):
        self.columns, self.offered = columns, offered
        self.capacity = len(columns["y"])
        self.generator = np.random.default_rng(0)

    def add(self, records: dict[str, torch.Tensor]) -> None:
        n = len(records["y"])
        slots = self.generator.integers(0, np.arange(self.offered + 1, self.offered + n + 1))
        self.offered += n
        rows = np.flatnonzero(slots < self.capacity)
        if not len(rows):
            return
        slots, rows = torch.from_numpy(slots[rows]), torch.from_numpy(rows)
        for name, column in self.columns.items():
            column.index_copy_(0, slots, records[name].index_select(0, rows))


class PerSample:
    """A list of samples and a loop."""

    def __init__(self, samples: list[tuple], offered: int, names: list[str], batch: int):
        self.samples, self.offered, self.names, self.batch = samples, offered, names, batch

    def add(self, records: dict[str, torch.Tensor]) -> None:
        for sample in zip(*(records[name] for name in self.names)):
            self.offered += 1
            slot = random.randrange(self.offered)
            if slot < len(self.samples):
                self.samples[slot] = tuple(value.clone() for value in sample)

    def draw(self) -> dict[str, torch.Tensor]:
        drawn = random.sample(self.samples, self.batch)
        return {name: torch.stack(values) for name, values in zip(self.names, zip(*drawn))}


def seconds(call: Callable[[], object], times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - started) / times


def compare(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float, list[float]]:
    """Median microseconds of both, and the ratios ours / theirs of all rounds, sorted."""
    times = [max(1, int(BLOCK_SECONDS / seconds(call, 2))) for call in (ours, theirs)]
    pairs = [(seconds(ours, times[0]), seconds(theirs, times[1])) for _ in range(rounds + 1)][1:]  # the first warms up
    medians = [1e6 * statistics.median(of_one) for of_one in zip(*pairs)]
    return *medians, sorted(a / b for a, b in pairs)


def show(what: str, peer: str, found: tuple[float, float, list[float]], limit: str = "") -> None:
    ours, theirs, ratios = found
    print(
        f"  {what:5} {ours:9.1f} us   {peer:13} {theirs:9.1f} us   ratio {statistics.median(ratios):6.3f} "
        f"({ratios[0]:.3f} to {ratios[-1]:.3f}){limit}",
        flush=True,
    )


def measure(size: str, dtype: torch.dtype, batch: int, rounds: int, slow: bool) -> None:
    shape, capacity = SIZES[size]
    int64 = torch.int64
    fields = [Field("x", shape, dtype), Field("y", (), int64), Field("task", (), int64)]
    fields.append(Field("logits", (LOGITS,), torch.float32))
    print(f"{size} pictures {shape} {dtype}, {capacity} records, batches of {batch}")
    batches = [make_records(torch.arange(i * batch, (i + 1) * batch), fields) for i in range(4)]
    options = (capacity, "reservoir", "uniform", fields, CLASSES, 0, CPU, Comm())
    steps = OFFERED * capacity // batch

    def fill(buffer):
        for step in range(steps):
            buffer.add(batches[step % len(batches)])
        return buffer

    def draw(buffer) -> Callable[[], object]:
        def call():
            buffer.request(batch)
            return buffer.receive()

        return call

    def add(buffer) -> Callable[[], object]:
        turn = 0

        def call():
            nonlocal turn
            turn = (turn + 1) % len(batches)
            buffer.add(batches[turn])

        return call

    native = fill(NativeBuffer(*options))
    gather = IndexSelect(fields, capacity, batch)
    for start in range(0, capacity, batch):
        for name, column in gather.columns.items():
            column[start : start + batch] = batches[start // batch % len(batches)][name][: capacity - start]
    vectorised = Vectorised(gather.columns, steps * batch)
    check(draw(native)().columns, batch, fields)
    check(gather.draw(), batch, fields)
    show("draw", "index_select", compare(draw(native), gather.draw, rounds), f", limit {LIMIT}")
    show("add", "vectorised", compare(add(native), add(vectorised), rounds), f", limit {LIMIT}")
    if slow:
        names = [field.name for field in fields]
        rows = {name: column.clone().unbind() for name, column in gather.columns.items()}
        per_sample = PerSample(list(zip(*(rows[name] for name in names))), steps * batch, names, batch)
        check(per_sample.draw(), batch, fields)
        limit = f", limit {1 / SLOW_LIMIT}" if size == "small" else ""
        show("draw", "per sample", compare(draw(native), per_sample.draw, rounds), limit)
        show("add", "per sample", compare(add(native), add(per_sample), rounds), limit)
        del per_sample, rows
        reference = fill(ReferenceBuffer(*options))
        show("draw", "reference", compare(draw(native), draw(reference), rounds))
        show("add", "reference", compare(add(native), add(reference), rounds))
    check(draw(native)().columns, batch, fields)
    native.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sizes", default="small,large")
    parser.add_argument("--batches", default="32,128")
    parser.add_argument("--no-slow", action="store_true", help="leave out per sample and reference")
    arguments = parser.parse_args()
    sizes = arguments.sizes.split(",")
    if unknown := set(sizes) - SIZES.keys():
        parser.error(f"--sizes has unknown names {', '.join(sorted(unknown))}; valid: {', '.join(SIZES)}")
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.manual_seed(0)
    random.seed(0)
    for size in sizes:
        for dtype in (torch.uint8, torch.float32):
            for batch in map(int, arguments.batches.split(",")):
                measure(size, dtype, batch, arguments.rounds, not arguments.no_slow)


if __name__ == "__main__":
    main()
