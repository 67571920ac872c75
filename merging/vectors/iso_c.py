"""Iso-C (Marczak et al. 2025, No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces)."""

from collections.abc import Sequence
from typing import Literal

import torch

from cl.values import Count
from merging.vectors.matrices import MatrixFusion, directions
from merging.vectors.scaled import Scaled


class IsoC(Scaled, MatrixFusion):
    """The sum of the task vectors of each layer, with all singular values replaced by their mean (algorithm 1).

    Those are the values above rounding; in a sum of full rank, all of them.
    """

    method = "iso_c"

    def __init__(self, scale: float | Literal["search"] = 1.0, samples_per_task: Count = 100):
        self.scale, self.samples_per_task = scale, samples_per_task

    def merged(self, deltas: Sequence[torch.Tensor]) -> torch.Tensor:
        u, values, vh = directions(sum(deltas))
        return values.mean() * (u @ vh) if len(values) else torch.zeros_like(deltas[0])
