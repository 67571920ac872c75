"""MagMax (Marczak et al. 2024, MagMax: Leveraging Model Merging for Seamless Continual Learning)."""

import torch

from merging.fusion import Models, VectorFusion


class Magmax(VectorFusion):
    """theta_0 + scale times, entry by entry, the task vector of largest magnitude."""

    def __init__(self, scale: float = 1.0):
        self.scale = scale

    def merge(self, models: Models) -> torch.Tensor:
        start, moved = models.task_vectors("magmax")
        stacked = torch.stack(moved)
        largest = stacked.abs().argmax(0, keepdim=True)
        return start + self.scale * stacked.gather(0, largest)[0]
