"""TSV-Merge (Gargiulo et al. 2025, Task Singular Vectors: Reducing Task Interference in Model Merging)."""

from collections.abc import Sequence
from typing import Literal

import torch

from cl.values import Count
from merging.vectors.matrices import MatrixFusion, directions
from merging.vectors.scaled import Scaled


class Tsvm(Scaled, MatrixFusion):
    """U S V^T of each layer, joined from the leading 1/N of the singular vectors of each of N task vectors.

    The joined U and V are replaced by the nearest matrices with orthonormal columns (orthogonal Procrustes, section
    4.3), so that the tasks share no direction. At least one direction of each task is kept, also in a layer with fewer
    outputs than tasks.
    """

    method = "tsvm"

    def __init__(self, scale: float | Literal["search"] = 1.0, samples_per_task: Count = 100):
        self.scale, self.samples_per_task = scale, samples_per_task

    def merged(self, deltas: Sequence[torch.Tensor]) -> torch.Tensor:
        kept = max(1, min(deltas[0].shape) // len(deltas))
        parts = [directions(delta) for delta in deltas if delta.any()]
        if not parts:
            return torch.zeros_like(deltas[0])
        left = torch.cat([u[:, :kept] for u, _, _ in parts], 1)
        right = torch.cat([vh[:kept] for _, _, vh in parts])
        return orthonormal(left) * torch.cat([values[:kept] for _, values, _ in parts]) @ orthonormal(right)


def orthonormal(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest matrix whose columns, or rows if they are fewer, are orthonormal."""
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh
