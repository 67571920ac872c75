"""What a checkpoint within a task costs: how long the step waits, and how much slower it is while one is written.

    python benchmarks/checkpoint.py [--records 20000] [--hidden 2000] [--steps 400] [--rounds 5]

An MLP is trained by SGD with momentum and ER with a native memory of CIFAR-sized records, on one thread. The pause of a
save is compared with a copy of the same bytes, the steps during a save with those without one. Limits: 1.5 copies for
the pause, 1 % of training at the default interval for everything together.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cl.buffers.native import NativeBuffer
from cl.data.rows import Rows
from cl.data.transforms import BatchTransform
from cl.distributed.comm import Comm, ReduceOptions
from cl.networks.backbones import mlp
from cl.run.checkpoint import Checkpoints, Position
from cl.run.saving import Saver
from cl.run.state import Generators, StateTree
from cl.scenarios.outputs import TaskOutputs
from cl.step.updater import Updater
from cl.strategies.context import StrategyContext
from cl.strategies.er import Er

SHAPE, CLASSES, CPU = (3, 32, 32), 10, torch.device("cpu")
PAUSE_LIMIT, SHARE_LIMIT, INTERVAL = 1.5, 0.01, 600  # copies; of the time; seconds, checkpoint.every=10min


def samples(count: int) -> Rows:
    generator = torch.Generator().manual_seed(count)
    x = torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8, generator=generator)
    y = torch.randint(0, CLASSES, (count,), generator=generator)
    return Rows({"x": x, "y": y, "task": torch.zeros_like(y)})


def size(state) -> int:
    if isinstance(state, torch.Tensor):
        return state.nbytes
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return sum(map(size, parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=20000)
    parser.add_argument("--hidden", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=400, help="steps without a save before and after each")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, strategy = mlp(SHAPE, CLASSES, [given.hidden, given.hidden]), Er(10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    fields = strategy.fields(SHAPE, (CLASSES,))
    buffer = NativeBuffer(given.records, "reservoir", "uniform", fields, CLASSES, 0, CPU, Comm())
    updater = Updater(optimizer, model, CPU, Comm(), ReduceOptions())
    transform = BatchTransform([], None, None, SHAPE[0], CPU)
    strategy.setup(StrategyContext(model, updater, transform, TaskOutputs(CLASSES), buffer=buffer))
    buffer.add(samples(given.records).columns)
    new = list(samples(1000).split(100))
    tree = StateTree()
    for name, part in (("network", model), ("updater", updater), ("strategy", strategy)):
        tree.register(name, part)
    tree.register("generators", Generators(CPU), own=True)
    tree.register_stored("buffer", buffer)

    def step(number: int) -> float:
        started = time.perf_counter()
        strategy.observe(new[number % len(new)])
        return time.perf_counter() - started

    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), tree, Comm(), CPU)
        hook = Saver(checkpoints, Comm(), "10min", Path(folder)).within(0, 10**9, "a task")
        for number in range(20):
            step(number)
        network_bytes = size(tree.shared_state())
        total = network_bytes + buffer.nbytes
        ratios, slower, writing_seconds = [], [], []
        for at in range(given.rounds):
            quiet = [step(number) for number in range(given.steps)]
            source = torch.ones(total, dtype=torch.uint8)
            started = time.perf_counter()
            copy = source.clone()
            copied = time.perf_counter() - started
            del source, copy
            started = time.perf_counter()
            checkpoints.save(Position(0, at + 1, 10**9))
            pause = time.perf_counter() - started
            during = []
            while checkpoints.busy:
                during.append(step(len(during)))
            writing_seconds.append(time.perf_counter() - started - pause)
            ratios.append(pause / copied)
            slower.append(statistics.fmean(during) / statistics.median(quiet) if during else 1.0)
            print(
                f"  pause {1e3 * pause:.0f} ms, a copy {1e3 * copied:.0f} ms; {len(during)} steps while it was written"
            )
        checkpoints.close()
        rounds = 200_000
        started = time.perf_counter()
        for _ in range(rounds):
            hook(1)
        each = (time.perf_counter() - started) / rounds
    median_step = statistics.median(quiet)
    lost = statistics.median(w * (1 - 1 / max(s, 1.0)) for w, s in zip(writing_seconds, slower))
    share = (pause + lost) / INTERVAL + each / median_step
    print(
        f"{total / 1e6:.0f} MB ({network_bytes / 1e6:.0f} network and optimizer, {buffer.nbytes / 1e6:.0f} memory): "
        f"the pause is {statistics.median(ratios):.2f} copies of these bytes (limit {PAUSE_LIMIT}); steps while it is "
        f"written take {statistics.median(slower):.2f} times as long, for {statistics.median(writing_seconds):.2f} s; "
        f"between saves a step pays {1e9 * each:.0f} ns of {1e6 * median_step:.0f} us; together "
        f"{100 * share:.3f} % of training at checkpoint.every=10min (limit {100 * SHARE_LIMIT:.0f} %)"
    )


if __name__ == "__main__":
    main()
