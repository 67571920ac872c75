"""WUDI-Merging (Cheng et al. 2025, Whoever Started the Interference Should End It): no layer disturbs another task."""

from collections.abc import Sequence
from typing import Literal

import torch

from cl.values import Count
from merging.vectors.matrices import MatrixFusion
from merging.vectors.scaled import Scaled

RANK = 1e-10  # eigenvalues below this part of the largest one count as 0


class Wudi(Scaled, MatrixFusion):
    """The tau of each layer that minimises sum_i ||(tau - Delta_i) Delta_i^T||^2 / ||Delta_i||^2 (eq. 11).

    The rows of Delta_i span about the inputs of the layer in task i, so tau answers the inputs of each task as its own
    model does. The minimiser of least norm is (sum_i Delta_i Delta_i^T Delta_i / ||Delta_i||^2) (sum_i Delta_i^T
    Delta_i / ||Delta_i||^2)^+. The paper's code takes 300 steps of Adam from the sum of all Delta_i towards it.
    """

    method = "wudi"

    def __init__(self, scale: float | Literal["search"] = 1.0, samples_per_task: Count = 100):
        self.scale, self.samples_per_task = scale, samples_per_task

    def merged(self, deltas: Sequence[torch.Tensor]) -> torch.Tensor:
        inside = torch.zeros(deltas[0].shape[1], deltas[0].shape[1], dtype=torch.float64, device=deltas[0].device)
        wanted = torch.zeros_like(deltas[0])
        for delta in deltas:
            length = delta.square().sum()
            if length:
                gram = delta.T @ delta / length
                inside += gram
                wanted += delta @ gram
        # Without inputs that no model has ever used: LAPACK fails on some matrices of mostly 0.
        lit = inside.diag() > 0
        if lit.any():
            wanted[:, lit] = wanted[:, lit] @ torch.linalg.pinv(inside[lit][:, lit], rtol=RANK, hermitian=True)
        return wanted
