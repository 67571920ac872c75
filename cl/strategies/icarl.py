"""iCaRL (Rebuffi et al. 2017, iCaRL: Incremental Classifier and Representation Learning).

Each class keeps a list of exemplars, chosen by herding, whose features approximate its mean; a sample is given the
class of the nearest mean. Rows and exemplars are trained on together, the old outputs held by distillation.
"""

import torch
import torch.nn.functional as F

from cl.buffers.base import Records
from cl.data.rows import Rows
from cl.strategies.context import StrategyContext
from cl.strategies.exemplars import ExemplarStrategy


class Icarl(ExemplarStrategy):
    """Sum over the classes c seen so far of BCE(f_c(x), t_c), t_c the old network's sigmoid for old ones, else [y = c].

    Algorithms 1 to 5. Mammoth takes the mean over the classes in place of the sum, and does not normalise features.
    """

    def setup(self, context: StrategyContext) -> None:
        super().setup(context)
        self.means = torch.empty(0)  # [classes, features], in the order of `exemplars`

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
        super().after_task(stage, samples)
        with self.counted_once():
            means = [F.normalize(self.features(own.x).mean(0), dim=0) for own in self.exemplars.values()]
        self.means = torch.stack(means)

    def classifier(self):
        """Scores: minus the squared distance to the mean of each class; of classes that were not seen, the least."""

        def scores(images: torch.Tensor) -> torch.Tensor:
            near = torch.full((len(images), self.outputs.num_outputs), float("-inf"), device=images.device)
            near[:, list(self.exemplars)] = -torch.cdist(self.features_of(images), self.means).square()
            return near

        return scores

    def state_dict(self) -> dict:
        return super().state_dict() | {"means": self.means}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.means = state["means"].to(self.updater.device)
