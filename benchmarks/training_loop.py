"""The cost of remerge's training loop, compared with a bare PyTorch loop with the same arithmetic.

    python benchmarks/training_loop.py [--rounds 7] [--steps 2000] [--batch-size 10] [--profile]

Both train the MLP 784-100-100-10 by SGD on one thread. The bare loop has all new and replayed samples in memory in
advance: per step it slices, concatenates, scales, and does forward, backward and the optimizer step. remerge's loop is
`Trainer.train` with ER, reservoir, draws, progress bar and metrics. The two are timed in turn in one process, so that
changes of the machine's speed affect both; the ratio is taken pair by pair.
Limit: 1.3 for ER at 10 + 10 samples.
"""

import argparse
import cProfile
import io
import pstats
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cl.buffers.native import NativeBuffer
from cl.data.loader import num_batches
from cl.data.rows import Rows
from cl.data.transforms import BatchTransform
from cl.distributed.comm import Comm, ReduceOptions
from cl.networks.backbones import mlp
from cl.reporting.history import History
from cl.reporting.metrics_file import MetricsFile
from cl.reporting.progress import Progress
from cl.reporting.recorder import Recorder
from cl.run.trainer import Trainer
from cl.scenarios.outputs import TaskOutputs
from cl.step.schedules import Constant
from cl.step.updater import Updater
from cl.strategies.context import StrategyContext
from cl.strategies.derpp import Derpp
from cl.strategies.er import Er

SHAPE, CLASSES, CAPACITY, LIMIT = (1, 28, 28), 10, 500, 1.3
CPU = torch.device("cpu")


def samples(count: int, seed: int) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8, generator=generator)
    y = torch.randint(0, CLASSES, (count,), generator=generator)
    return Rows({"x": x, "y": y, "task": torch.zeros_like(y)})


def network() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = mlp(SHAPE, CLASSES, [100, 100])
    return model, torch.optim.SGD(model.parameters(), lr=0.01)


def bare_er(new: Rows, replayed: Rows, batch_size: int) -> float:
    model, optimizer = network()
    started = time.perf_counter()
    for start in range(0, len(new), batch_size):
        part = slice(start, start + batch_size)
        x = torch.cat((new.x[part], replayed.x[part])).float().mul_(1 / 255)
        loss = F.cross_entropy(model(x), torch.cat((new.y[part], replayed.y[part])))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - started


def bare_derpp(new: Rows, replayed: Rows, batch_size: int) -> float:
    model, optimizer = network()
    targets = torch.zeros(batch_size, CLASSES)
    started = time.perf_counter()
    for start in range(0, len(new), batch_size):
        part = slice(start, start + batch_size)
        x = torch.cat((new.x[part], replayed.x[part], replayed.x[part])).float().mul_(1 / 255)
        logits, first, second = model(x).split(batch_size)
        loss = F.cross_entropy(logits, new.y[part]) + 0.5 * F.mse_loss(first, targets)
        loss = loss + 0.5 * F.cross_entropy(second, replayed.y[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - started


def remerge(strategy, new: Rows, batch_size: int, folder: Path) -> float:
    model, optimizer = network()
    transform = BatchTransform([], None, None, SHAPE[0], CPU)
    fields = strategy.fields(SHAPE, (CLASSES,))
    buffer = NativeBuffer(CAPACITY, "reservoir", "uniform", fields, CLASSES, 0, CPU, Comm())
    updater = Updater(optimizer, model, CPU, Comm(), ReduceOptions())
    strategy.setup(StrategyContext(model, updater, transform, TaskOutputs(CLASSES), buffer=buffer))
    progress = Progress("", len(new) // batch_size, 0, True)
    metrics = MetricsFile(folder / "metrics.csv")
    history = History([], None)
    trainer = Trainer(strategy, Constant(), batch_size, 0, Recorder(history, progress, metrics))
    started = time.perf_counter()
    trainer.train(new, 0, num_batches(len(new), batch_size))
    seconds = time.perf_counter() - started
    progress.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=10)
    parser.add_argument(
        "--profile", action="store_true", help="show where remerge's loop spends its time, instead of ratios"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    batch_size = arguments.batch_size
    new, replayed = (samples(arguments.steps * batch_size, seed) for seed in (1, 2))
    methods = {
        "er": (bare_er, lambda: Er(batch_size)),
        "derpp": (bare_derpp, lambda: Derpp(batch_size, 0.5, 0.5)),
    }
    with tempfile.TemporaryDirectory() as folder:
        if arguments.profile:
            profile = cProfile.Profile()
            profile.runcall(remerge, Er(batch_size), new, batch_size, Path(folder))
            out = io.StringIO()
            pstats.Stats(profile, stream=out).sort_stats("tottime").print_stats(25)
            print(out.getvalue())
            return
        for name, (bare, make) in methods.items():
            pairs = []
            for _ in range(arguments.rounds + 1):
                pairs.append((remerge(make(), new, batch_size, Path(folder)), bare(new, replayed, batch_size)))
            ours, theirs = zip(*pairs[1:])  # the first pair warms up
            ratios = sorted(a / b for a, b in pairs[1:])
            micros = [1e6 * statistics.median(times) / arguments.steps for times in (ours, theirs)]
            print(
                f"{name}: remerge {micros[0]:.0f} us per step, bare loop {micros[1]:.0f} us; "
                f"ratio {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
                + (f", limit {LIMIT}" if name == "er" else "")
            )


if __name__ == "__main__":
    main()
