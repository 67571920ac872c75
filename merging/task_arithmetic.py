"""Task arithmetic (Ilharco et al. 2023, Editing Models with Task Arithmetic): theta_0 + scale sum_i tau_i."""

import torch

from merging.fusion import Models, VectorFusion


class TaskArithmetic(VectorFusion):
    """tau_i is what model i has moved from the common init; `scale` None: the models' weights, so 1/n for each of n."""

    def __init__(self, scale: float | None = None):
        self.scale = scale

    def merge(self, models: Models) -> torch.Tensor:
        start, moved = models.task_vectors("task_arithmetic")
        return start + combine(moved, models, self.scale)


def combine(moved: list[torch.Tensor], models: Models, scale: float | None) -> torch.Tensor:
    """The task vectors added up, each times `scale` or its model's weight."""
    return sum((weight if scale is None else scale) * vector for weight, vector in zip(models.weights, moved))
