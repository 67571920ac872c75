"""Curve finding (Garipov et al. 2018, Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs).

Two networks are the ends of a curve w(t), whose inner points are trained so that the loss is low all along it. One
network computes for every t, its weights replaced in the call: there are no layers of a curve.
"""

import math
from itertools import chain

import torch
from torch import nn
from torch.func import functional_call

from merging.fusion import Context, Models, State, WeightFusion, weighted_mean

KINDS = ("bezier", "chain")
INITS = ("linear", "random")


class Curve(nn.Module):
    """A network whose weights are a point of a curve; the inner points are its parameters.

    `points` are state dicts, the first and the last of which stay as they are. `kind`: "bezier", sum over i of
    C(n, i) t^i (1-t)^(n-i) points_i, or "chain", straight lines from each point to the next. In training every forward
    pass draws t ~ U(0, 1); otherwise it is `self.t`.
    """

    def __init__(self, network: nn.Module, points: list[State], names: list[str], kind: str):
        super().__init__()
        self.network = [network]  # in a list: its own weights are none of the curve's
        self.kind, self.names = kind, names
        self.ends = [{name: point[name].detach().clone() for name in names} for point in (points[0], points[-1])]
        self.inner = nn.ModuleList(
            nn.ParameterList([nn.Parameter(point[name].detach().clone()) for name in names]) for point in points[1:-1]
        )
        self.t = 0.5

    def coefficients(self, t: float) -> list[float]:
        """The share of each point in w(t); their sum is one."""
        last = len(self.inner) + 1
        if self.kind == "bezier":
            return [math.comb(last, i) * t**i * (1 - t) ** (last - i) for i in range(last + 1)]
        return [max(0.0, 1 - abs(t * last - i)) for i in range(last + 1)]

    def weights(self, t: float) -> State:
        """w(t), by name; at the ends the end points to the bit."""
        shares = self.coefficients(t)
        found = {}
        for number, name in enumerate(self.names):
            points = [self.ends[0][name], *(point[number] for point in self.inner), self.ends[1][name]]
            kept = [(share, point) for share, point in zip(shares, points) if share]
            found[name] = kept[0][1] if len(kept) == 1 else sum(share * point for share, point in kept)
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        t = torch.rand(()).item() if self.training else self.t
        return functional_call(self.network[0], self.weights(t), (x,))

    def train(self, mode: bool = True) -> "Curve":
        self.network[0].train(mode)
        return super().train(mode)


class CurveFinding(WeightFusion):
    """The middle of a curve between two networks that is trained on the data of their tasks; more are taken in turn.

    `bends` inner points, trained for `epochs` on `samples_per_task` labelled samples of each task (None: all). `init`:
    "linear", on the straight line, or "random", new networks. Reported is w(`at`).
    """

    def __init__(
        self,
        kind: str = "bezier",
        bends: int = 1,
        epochs: int = 10,
        samples_per_task: int | None = None,
        init: str = "linear",
        at: float = 0.5,
    ):
        for name, value, valid in (("kind", kind, KINDS), ("init", init, INITS)):
            if value not in valid:
                raise ValueError(f"fusion.{name}={value} does not exist; valid: {', '.join(valid)}")
        for name, value in (("bends", bends), ("epochs", epochs), ("samples_per_task", samples_per_task or 1)):
            if value < 1:
                raise ValueError(f"fusion.{name} must be at least 1, got {value}")
        if not 0 <= at <= 1:
            raise ValueError(f"fusion.at must lie in [0, 1], got {at}")
        self.kind, self.bends, self.epochs, self.init, self.at = kind, bends, epochs, init, at
        self.samples_per_task = samples_per_task

    def __call__(self, models: Models, context: Context) -> State:
        merged = models.states[0]
        for number, state in enumerate(models.states[1:], start=1):
            curve = self.between(merged, state, models, context)
            tasks = sorted(set(chain(*models.tasks[: number + 1])))
            context.train(curve, context.labelled(tasks, self.samples_per_task), self.epochs)
            with torch.no_grad():
                weights = curve.weights(self.at)
            buffers = {name: value for name, value in merged.items() if name not in weights}
            merged = {name: value.detach().clone() for name, value in {**buffers, **weights}.items()}
        return {name: merged[name] for name in models.states[0]}

    def between(self, first: State, last: State, models: Models, context: Context) -> Curve:
        """The curve before training."""
        names = list(models.parameters)
        inner = []
        for bend in range(1, self.bends + 1):
            t = bend / (self.bends + 1)
            line = {name: weighted_mean([first[name], last[name]], [1 - t, t]) for name in names}
            inner.append(line if self.init == "linear" else context.new_network(bend))
        return Curve(context.network, [first, *inner, last], names, self.kind)
