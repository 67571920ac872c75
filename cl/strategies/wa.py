"""Weight Aligning (Zhao et al. 2020, Maintaining Discrimination and Fairness in Class Incremental Learning).

New samples and exemplars are trained on together, old outputs are distilled, and after the task the rows of the last
layer that belong to its classes are scaled to the length that those of the old classes have.
"""

import torch

from cl.buffers.base import Records
from cl.data.rows import Rows
from cl.scenarios.outputs import keep_only
from cl.strategies.exemplars import ExemplarStrategy
from cl.strategies.lwf import distillation
from cl.values import Positive


class DistilledExemplars(ExemplarStrategy):
    """(1 - l) CE(f(x), y) + l KD(f(x), f_old(x)) on new samples and exemplars, l = old / seen classes.

    CE is over the classes seen so far, KD = -sum_c p_c(f_old / T) log p_c(f / T) over the old ones (eq. 1 to 4 of Zhao
    et al. 2020, as eq. 1 to 3 of Wu et al. 2019).
    """

    def __init__(self, temperature: Positive = 2.0):
        self.temperature = temperature

    def set_stage(self, stage: int) -> None:
        super().set_stage(stage)
        self.old_outputs, seen = (mask.nonzero()[:, 0].tolist() for mask in (self.old, self.seen))
        self.share = len(self.old_outputs) / len(seen)

    def loss(self, batch: Rows, draws: list[Records]) -> torch.Tensor:
        x = self.transform.train(batch.x)
        logits = self.network(x)
        new = batch.weighted(self.cross_entropy(keep_only(logits, self.seen), batch))
        if self.teacher is None:
            return new
        with torch.no_grad():
            targets = self.teacher(x)
        old = distillation(logits[:, self.old], targets, self.old_outputs, self.old_outputs, self.temperature)
        return (1 - self.share) * new + self.share * batch.weighted(old)


class Wa(DistilledExemplars):
    """The loss of `DistilledExemplars`; then w_c <- w_c mean_old |w| / mean_new |w| for each new class c (eq. 7 to 9).

    `positive_weights`: the weights of the last layer are kept from falling below 0 after each step, so that a longer
    row means a larger output (section 4.3; biases are left alone). Other codes leave that out.
    """

    changes_network = True

    def __init__(self, temperature: Positive = 2.0, positive_weights: bool = True):
        super().__init__(temperature)
        self.positive_weights = positive_weights

    def observe(self, batch: Rows) -> torch.Tensor:
        loss = super().observe(batch)
        if self.positive_weights:
            with torch.no_grad():
                self.head.weight.clamp_(min=0)
        return loss

    def after_task(self, stage: int, samples: Rows) -> None:
        super().after_task(stage, samples)
        new = self.seen & ~self.old
        if self.old_outputs and new.any():
            with torch.no_grad():
                lengths = self.head.weight.norm(dim=1)
                self.head.weight[new] *= lengths[self.old].mean() / lengths[new].mean()
