"""MagMax (Marczak et al. 2024, MagMax: Leveraging Model Merging for Seamless Continual Learning)."""

from typing import Literal

import torch

from cl.values import Count
from merging.fusion import EntryFusion, Models, unscaled
from merging.vectors.scaled import Scaled


class Magmax(Scaled, EntryFusion):
    """theta_0 + scale times the largest entry in magnitude over all task vectors, entry by entry.

    running=true gives the same result: the largest so far is compared with the next.
    """

    uses_weights, needs_initial = False, True

    def __init__(self, scale: float | Literal["search"] = 1.0, samples_per_task: Count = 100):
        self.scale, self.samples_per_task = scale, samples_per_task

    def rule(self, models: Models):
        models.need_initial("magmax")
        factor, *_ = unscaled(models, self.scale)

        def merge(start: torch.Tensor, parts: list[torch.Tensor]) -> torch.Tensor:
            largest = parts[0] - start
            if factor != 1:
                largest = largest * factor
            for part in parts[1:]:
                moved = part - start
                largest = torch.where(moved.abs() > largest.abs(), moved, largest)
            return start + self.scale * largest

        return merge
