"""Exemplars: samples of each class so far that are trained on together with those of the next task.

As in iCaRL (Rebuffi et al. 2017, algorithms 4 and 5), whose rule later methods of class-incremental learning took over.
"""

import contextlib

import torch
import torch.nn.functional as F
from torch import nn

from cl.data.rows import Rows
from cl.networks.modes import evaluating
from cl.scenarios.outputs import tasks_of
from cl.strategies.base import Strategy
from cl.strategies.context import StrategyContext
from cl.strategies.features import Features
from cl.strategies.teacher import loaded_teacher, new_teacher

PART = 500  # images whose features are computed at once


class ExemplarStrategy(Strategy):
    """A strategy with exemplars and the network before the task as its teacher.

    After t classes each has `capacity` // t exemplars, chosen by herding. Features are what enters the last layer,
    normalised; exemplars are stored as they were before augmentation, on every rank the same.
    """

    defined_in = ("class",)
    needs_labels = needs_boundaries = True
    uses_memory = True
    tested_within = False  # class means and corrections are made when a task is over
    fewest_exemplars = 1  # of each class that the method needs

    def setup(self, context: StrategyContext) -> None:
        super().setup(context)
        name = f"strategy={type(self).__name__.lower()}"
        self.entering = Features(self.model, self.outputs.num_outputs, name)
        self.head = self.entering.head
        self.exemplars: dict[int, Rows] = {}  # by class, the best first
        self.teacher: nn.Module | None = None
        if self.capacity < self.fewest_exemplars * self.outputs.num_outputs:
            number = "an exemplar" if self.fewest_exemplars == 1 else f"{self.fewest_exemplars} exemplars"
            raise ValueError(
                f"{name} needs {number} of each class: buffer.capacity={self.capacity} is too small for "
                f"{self.outputs.num_outputs} classes"
            )

    def before_task(self, stage: int, samples: Rows) -> None:
        super().before_task(stage, samples)
        self.teacher = new_teacher(self.model) if self.exemplars else None

    def set_stage(self, stage: int) -> None:
        super().set_stage(stage)
        self.old, self.seen = (self.outputs.of_tasks(tasks_of(self.stages[:count])) for count in (stage, stage + 1))

    def training_set(self, stage: int, samples: Rows) -> Rows:
        if not isinstance(samples.x, torch.Tensor):
            raise ValueError(
                f"strategy={type(self).__name__.lower()} takes the features of all samples of a task at once, and "
                "cannot stream them from files: set dataset.stream=false"
            )
        return Rows.cat([samples, *self.exemplars.values()])

    def after_task(self, stage: int, samples: Rows) -> None:
        new = sorted(set(samples.y.tolist()) - self.exemplars.keys())
        quota = self.capacity // (len(self.exemplars) + len(new))
        kept = {label: old.part(slice(quota)) for label, old in self.exemplars.items()}
        with self.counted_once():
            for label in new:
                own = samples.part(samples.y == label)
                chosen = herding(self.features(own.x), quota)
                # On unlike processors another sample may be the nearest by rounding.
                kept[label] = own.part(self.updater.comm.broadcast(chosen.cpu()).to(chosen.device))
        self.exemplars, self.teacher = kept, None

    def counted_once(self) -> contextlib.AbstractContextManager:
        """Inside this block every rank computes the same, and the passes of one of them count."""
        return contextlib.nullcontext() if self.updater.comm.is_main else self.passes.paused()

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """[N, D] of raw images, each of length 1."""
        with evaluating(self.model):
            return torch.cat([self.features_of(self.transform.test(part)) for part in x.split(PART)])

    def features_of(self, images: torch.Tensor) -> torch.Tensor:
        """[B, D] of transformed images, each of length 1."""
        return F.normalize(self.entering(images))

    @property
    def nbytes(self) -> int:
        samples = sum(column.nbytes for own in self.exemplars.values() for column in own.columns.values())
        return samples // self.updater.comm.size  # every rank has them all; one copy is counted

    def stored_samples(self) -> list[Rows]:
        return list(self.exemplars.values())

    def state_dict(self) -> dict:
        return super().state_dict() | {
            "exemplars": {label: own.columns for label, own in self.exemplars.items()},
            "teacher": None if self.teacher is None else self.teacher.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.teacher = loaded_teacher(self.model, state["teacher"])
        self.exemplars = {label: Rows(columns).to(self.updater.device) for label, columns in state["exemplars"].items()}


def herding(features: torch.Tensor, count: int) -> torch.Tensor:
    """The rows of features [N, D] whose running mean stays nearest to that of all, `count` of them in order.

    Algorithm 4; no row is taken twice.
    """
    mean, total = features.mean(0), torch.zeros_like(features[0])
    left = torch.ones(len(features), dtype=torch.bool, device=features.device)
    chosen = []
    for k in range(1, min(count, len(features)) + 1):
        distances = (mean - (total + features) / k).square().sum(1)
        best = torch.where(left, distances, torch.inf).argmin()
        left[best] = False
        total += features[best]
        chosen.append(best)
    return torch.stack(chosen)
