"""Learning-rate schedules as pure functions of the share of a task's training that is done.

Shares in place of steps hold for any length of training, and start anew with every task by themselves. torch's
schedulers count steps and keep state that would have to be saved and reset.
"""

import math
from abc import ABC, abstractmethod


class Schedule(ABC):
    """Factor on the learning rate; `warmup` is the share over which it rises linearly (Goyal et al. 2017).

    It rises from `start`: 0, or the share of the learning rate that one rank would have where it is scaled with ranks.
    """

    is_constant = False
    start = 0.0

    def __init__(self, warmup: float):
        if not 0 <= warmup < 1:
            raise ValueError(f"schedule.warmup must be a share in [0, 1), got {warmup}")
        self.warmup = warmup

    def factor(self, progress: float) -> float:
        """At `progress` in [0, 1], the share of the task's steps that are done."""
        if progress < self.warmup:
            return self.start + (1 - self.start) * progress / self.warmup
        return self.after_warmup(progress)

    @abstractmethod
    def after_warmup(self, progress: float) -> float:
        """The factor once the warm-up is over."""


class Constant(Schedule):
    """The same learning rate throughout."""

    def __init__(self, warmup: float = 0.0):
        super().__init__(warmup)
        self.is_constant = warmup == 0

    def after_warmup(self, progress: float) -> float:
        return 1.0


class Cosine(Schedule):
    """Half a cosine from 1 to `final` (Loshchilov & Hutter 2017, eq. 5, one cycle)."""

    def __init__(self, final: float = 0.0, warmup: float = 0.0):
        super().__init__(warmup)
        if not 0 <= final <= 1:
            raise ValueError(f"schedule.final must be a share in [0, 1], got {final}")
        self.final = final

    def after_warmup(self, progress: float) -> float:
        done = (progress - self.warmup) / (1 - self.warmup)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2


class Linear(Schedule):
    """1 until `start`, then linearly to `final` at `end`, both shares of the training (Garipov et al. 2018, A.1)."""

    def __init__(self, start: float = 0.5, end: float = 0.9, final: float = 0.01, warmup: float = 0.0):
        super().__init__(warmup)
        if not 0 <= start < end <= 1:
            raise ValueError(f"schedule.start and schedule.end must be rising shares in [0, 1], got {start} and {end}")
        if not 0 <= final <= 1:
            raise ValueError(f"schedule.final must be a share in [0, 1], got {final}")
        self.fall, self.end, self.final = start, end, final

    def after_warmup(self, progress: float) -> float:
        done = (progress - self.fall) / (self.end - self.fall)
        return 1 - (1 - self.final) * min(1.0, max(0.0, done))


class MultiStep(Schedule):
    """Times `gamma` at each milestone, a share of the task's training."""

    def __init__(self, milestones: list, gamma: float = 0.1, warmup: float = 0.0):
        super().__init__(warmup)
        if not milestones or list(milestones) != sorted(set(milestones)) or not 0 < milestones[0] <= milestones[-1] < 1:
            raise ValueError(f"schedule.milestones must be rising shares between 0 and 1, got {milestones}")
        if gamma <= 0:
            raise ValueError(f"schedule.gamma must be above 0, got {gamma}")
        self.milestones, self.gamma = milestones, gamma

    def after_warmup(self, progress: float) -> float:
        return self.gamma ** sum(progress >= milestone for milestone in self.milestones)
