"""The cost of remerge's training loop, compared with a bare PyTorch loop with the same arithmetic.

    python benchmarks/training_loop.py [--rounds 7] [--networks mlp,resnet18] [--steps N] [--batch-size 10] [--profile]

Both train by SGD on one thread: the MLP 784-100-100-10 (2,000 steps, plain), and ResNet-18 for 32x32 pictures (5 steps,
with momentum and weight decay). The bare loop has all new and replayed samples in memory in advance: per step it
slices, concatenates, scales, and does forward, backward and the optimizer step. remerge's loop is `Trainer.train` with
reservoir, draws, counted passes, progress bar and metrics. The two are timed in turn in one process, so that changes of
the machine's speed affect both; the ratio is taken pair by pair.
Limits for ER at 10 + 10 samples: 1.05 with the MLP, 1.02 with ResNet-18.
"""

import argparse
import cProfile
import io
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cl.buffers.native import NativeBuffer
from cl.data.loader import num_batches
from cl.data.rows import Rows
from cl.data.transforms import BatchTransform
from cl.distributed.comm import Comm, ReduceOptions
from cl.networks.backbones import mlp, resnet_cifar
from cl.reporting.history import History
from cl.reporting.metrics_file import MetricsFile
from cl.reporting.progress import Progress
from cl.reporting.recorder import Recorder
from cl.run.trainer import Trainer
from cl.scenarios.outputs import TaskOutputs
from cl.step.passes import Passes
from cl.step.schedules import Constant
from cl.step.updater import Updater
from cl.strategies.context import StrategyContext
from cl.strategies.derpp import Derpp
from cl.strategies.er import Er

CLASSES, CAPACITY = 10, 500
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """A network: the shape of its samples, how it is made, options of SGD, steps of a timing, the limit for ER."""

    shape: tuple[int, int, int]
    make: Callable[[], torch.nn.Module]
    sgd: dict[str, float]
    steps: int
    limit: float

    def network(self) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = self.make()
        return model, torch.optim.SGD(model.parameters(), **self.sgd)


CASES = {
    "mlp": Case((1, 28, 28), lambda: mlp((1, 28, 28), CLASSES, [100, 100]), {"lr": 0.01}, 2000, 1.05),
    "resnet18": Case(
        (3, 32, 32), lambda: resnet_cifar((3, 32, 32), CLASSES, "resnet18", None, {}),
        {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}, 5, 1.02,
    ),
}  # fmt: skip


def samples(shape: tuple[int, int, int], count: int, seed: int) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    y = torch.randint(0, CLASSES, (count,), generator=generator)
    return Rows({"x": x, "y": y, "task": torch.zeros_like(y)})


def bare_er(case: Case, new: Rows, replayed: Rows, batch_size: int) -> float:
    model, optimizer = case.network()
    started = time.perf_counter()
    for start in range(0, len(new), batch_size):
        part = slice(start, start + batch_size)
        x = torch.cat((new.x[part], replayed.x[part])).float().mul_(1 / 255)
        loss = F.cross_entropy(model(x), torch.cat((new.y[part], replayed.y[part])))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - started


def bare_derpp(case: Case, new: Rows, replayed: Rows, batch_size: int) -> float:
    model, optimizer = case.network()
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


def remerge(case: Case, strategy, new: Rows, batch_size: int, folder: Path) -> float:
    model, optimizer = case.network()
    passes = Passes()
    passes.watch(model)
    transform = BatchTransform([], None, None, case.shape[0], CPU)
    fields = strategy.fields(case.shape, (CLASSES,))
    buffer = NativeBuffer(CAPACITY, "reservoir", "uniform", fields, CLASSES, 0, CPU, Comm())
    updater = Updater(optimizer, model, CPU, Comm(), ReduceOptions())
    strategy.setup(StrategyContext(model, updater, transform, TaskOutputs(CLASSES), buffer=buffer, passes=passes))
    # So that the first step replays as much as all others.
    buffer.add({field.name: torch.zeros(batch_size, *field.shape, dtype=field.dtype) for field in fields})
    for size in strategy.draw_sizes:
        buffer.request(size)
    progress = Progress("", len(new) // batch_size, 0, True)
    metrics = MetricsFile(folder / "metrics.csv")
    history = History([], None)
    trainer = Trainer(strategy, Constant(), batch_size, 0, Recorder(history, progress, metrics))
    started = time.perf_counter()
    trainer.train(new, 0, num_batches(len(new), batch_size))
    seconds = time.perf_counter() - started
    progress.close()
    return seconds


def profile(case: Case, batch_size: int, steps: int, folder: Path) -> None:
    """Print where remerge's loop with ER spends its time, after some steps in which modules are still imported."""
    remerge(case, Er(batch_size), samples(case.shape, 2 * batch_size, 0), batch_size, folder)
    found = cProfile.Profile()
    found.runcall(remerge, case, Er(batch_size), samples(case.shape, steps * batch_size, 1), batch_size, folder)
    out = io.StringIO()
    pstats.Stats(found, stream=out).sort_stats("tottime").print_stats(25)
    print(out.getvalue())


def compare(name: str, batch_size: int, steps: int, rounds: int, folder: Path) -> None:
    """Print the ratios of one network."""
    case = CASES[name]
    methods = {
        "er": (bare_er, lambda: Er(batch_size)),
        "derpp": (bare_derpp, lambda: Derpp(batch_size, 0.5, 0.5)),
    }
    new, replayed = (samples(case.shape, steps * batch_size, seed) for seed in (1, 2))
    for method, (bare, make) in methods.items():
        pairs = []
        for _ in range(rounds + 1):
            ours = remerge(case, make(), new, batch_size, folder)
            pairs.append((ours, bare(case, new, replayed, batch_size)))
        ours, theirs = zip(*pairs[1:])  # the first pair warms up
        ratios = sorted(a / b for a, b in pairs[1:])
        micros = [1e6 * statistics.median(times) / steps for times in (ours, theirs)]
        print(
            f"{name} {method}: remerge {micros[0]:.0f} us per step, bare loop {micros[1]:.0f} us; "
            f"ratio {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
            + (f", limit {case.limit}" if method == "er" else ""),
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--networks", default="mlp,resnet18")
    parser.add_argument("--steps", type=int, help="of each timing, else as many as the network's case has")
    parser.add_argument("--batch-size", type=int, default=10)
    parser.add_argument(
        "--profile", action="store_true", help="show where remerge's loop spends its time, instead of ratios"
    )
    arguments = parser.parse_args()
    names = arguments.networks.split(",")
    if unknown := set(names) - CASES.keys():
        parser.error(f"--networks has unknown names {', '.join(sorted(unknown))}; valid: {', '.join(CASES)}")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            steps = arguments.steps or CASES[name].steps
            if arguments.profile:
                profile(CASES[name], arguments.batch_size, steps, Path(folder))
            else:
                compare(name, arguments.batch_size, steps, arguments.rounds, Path(folder))


if __name__ == "__main__":
    main()
