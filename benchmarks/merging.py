"""The cost of merging, compared with the part of the work that cannot be avoided.

    python benchmarks/merging.py [--rounds 7] [--threads 1] [--only transport|curve|bandwidth]

transport: fraction of the time that the fusion of two fully connected networks of width 1024 by optimal transport
spends in POT's solver; the aim is at least 80 %. curve: time of a training step of a curve divided by that of the same
network on the same batch, pair by pair; the aim is at most 1.15. bandwidth: merging ten ResNet-18; the bytes that must
be read and written once, divided by the bytes that a plain copy moves in the same time.
"""

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cl.networks.backbones import mlp, resnet_cifar
from merging.align.ot import Ot
from merging.curve.finding import Curve
from merging.fusion import Models
from merging.means.avg import Avg
from merging.vectors.magmax import Magmax
from merging.vectors.task_arithmetic import TaskArithmetic
from merging.vectors.ties import Ties


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def networks(make: Callable[[], nn.Module], count: int) -> list[nn.Module]:
    made = []
    for seed in range(count):
        torch.manual_seed(seed)
        made.append(make())
    return made


def models(made: list[nn.Module]) -> Models:
    names = [name for name, _ in made[0].named_parameters()]
    states = [network.state_dict() for network in made[1:]]
    return Models(states, [1 / len(states)] * len(states), names, made[0].state_dict())


def resnet18() -> nn.Module:
    return resnet_cifar((3, 32, 32), 10, "resnet18", None, {"zero_init_last": False})


class Bare:
    """The merge context for fusions without data."""

    sample_shape = (1, 28, 28)

    def __init__(self, network: nn.Module):
        self.network = network


def transport(rounds: int) -> None:
    import ot

    spent = []
    emd = ot.emd

    def timed(*values, **named):
        started = time.perf_counter()
        plan = emd(*values, **named)
        spent[-1] += time.perf_counter() - started
        return plan

    made = networks(lambda: mlp((1, 28, 28), 10, [1024, 1024]), 3)
    for cost in ("weights", "activations"):
        shares, times = [], []
        context = Bare(made[0])
        context.images = lambda tasks, count: torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        ot.emd = timed
        try:
            for _ in range(rounds):
                spent.append(0.0)
                times.append(seconds(lambda: Ot(cost=cost)(models(made), context)))
                shares.append(spent[-1] / times[-1])
        finally:
            ot.emd = emd
        print(
            f"ot, two MLPs 784-1024-1024-10, cost={cost}: {statistics.median(times):.2f} s, POT takes "
            f"{statistics.median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})"
        )


def curve(rounds: int) -> None:
    sizes = [[400, 200, 100], [1024, 512, 256]]
    cases = [
        (f"MLP {hidden}", (1, 28, 28), 128, lambda h=hidden: mlp((1, 28, 28), 10, h, bias=False)) for hidden in sizes
    ]
    cases.append(("ResNet-18 (CIFAR)", (3, 32, 32), 32, resnet18))
    for name, shape, batch_size, make in cases:
        made = networks(make, 4)
        points = [network.state_dict() for network in made[:3]]
        names = [key for key, _ in made[0].named_parameters()]
        x, y = torch.randn(batch_size, *shape), torch.randint(0, 10, (batch_size,))
        steps = 2 if shape[0] == 3 else 20
        plain, bent = (stepper(m, x, y) for m in (made[3], Curve(copy.deepcopy(made[3]), points, names, "bezier")))
        pairs = [(seconds(lambda: bent(steps)), seconds(lambda: plain(steps))) for _ in range(rounds + 1)][1:]
        ratios = sorted(a / b for a, b in pairs)
        print(
            f"curve, {name}, batches of {batch_size}: {1e3 * statistics.median(a for a, _ in pairs) / steps:.1f} ms "
            f"per step; ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}), limit 1.15"
        )


def stepper(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[int], None]:
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(module(x), y).backward()
            optimizer.step()

    return train


def bandwidth(rounds: int) -> None:
    made = networks(resnet18, 11)
    ten = models(made)
    size = sum(value.nbytes for value in ten.states[0].values())
    source, target = (torch.ones(64 * 2**20) for _ in range(2))
    for name, fusion, tensors in (
        ("avg", Avg(), 11), ("task_arithmetic", TaskArithmetic(), 12), ("ties", Ties(), 12), ("magmax", Magmax(), 12),
    ):  # fmt: skip
        pairs = []
        for _ in range(rounds + 1):
            copied = 2 * source.nbytes / seconds(lambda: target.copy_(source))
            taken = seconds(lambda: fusion(ten, None))
            pairs.append((tensors * size / taken / copied, taken))
        shares, times = zip(*pairs[1:])
        print(
            f"{name}, ten ResNet-18 of {size / 1e6:.0f} MB: {1e3 * statistics.median(times):.0f} ms, "
            f"{statistics.median(shares):.0%} of a copy's bandwidth ({min(shares):.0%} to {max(shares):.0%})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=("transport", "curve", "bandwidth"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for part in (transport, curve, bandwidth):
        if arguments.only in (None, part.__name__):
            part(arguments.rounds)


if __name__ == "__main__":
    main()
