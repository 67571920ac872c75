"""iCaRL (Rebuffi et al. 2017, iCaRL: Incremental Classifier and Representation Learning).

Each class keeps a list of exemplars, chosen by herding, whose features approximate its mean; a sample is given the
class of the nearest mean. Rows and exemplars are trained on together, the old outputs held by distillation.
"""

import contextlib

import torch
import torch.nn.functional as F
from torch import nn

from cl.buffers.base import Records
from cl.data.rows import Rows
from cl.scenarios.outputs import tasks_of
from cl.strategies.base import Strategy
from cl.strategies.context import StrategyContext
from cl.strategies.features import Features, evaluating
from cl.strategies.teacher import loaded_teacher, new_teacher

PART = 500  # images whose features are computed at once


class Icarl(Strategy):
    """Sum over the classes c seen so far of BCE(f_c(x), t_c), t_c the old network's sigmoid for old ones, else [y = c].

    Algorithms 1 to 5. After t classes each has `capacity` // t exemplars. The features are what enters the last layer,
    normalised; exemplars are stored as they were before augmentation, on every rank the same. Mammoth takes the mean
    over the classes in place of the sum, and does not normalise features.
    """

    defined_in = ("class",)
    needs_labels = needs_boundaries = True
    uses_memory = True

    def setup(self, context: StrategyContext) -> None:
        super().setup(context)
        self.entered_head = Features(self.model, self.outputs.num_outputs, "strategy=icarl")
        self.exemplars: dict[int, Rows] = {}  # by class, the best first
        self.means = torch.empty(0)  # [classes, features], in the order of `exemplars`
        self.teacher: nn.Module | None = None
        if self.capacity < self.outputs.num_outputs:
            raise ValueError(
                f"strategy=icarl needs an exemplar of each class: buffer.capacity={self.capacity} is too small for "
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
                "strategy=icarl takes the features of all samples of a task at once, and cannot stream them from "
                "files: set dataset.stream=false"
            )
        return Rows.cat([samples, *self.exemplars.values()])

    def loss(self, batch: Rows, draws: list[Records]) -> torch.Tensor:
        x = self.transform.train(batch.x)
        logits = self.network(x)
        targets = F.one_hot(batch.y, self.outputs.num_outputs).to(logits.dtype)
        if self.teacher is not None:
            with torch.no_grad():
                targets = torch.where(self.old, self.teacher(x).sigmoid().to(logits.dtype), targets)
        logits, targets = logits[:, self.seen], targets[:, self.seen]
        return batch.weighted(F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(batch))

    def after_task(self, stage: int, samples: Rows) -> None:
        new = sorted(set(samples.y.tolist()) - self.exemplars.keys())
        quota = self.capacity // (len(self.exemplars) + len(new))
        kept = {label: old.part(slice(quota)) for label, old in self.exemplars.items()}
        # Every rank computes the same: one of them counts.
        with contextlib.nullcontext() if self.updater.comm.is_main else self.passes.paused():
            for label in new:
                own = samples.part(samples.y == label)
                kept[label] = own.part(herding(self.features(own.x), quota))
            self.exemplars, self.teacher = kept, None
            means = [F.normalize(self.features(own.x).mean(0), dim=0) for own in self.exemplars.values()]
        self.means = torch.stack(means)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """[N, D] of raw images, each of length 1."""
        with evaluating(self.model):
            return torch.cat([self.features_of(self.transform.test(part)) for part in x.split(PART)])

    def features_of(self, images: torch.Tensor) -> torch.Tensor:
        """[B, D] of transformed images, each of length 1."""
        return F.normalize(self.entered_head(images))

    def classifier(self):
        """Scores: minus the squared distance to the mean of each class; of classes that were not seen, the least."""

        def scores(images: torch.Tensor) -> torch.Tensor:
            near = torch.full((len(images), self.outputs.num_outputs), float("-inf"), device=images.device)
            near[:, list(self.exemplars)] = -torch.cdist(self.features_of(images), self.means).square()
            return near

        return scores

    @property
    def nbytes(self) -> int:
        samples = sum(column.nbytes for own in self.exemplars.values() for column in own.columns.values())
        return samples // self.updater.comm.size  # every rank has them all; one copy is counted

    def stored_samples(self) -> list[Rows]:
        return list(self.exemplars.values())

    def state_dict(self) -> dict:
        return super().state_dict() | {
            "exemplars": {label: own.columns for label, own in self.exemplars.items()},
            "means": self.means,
            "teacher": None if self.teacher is None else self.teacher.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        device = self.updater.device
        self.means = state["means"].to(device)
        self.teacher = loaded_teacher(self.model, state["teacher"])
        self.exemplars = {label: Rows(columns).to(device) for label, columns in state["exemplars"].items()}


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
