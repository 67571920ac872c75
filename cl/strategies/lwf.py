"""Learning without Forgetting (Li & Hoiem 2017): the network before the task teaches the one that learns it."""

import copy

import torch

from cl.buffers.base import Records
from cl.loader import Batch
from cl.samples import Samples
from cl.strategies.base import Strategy, mean_of
from cl.strategies.er import WEIGHTINGS
from cl.strategies.replay import check_weights


class Lwf(Strategy):
    """CE(f(x), y) + alpha KD(f(x), f_old(x)) at a temperature T, on the new samples.

    KD = -T^2 sum_c p_c(f_old / T) log p_c(f / T) (T^2 as in Hinton et al. 2015) over the outputs of the tasks before:
    where the task is known, for each of them on its own and added up; where tasks share their outputs, over all.
    `weighting` by_task: in task t, 1/t CE + (1 - 1/t) alpha KD, KD as a mean over the tasks (van de Ven et al. 2022).
    """

    needs_labels = True

    def __init__(self, alpha: float, temperature: float, weighting: str = "together"):
        check_weights(alpha=alpha)
        if temperature <= 0:
            raise ValueError(f"strategy.temperature must be above 0, got {temperature}")
        if weighting not in WEIGHTINGS:
            raise ValueError(f"strategy.weighting={weighting} does not exist; valid: {', '.join(WEIGHTINGS)}")
        self.alpha, self.temperature, self.weighting = alpha, temperature, weighting

    def before_task(self, stage: int, samples: Samples) -> None:
        self.task_number = stage + 1
        self.teacher = copy.deepcopy(self.model).eval() if stage else None
        past = sorted({task for tasks in self.stages[:stage] for task in tasks})
        if not self.task_outputs:
            self.groups = [range(self.num_outputs)]
        elif self.foreign_outputs is not None:
            self.groups = [self.task_outputs[task] for task in past]
        else:
            self.groups = [[output for task in past for output in self.task_outputs[task]]]

    def loss(self, batch: Batch, draws: list[Records]) -> torch.Tensor:
        x = self.transform.train(batch.x)
        logits = self.network(x)
        new = mean_of(self.cross_entropy(logits, batch.y, batch.task), batch)
        if self.teacher is None:
            return new
        with torch.no_grad():
            targets = self.teacher(x)
        groups = [list(group) for group in self.groups]
        old = sum(distillation(logits[:, group], targets[:, group], self.temperature) for group in groups)
        old = self.alpha * mean_of(old, batch)
        if self.weighting == "together":
            return new + old
        return new / self.task_number + old / len(groups) * (1 - 1 / self.task_number)


def distillation(logits: torch.Tensor, targets: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 times the cross entropy of two predictions at temperature T, mean over samples; both [n, C]."""
    expected = (targets / temperature).softmax(1)
    return -(expected * (logits / temperature).log_softmax(1)).sum(1).mean() * temperature**2
