"""Curve finding (Garipov et al. 2018, Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs).

Two networks are the ends of a curve w(t), and its inner points are trained for a low loss along the whole curve. A
single network computes the outputs for every t, with its weights replaced by w(t) in the call.
"""

import copy
import math
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Literal

import torch
from torch import nn
from torch.func import functional_call

from cl.build import build
from cl.data.rows import Rows
from cl.values import Count, Epochs, Fraction, InnerFraction, Natural
from merging.curve import landscape
from merging.curve.ends import names_of_ends
from merging.curve.step import Step, seen_as, stacked
from merging.fusion import Context, Models, State, WeightFusion, weighted_mean


class Curve(nn.Module):
    """A network whose weights are the point w(t) of a curve; the inner points are its parameters.

    `points`: state dicts; the first and the last are the fixed ends. `kind`: "bezier", sum over i of
    C(n, i) t^i (1-t)^(n-i) points_i, or "chain", straight lines from each point to the next. In training every forward
    pass draws t ~ U(0, 1), otherwise t is `self.t`.
    """

    def __init__(self, network: nn.Module, points: list[State], names: list[str], kind: str):
        super().__init__()
        self.network = [network]  # in a list, so that torch does not count its weights as parameters of the curve
        self.kind, self.names = kind, names
        self.memory = {name: stacked([point[name].detach() for point in points]) for name in names}
        shown = [
            [seen_as(points[0][name], row) for name, row in zip(names, rows)] for rows in zip(*self.memory.values())
        ]
        self.ends = [dict(zip(names, shown[0])), dict(zip(names, shown[-1]))]
        self.inner = nn.ModuleList(nn.ParameterList(map(nn.Parameter, point)) for point in shown[1:-1])
        self.t = 0.5
        self._step: Step | None = None

    def coefficients(self, t: float) -> list[float]:
        """The coefficient of each point in w(t); they sum to one."""
        last = len(self.inner) + 1
        if self.kind == "bezier":
            return [math.comb(last, i) * t**i * (1 - t) ** (last - i) for i in range(last + 1)]
        return [max(0.0, 1 - abs(t * last - i)) for i in range(last + 1)]

    def weights(self, t: float) -> State:
        """w(t) by name; at t = 0 and 1 equal to the ends to the bit."""
        coefficients = self.coefficients(t)
        found = {}
        for number, name in enumerate(self.names):
            points = [self.ends[0][name], *(point[number] for point in self.inner), self.ends[1][name]]
            kept = [(factor, point) for factor, point in zip(coefficients, points) if factor]
            found[name] = kept[0][1] if len(kept) == 1 else sum(factor * point for factor, point in kept)
        return found

    def middle(self) -> State:
        """The inner point if there is one, w(0.5) if there are several."""
        if len(self.inner) > 1:
            return self.weights(0.5)
        return {name: weight.detach() for name, weight in zip(self.names, self.inner[0])}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            return self.step(torch.rand(()).item(), x)
        return functional_call(self.network[0], self.weights(self.t), (x,))

    def step(self, t: float, x: torch.Tensor) -> torch.Tensor:
        """The outputs at t for one training step; the next step overwrites its weights."""
        if self._step is None:
            self._step = Step(self.network[0], self.memory, [list(point) for point in self.inner])
        return self._step(self.coefficients(t), x)

    def state_dict(self, *given, **named) -> dict:
        """The inner points, without the memory that they share with the ends."""
        return {name: weight.clone() for name, weight in super().state_dict(*given, **named).items()}

    def train(self, mode: bool = True) -> "Curve":
        self.network[0].train(mode)
        return super().train(mode)


class CurveFinding(WeightFusion):
    """A point w(`at`) of a curve between two networks, trained on the data of their tasks.

    More than two models are merged one after the other: the result so far with the next model.

    `bends` inner points are trained for `epochs` on `samples_per_task` labelled samples of each task (None: all).
    `init` of the inner points: "linear", on the straight line, or "random", untrained networks. `start`: the curve
    begins with the first "model", or with the "average" of both. `ends`: the "models", or "untrained" networks, which
    shows how much the models contribute. `schedule` of the learning rate: a configuration, or None for that of the run.

    With `at` "best" the result is the point with the lowest loss on a fraction `held_out` of the samples, which is not
    trained on. The last curve is measured at `points` values of t, on up to `samples` training samples and on all test
    samples. With `plane` > 0 the loss around it is measured on a grid.
    """

    uses_weights, needs_tasks = False, True

    def __init__(
        self,
        kind: Literal["bezier", "chain"] = "bezier",
        bends: Count = 1,
        epochs: Epochs = 10,
        samples_per_task: Count | None = None,
        init: Literal["linear", "random"] = "linear",
        start: Literal["model", "average"] = "model",
        ends: Literal["models", "untrained"] = "models",
        schedule: dict | None = None,
        at: Fraction | Literal["best"] = 0.5,
        held_out: InnerFraction = 0.1,
        points: Natural = 61,
        plane: Natural = 0,
        samples: Count = 2000,
    ):
        for name, value in (("points", points), ("plane", plane)):
            if value == 1:
                raise ValueError(f"fusion.{name} must be at least 2, or 0 for none, got 1")
        if at == "best" and not points:
            raise ValueError("fusion.at=best chooses among fusion.points, which must be at least 2, got 0")
        self.kind, self.bends, self.epochs, self.init, self.at = kind, bends, epochs, init, at
        self.samples_per_task, self.held_out = samples_per_task, held_out
        self.points, self.plane, self.samples = points, plane, samples
        self.start, self.ends, self.schedule = (
            start,
            ends,
            None if schedule is None else build(schedule, "fusion.schedule"),
        )

    def used(self, count: int) -> Sequence[int]:
        return range(count if self.ends == "models" else 0)

    def __call__(self, models: Models, context: Context) -> State:
        states = list(models.states)
        if self.ends == "untrained":
            states = [context.new_network(self.bends + 1 + number) for number in range(len(states))]
        merged = states[0]
        for number, state in enumerate(states[1:], start=1):
            if self.start == "average":
                mean = {name: weighted_mean([merged[name], state[name]], [0.5, 0.5]) for name in models.parameters}
                merged = merged | mean
            curve = self.between(merged, state, models, context)
            tasks = sorted(set(chain(*models.tasks[: number + 1])))
            samples, held_out = context.labelled(tasks, self.samples_per_task), None
            if self.at == "best":
                samples, held_out = context.hold_out(samples, self.held_out)
            context.train(curve, samples, self.epochs, self.schedule)
            curve.requires_grad_(False)
            at = self.at if held_out is None else self.best(curve, context, tasks, held_out)
            if number == len(states) - 1:
                ends = names_of_ends(number, models.merged, self.start, self.ends)
                context.record("curve", partial(self.measured, curve, context, tasks, samples, at, ends))
            weights = curve.weights(at)
            buffers = {name: value for name, value in merged.items() if name not in weights}
            merged = {name: value.detach().clone() for name, value in {**buffers, **weights}.items()}
        return {name: merged[name] for name in states[0]}

    def best(self, curve: Curve, context: Context, tasks: list[int], samples: Rows) -> float:
        """The t with the lowest loss among the `points`."""
        network = copy.deepcopy(context.network)
        losses = {}
        for i in context.progress("choosing the point", range(self.points)):
            t = i / (self.points - 1)
            landscape.place(network, curve.weights(t), context, tasks)
            losses[t] = context.score(network, samples)[0]
        return min(losses, key=losses.get)

    def measured(
        self, curve: Curve, context: Context, tasks: list[int], samples: Rows, at: float, ends: tuple[str, str]
    ) -> dict:
        """Loss and accuracy along the curve, and what its ends are."""
        found: dict = {"at": at, "ends": ends}
        train = context.some(samples, self.samples)
        if self.points:
            found |= landscape.along(curve, context, tasks, train, context.testing(tasks), self.points)
        if self.plane:
            found["plane"] = landscape.plane(curve, context, tasks, train, self.plane)
        return found

    def between(self, first: State, last: State, models: Models, context: Context) -> Curve:
        """The curve before training."""
        names = list(models.parameters)
        inner = []
        for bend in range(1, self.bends + 1):
            t = bend / (self.bends + 1)
            line = {name: weighted_mean([first[name], last[name]], [1 - t, t]) for name in names}
            inner.append(line if self.init == "linear" else context.new_network(bend))
        return Curve(context.network, [first, *inner, last], names, self.kind)
