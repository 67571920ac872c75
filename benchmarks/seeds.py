"""What seeds trained together take over the same seeds one after the other, in one process.

    python benchmarks/seeds.py [--rounds 7] [--seconds 1] [--seeds 10] [--device cpu] [--tiny] [--json FILE]

The MLP 784-100-100-10 with batches of 10 new and as many replayed samples, SGD, on one thread. Both ways begin with the
same trainers (order of samples, memory, rows of metrics) and take turns; the ratio is taken pair by pair. `bare`: loops
of torch alone, with batched matrices for all networks over a loop for each; their samples lie ready.
"""

import statistics
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from gpu_training import keep, now, parser_of

from cl.buffers.native import NativeBuffer
from cl.data.rows import Rows
from cl.data.transforms import BatchTransform
from cl.distributed.comm import Comm, ReduceOptions
from cl.networks.backbones import mlp
from cl.reporting.history import History
from cl.reporting.recorder import Recorder
from cl.run.device import choose_device, repeatable
from cl.run.part import Part
from cl.run.together import train_together
from cl.run.trainer import Trainer
from cl.scenarios.outputs import TaskOutputs
from cl.step.schedules import Constant
from cl.step.updater import Updater
from cl.strategies.context import StrategyContext
from cl.strategies.derpp import Derpp
from cl.strategies.er import Er
from cl.strategies.finetune import Finetune
from cl.strategies.stacked import stack

SHAPE, CLASSES, CAPACITY, BATCH, ROWS, LR = (1, 28, 28), 10, 500, 10, 12_000, 0.01
METHODS = {"finetune": Finetune, "er": lambda: Er(BATCH), "derpp": lambda: Derpp(BATCH, 0.5, 0.5)}


def samples(device: torch.device) -> Rows:
    generator = torch.Generator(device).manual_seed(0)
    options = {"device": device, "generator": generator}
    x = torch.randint(0, 256, (ROWS, *SHAPE), dtype=torch.uint8, **options)
    y = torch.randint(0, CLASSES, (ROWS,), **options)
    return Rows({"x": x, "y": y, "task": torch.zeros_like(y)})


def network(seed: int, device: torch.device, hidden: list[int]) -> torch.nn.Module:
    torch.manual_seed(seed)
    return mlp(SHAPE, CLASSES, hidden).to(device)


class Suite:
    """A trainer for each seed, whose stages are trained one after the other, or together."""

    def __init__(self, method: str, seeds: int, device: torch.device, hidden: list[int], rows: Rows):
        self.device, self.rows, self.stage = device, rows, 0
        self.trainers = [self._trainer(METHODS[method](), seed, hidden) for seed in range(seeds)]

    def _trainer(self, strategy, seed: int, hidden: list[int]) -> Trainer:
        device, model = self.device, network(seed, self.device, hidden)
        updater = Updater(torch.optim.SGD(model.parameters(), lr=LR), model, device, Comm(), ReduceOptions())
        buffer = None
        if strategy.uses_buffer:
            fields = strategy.fields(SHAPE, (CLASSES,))
            buffer = NativeBuffer(CAPACITY, "reservoir", "uniform", fields, CLASSES, seed, device, Comm())
        transform = BatchTransform([], None, None, SHAPE[0], device)
        strategy.setup(StrategyContext(model, updater, transform, TaskOutputs(CLASSES), buffer=buffer))
        return Trainer(strategy, Constant(), BATCH, seed, Recorder(History([], None)))

    def run(self, steps: int, together: bool) -> float:
        started = now(self.device)
        if together:
            stopped = train_together([Part(trainer, self.rows, self.stage, steps) for trainer in self.trainers])
            assert not any(stopped), stopped
        else:
            for trainer in self.trainers:
                trainer.train(self.rows, self.stage, steps)
        self.stage += 1
        return now(self.device) - started


class Bare:
    """Loops of torch alone with the arithmetic of `er`."""

    def __init__(self, seeds: int, device: torch.device, hidden: list[int], rows: Rows):
        self.device, self.rows, self.seeds = device, rows, seeds
        self.networks = [network(seed, device, hidden) for seed in range(seeds)]
        self.optimizers = [torch.optim.SGD(model.parameters(), lr=LR) for model in self.networks]
        names = [dict(model.named_parameters()) for model in self.networks]
        self.stacked = [stack([each[name].detach() for each in names]).requires_grad_() for name in names[0]]
        self.optimizer = torch.optim.SGD(self.stacked, lr=LR)

    def run(self, steps: int, together: bool) -> float:
        order = torch.randperm(len(self.rows), device=self.device)
        chosen = [order[i : i + 2 * BATCH] for i in range(0, len(order) - 2 * BATCH + 1, 2 * BATCH)]
        batches = [(self.rows.x[which], self.rows.y[which]) for which in chosen]
        started = now(self.device)
        for step in range(steps):
            if together:
                mine = [batches[(step + seed) % len(batches)] for seed in range(self.seeds)]
                self.step_together(torch.stack([x for x, _ in mine]), torch.stack([y for _, y in mine]))
            else:
                for seed in range(self.seeds):
                    self.step_of(seed, *batches[(step + seed) % len(batches)])
        return now(self.device) - started

    def step_of(self, seed: int, x: torch.Tensor, y: torch.Tensor) -> None:
        loss = F.cross_entropy(self.networks[seed](x.float().mul_(1 / 255)), y)
        self.optimizers[seed].zero_grad()
        loss.backward()
        self.optimizers[seed].step()

    def step_together(self, x: torch.Tensor, y: torch.Tensor) -> None:
        out = x.float().mul_(1 / 255).flatten(2)
        for layer in range(0, len(self.stacked), 2):
            weight, bias = self.stacked[layer : layer + 2]
            out = torch.baddbmm(bias.unsqueeze(1), out if layer == 0 else out.relu(), weight.transpose(1, 2))
        loss = F.cross_entropy(out.flatten(0, 1), y.flatten(), reduction="sum") / len(y[0])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def compare(name: str, loops, seeds: int, rounds: int, seconds: float) -> dict:
    """Seconds of both ways, and the ratio; they are printed, too."""
    for together in (False, True):
        loops.run(20, together)
    steps = max(20, int(20 * seconds / loops.run(20, together=False)))
    pairs = [(loops.run(steps, True), loops.run(steps, False)) for _ in range(rounds)]
    together, separate = (1e3 * statistics.median(times) / steps for times in zip(*pairs))
    ratios = sorted(a / b for a, b in pairs)
    print(
        f"{name}, {seeds} seeds, {steps} steps: together {together:.3f} ms per step of all, one after the other "
        f"{separate:.3f} ms; ratio {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})",
        flush=True,
    )
    ratios = [statistics.median(ratios), ratios[0], ratios[-1]]
    return {"method": name, "seeds": seeds, "ms": {"together": together, "separate": separate}, "ratios": ratios}


def main() -> None:
    parser = parser_of(__doc__, rounds=7, seconds=1.0)
    parser.set_defaults(device="cpu")
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    device = choose_device(arguments.device, 0)
    torch.set_num_threads(1)
    seeds, hidden = (3, [8]) if arguments.tiny else (arguments.seeds, [100, 100])
    rows, found = samples(device), []
    with repeatable(device):
        for name in ("bare", *METHODS):
            given = seeds, device, hidden, rows
            loops = Bare(*given) if name == "bare" else Suite(name, *given)
            found.append(compare(name, loops, seeds, arguments.rounds, arguments.seconds))
            keep(arguments.json, found)


if __name__ == "__main__":
    main()
