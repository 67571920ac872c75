"""Learning-rate schedules as pure functions of the share of a task's training that is done.

Shares in place of steps hold for any length of training, and start anew with every task by themselves. torch's
schedulers count steps and keep state that would have to be saved and reset. Places may also be given in epochs.
"""

import math
from abc import ABC, abstractmethod
from typing import Annotated, Literal

from cl.values import Count, Fraction, NotNegative, Positive, Range

TINY = 1e-9  # of a step: a milestone's own step is past it, however its share is rounded


class Schedule(ABC):
    """Factor on the learning rate; over `warmup` it rises linearly (Goyal et al. 2017).

    `warmup` and all other places in the training: a share below 1, or a number of epochs, 1 or more. The rise begins
    with `start`: 0, or the share of the learning rate that one rank would have where it is scaled with ranks.
    """

    is_constant = False
    start = 0.0

    def __init__(self, warmup: NotNegative):
        self.warmup = warmup

    def factor(self, progress: float, epochs: float = 1.0, steps: int = 1) -> float:
        """At `progress` in [0, 1], the share of the task's steps that are done.

        `epochs` and `steps`: how many the task has, for what is given in them.
        """
        rise = share(self.warmup, epochs)
        if progress < rise:
            return self.start + (1 - self.start) * progress / rise
        return self.after_warmup(progress, epochs, steps)

    @abstractmethod
    def after_warmup(self, progress: float, epochs: float, steps: int) -> float:
        """The factor once the warm-up is over."""


class Constant(Schedule):
    """The same learning rate throughout."""

    def __init__(self, warmup: NotNegative = 0.0):
        super().__init__(warmup)
        self.is_constant = warmup == 0

    def after_warmup(self, progress: float, epochs: float, steps: int) -> float:
        return 1.0


class Cosine(Schedule):
    """Half a cosine from 1 to `final` (Loshchilov & Hutter 2017, eq. 5, one cycle)."""

    def __init__(self, final: Fraction = 0.0, warmup: NotNegative = 0.0):
        super().__init__(warmup)
        self.final = final

    def after_warmup(self, progress: float, epochs: float, steps: int) -> float:
        rise = min(share(self.warmup, epochs), progress)
        done = (progress - rise) / (1 - rise) if rise < 1 else 1.0
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2


class WarmRestarts(Schedule):
    """Half a cosine from 1 to `final`, over and over (Loshchilov & Hutter 2017, eq. 5), after the warm-up.

    `first`: the length of the first one, a share below 1 or a number of epochs; each further one is `growth` times as
    long as the one before.
    """

    def __init__(
        self,
        first: Positive = 1,
        growth: Annotated[float, Range(least=1)] = 2.0,
        final: Fraction = 0.0,
        warmup: NotNegative = 0.0,
    ):
        super().__init__(warmup)
        self.first, self.growth, self.final = first, growth, final

    def after_warmup(self, progress: float, epochs: float, steps: int) -> float:
        place, length = progress - min(share(self.warmup, epochs), progress), share(self.first, epochs)
        while place >= length - TINY / steps:
            place, length = place - length, length * self.growth
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * max(0.0, place) / length)) / 2


class Linear(Schedule):
    """1 until `start`, then linearly to `final` at `end`, both shares (Garipov et al. 2018, A.1)."""

    def __init__(self, start: Fraction = 0.5, end: Fraction = 0.9, final: Fraction = 0.01, warmup: NotNegative = 0.0):
        super().__init__(warmup)
        if not start < end:
            raise ValueError(f"schedule.start must be below schedule.end, got {start} and {end}")
        self.fall, self.end, self.final = start, end, final

    def after_warmup(self, progress: float, epochs: float, steps: int) -> float:
        done = (progress - self.fall) / (self.end - self.fall)
        return 1 - (1 - self.final) * min(1.0, max(0.0, done))


class Step(Schedule):
    """Times `gamma` each time that `every` more is done."""

    def __init__(self, every: Positive = 0.3, gamma: Positive = 0.1, warmup: NotNegative = 0.0):
        super().__init__(warmup)
        self.every, self.gamma = every, gamma

    def after_warmup(self, progress: float, epochs: float, steps: int) -> float:
        return self.gamma ** math.floor(progress / share(self.every, epochs) + TINY)


class MultiStep(Schedule):
    """Times `gamma` at each milestone; with a list, the factor is `gamma[i]` from milestone i on."""

    def __init__(self, milestones: list[Positive], gamma: Positive | list[Positive] = 0.1, warmup: NotNegative = 0.0):
        super().__init__(warmup)
        rising = list(milestones) == sorted(set(milestones)) and milestones
        if not rising or milestones[0] < 1 <= milestones[-1]:
            raise ValueError(
                f"schedule.milestones must be rising shares between 0 and 1, or rising epochs, got {milestones}"
            )
        if isinstance(gamma, list) and len(gamma) != len(milestones):
            raise ValueError(f"schedule.gamma needs one factor for each of {len(milestones)} milestones, got {gamma}")
        self.milestones, self.gamma = milestones, gamma

    def after_warmup(self, progress: float, epochs: float, steps: int) -> float:
        passed = sum(progress >= share(milestone, epochs) - TINY for milestone in self.milestones)
        if isinstance(self.gamma, list):
            return self.gamma[passed - 1] if passed else 1.0
        return self.gamma**passed


class Cyclic(Schedule):
    """Up from `low` to 1 and down again, over and over (Smith 2017, Cyclical Learning Rates for Training Neural
    Networks).

    `half_cycle` is the number of steps from `low` to the top, `half_cycle_epochs` that of epochs where it is given.
    `mode`: "triangular", "triangular2" (each cycle half as high as the one before) or "exp_range" (height times `gamma`
    at every step).
    """

    def __init__(
        self,
        low: Fraction = 0.2,
        half_cycle: Count = 100,
        mode: Literal["triangular", "triangular2", "exp_range"] = "exp_range",
        gamma: Annotated[float, Range(above=0, most=1)] = 0.99985,
        warmup: NotNegative = 0.0,
        half_cycle_epochs: Positive | None = None,
    ):
        super().__init__(warmup)
        self.half_cycle_epochs = half_cycle_epochs
        self.low, self.half_cycle, self.mode, self.gamma = low, half_cycle, mode, gamma

    def after_warmup(self, progress: float, epochs: float, steps: int) -> float:
        step = progress * steps
        half = self.half_cycle if self.half_cycle_epochs is None else self.half_cycle_epochs * steps / epochs
        cycle, place = divmod(step / half, 2)
        scale = {"triangular": 1.0, "triangular2": 0.5**cycle, "exp_range": self.gamma**step}[self.mode]
        return self.low + (1 - self.low) * scale * (1 - abs(place - 1))


def share(place: float, epochs: float) -> float:
    """The share of the training at which a place is that is given as one, or as a number of epochs."""
    return place if place < 1 else place / epochs
