"""Task arithmetic (Ilharco et al. 2023, Editing Models with Task Arithmetic): theta_0 + scale sum_i tau_i."""

from typing import Literal

import torch

from cl.values import Count
from merging.fusion import EntryFusion, Models
from merging.vectors.scaled import Scaled


class TaskArithmetic(Scaled, EntryFusion):
    """theta_0 + `scale` times the sum of the task vectors tau_i = theta_i - theta_0.

    `scale` None: each tau_i times its model's weight, so 1/n for each of n equal ones. running=true gives the same
    result.
    """

    needs_initial = True

    def __init__(self, scale: float | Literal["search"] | None = None, samples_per_task: Count = 100):
        self.scale, self.samples_per_task, self.uses_weights = scale, samples_per_task, scale is None

    def rule(self, models: Models):
        models.need_initial("task_arithmetic")
        scales = scales_of(models, self.scale)
        return lambda start, parts: start + combine([part - start for part in parts], scales)


def scales_of(models: Models, scale: float | None) -> list[float]:
    """The factor of each task vector: `scale`, or its model's weight if None; an earlier merge is scaled already."""
    if scale is None:
        return list(models.weights)
    return [1.0 if models.merged and not number else scale for number in range(len(models.states))]


def combine(moved: list[torch.Tensor], scales: list[float]) -> torch.Tensor:
    """The sum of the task vectors, each times its factor."""
    total = moved[0] * scales[0]
    for vector, scale in zip(moved[1:], scales[1:]):
        total.add_(vector, alpha=scale)
    return total
