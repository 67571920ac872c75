"""What remerge's training loop costs over a bare PyTorch loop on a GPU, with networks and batches as in the papers.

    python benchmarks/gpu_training.py [--rounds 5] [--seconds 0.8] [--case NAME] [--device cuda] [--json FILE]

All training data are on the device. The bare loop of `er` and `derpp` has batches of replayed samples lying ready there
too; remerge draws them from `buffer=native` with 5000 records in host memory. The loops are timed in turn in one
process, and the ratios are taken round by round. The bare loop runs two ways: as remerge does (deterministic
algorithms, so that runs repeat to the bit), and with torch's defaults.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cl.buffers.native import NativeBuffer
from cl.data.rows import Rows
from cl.data.transforms import BatchTransform
from cl.distributed.comm import Comm, ReduceOptions
from cl.networks.backbones import mlp, resnet_cifar, timm_model
from cl.reporting.history import History
from cl.reporting.recorder import Recorder
from cl.run.device import choose_device, repeatable
from cl.run.trainer import Trainer
from cl.scenarios.outputs import TaskOutputs
from cl.step.schedules import Constant
from cl.step.updater import PRECISIONS, Updater
from cl.strategies.context import StrategyContext
from cl.strategies.derpp import Derpp
from cl.strategies.er import Er
from cl.strategies.finetune import Finetune

CLASSES, CAPACITY, LR = 100, 5000, 0.01


@dataclass
class Case:
    """A network with its pictures, batch and precision."""

    name: str
    make: Callable
    side: int
    batch: int
    precision: str
    channels_last: bool
    rows: int  # of training data
    capacity: int = CAPACITY
    compiled: str | None = None  # mode of torch.compile

    def prepare(self, device: torch.device) -> "Case":
        """Make the data: new samples, and those that the bare loop replays."""
        self.device = device
        self.layout = torch.channels_last if self.channels_last else torch.contiguous_format
        self.new, self.ready = (self.samples(self.rows, seed) for seed in (1, 2))
        return self

    def samples(self, count: int, seed: int) -> Rows:
        generator = torch.Generator(self.device).manual_seed(seed)
        options = {"device": self.device, "generator": generator}
        x = torch.randint(0, 256, (count, 3, self.side, self.side), dtype=torch.uint8, **options)
        y = torch.randint(0, CLASSES, (count,), **options)
        return Rows({"x": x, "y": y, "task": torch.zeros_like(y)})

    def network(self):
        torch.manual_seed(0)
        model = self.make((3, self.side, self.side), CLASSES).to(self.device)
        if self.channels_last:
            model = model.to(memory_format=torch.channels_last)
        return model, torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)

    def autocast(self):
        dtype = PRECISIONS[self.precision]
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)


class Bare:
    """The bare loop of a method."""

    def __init__(self, case: Case, method: str):
        self.case, self.method = case, method
        self.model, self.optimizer = case.network()
        self.model.train()
        self.targets = torch.zeros(case.batch, CLASSES, device=case.device)

    def run(self, steps: int) -> float:
        case, batch = self.case, self.case.batch
        order = torch.randperm(len(case.new), device=case.device)
        chosen = [order[i : i + batch] for i in range(0, len(order) - batch + 1, batch)]
        started = now(case.device)
        for step in range(steps):
            which = chosen[step % len(chosen)]
            x, y = case.new.x[which], case.new.y[which]
            start = step * batch % (len(case.ready) - batch + 1)
            with case.autocast():
                loss = self.loss(x, y, case.ready.x[start : start + batch], case.ready.y[start : start + batch])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return now(case.device) - started

    def loss(self, x, y, x2, y2):
        if self.method == "finetune":
            return F.cross_entropy(self.forward(x), y)
        if self.method == "er":
            return F.cross_entropy(self.forward(torch.cat((x, x2))), torch.cat((y, y2)))
        loss = F.cross_entropy(self.forward(x), y) + 0.5 * F.cross_entropy(self.forward(x2), y2)
        return loss + 0.5 * F.mse_loss(self.forward(x2), self.targets)

    def forward(self, x):
        return self.model(x.float().mul_(1 / 255).contiguous(memory_format=self.case.layout))


class Remerge:
    """The same by remerge."""

    def __init__(self, case: Case, method: str):
        device, batch = case.device, case.batch
        self.case = case
        model, optimizer = case.network()
        strategy = {"finetune": Finetune, "er": lambda: Er(batch), "derpp": lambda: Derpp(batch, 0.5, 0.5)}[method]()
        transform = BatchTransform([], None, None, 3, device, case.channels_last)
        updater = Updater(optimizer, model, device, Comm(), ReduceOptions(), case.precision)
        self.buffer = None
        if method != "finetune":
            fields = strategy.fields((3, case.side, case.side), (CLASSES,))
            self.buffer = NativeBuffer(case.capacity, "reservoir", "uniform", fields, CLASSES, 0, device, Comm())
            self.fill(fields)
        network = model if case.compiled is None else torch.compile(model, mode=case.compiled)
        outputs = TaskOutputs(CLASSES)
        strategy.setup(
            StrategyContext(model, updater, transform, outputs, network=network, buffer=self.buffer, fewest_samples=2)
        )
        model.train()
        self.trainer = Trainer(strategy, Constant(), batch, 0, Recorder(History([], None)))
        self.stage = 0

    def fill(self, fields) -> None:
        rows = self.case.ready
        while len(self.buffer) < self.case.capacity:
            columns = dict(rows.columns)
            columns["logits"] = torch.zeros(len(rows), CLASSES, device=self.case.device)
            self.buffer.add({field.name: columns[field.name] for field in fields})

    def run(self, steps: int) -> float:
        started = now(self.case.device)
        self.trainer.train(self.case.new, self.stage, steps)
        self.stage += 1
        return now(self.case.device) - started


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def compare(case: Case, method: str, rounds: int, seconds: float) -> dict:
    """Times and ratios of one method in one case; they are printed, too."""
    loops = {
        "remerge": (Remerge, lambda: repeatable(case.device)),
        "bare, deterministic": (Bare, lambda: repeatable(case.device)),
        "bare": (Bare, nullcontext),
    }
    made, times = {}, {name: [] for name in loops}
    for name, (make, context) in loops.items():
        with context():
            made[name] = make(case, method)
            made[name].run(8)
            made[name].run(8)
    per_step = made["bare"].run(8) / 8
    steps = max(8, int(seconds / per_step))
    waited = wait_of(made["remerge"])
    for _ in range(rounds):
        for name, (_, context) in loops.items():
            with context():
                times[name].append(1e3 * made[name].run(steps) / steps)
    after = wait_of(made["remerge"])
    medians = {name: statistics.median(values) for name, values in times.items()}
    found = {"case": case.name, "method": method, "ms": medians, "ratios": {}}
    print(
        f"{case.name} {method}: ms per step ({steps} steps): " + "  ".join(f"{n} {t:.3f}" for n, t in medians.items())
    )
    for theirs in ("bare, deterministic", "bare"):
        ratios = sorted(a / b for a, b in zip(times["remerge"], times[theirs]))
        found["ratios"][theirs] = [statistics.median(ratios), ratios[0], ratios[-1]]
        print(f"    over {theirs}: {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")
    samples = case.batch * {"finetune": 1, "er": 2, "derpp": 3}[method]
    found["images_per_second"] = 1e3 * samples / medians["remerge"]
    if waited is not None:
        found["wait_us"] = 1e6 * (after - waited) / (rounds * steps)
        print(f"    waited for replay {found['wait_us']:.1f} us per step", flush=True)
    return found


def wait_of(loop: Remerge) -> float | None:
    return None if loop.buffer is None else loop.buffer.wait_seconds


def cifar(shape: tuple[int, int, int], outputs: int) -> torch.nn.Module:
    return resnet_cifar(shape, outputs, "resnet18", None, {"zero_init_last": False})


def large(shape: tuple[int, int, int], outputs: int) -> torch.nn.Module:
    return timm_model(shape, outputs, "resnet50", None, {"zero_init_last": False})


CASES = [
    Case("resnet18 32x32 batch 32 fp32", cifar, 32, 32, "fp32", False, 10_000),
    Case("resnet18 32x32 batch 256 fp32", cifar, 32, 256, "fp32", False, 10_000),
    Case("resnet18 32x32 batch 256 bf16 channels_last", cifar, 32, 256, "bf16", True, 10_000),
    Case("resnet50 224x224 batch 64 bf16 channels_last", large, 224, 64, "bf16", True, 1_000, 1_000),
]
TINY = [Case("mlp 16x16 batch 4 fp32", lambda shape, n: mlp(shape, n, [8]), 16, 4, "fp32", False, 64, 100)]


def parser_of(doc: str, rounds: int, seconds: float) -> argparse.ArgumentParser:
    """The options that all scripts for a GPU have."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seconds", type=float, default=seconds)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a small network in place of the cases")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser


def main() -> None:
    parser = parser_of(__doc__, rounds=5, seconds=0.8)
    parser.add_argument("--case", default="")
    parser.add_argument("--methods", default="finetune,er,derpp")
    arguments = parser.parse_args()
    device = choose_device(arguments.device, 0)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        print(torch.cuda.get_device_name(device), "torch", torch.__version__)
    found = []
    for case in TINY if arguments.tiny else CASES:
        if arguments.case in case.name:
            case.prepare(device)
            for method in arguments.methods.split(","):
                found.append(compare(case, method, arguments.rounds, arguments.seconds))
                keep(arguments.json, found)
            del case.new, case.ready


def keep(file: Path | None, found: list[dict]) -> None:
    """Write the figures so far: whoever runs out of time has those."""
    if file is not None:
        file.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
