"""WUDI-Merging (Cheng et al. 2025, Whoever Started the Interference Should End It): no layer disturbs another task."""

from collections.abc import Sequence
from typing import Literal

import torch

from cl.values import BelowOne, Count
from merging.vectors.matrices import MatrixFusion
from merging.vectors.scaled import Scaled


class Wudi(Scaled, MatrixFusion):
    """The tau of each layer that minimises sum_i ||(tau - Delta_i) Delta_i^T||^2 / ||Delta_i||^2 (eq. 11).

    The rows of Delta_i span about the inputs of the layer in task i, so tau answers the inputs of each task as its own
    model does. With A = sum_i Delta_i^T Delta_i / ||Delta_i||^2 and B = sum_i Delta_i Delta_i^T Delta_i / ||Delta_i||^2
    the minimiser is B A^+. Directions with eigenvalues of A below `cutoff` times the largest are left out: the models
    hardly use them, and what little they say of them would be blown up by as much as 1 / sqrt(cutoff). There tau is the
    sum of all Delta_i, from which the paper's descent starts (its code takes 300 steps of Adam, and so hardly moves in
    these directions either).
    """

    method = "wudi"

    def __init__(self, cutoff: BelowOne = 0.001, scale: float | Literal["search"] = 1.0, samples_per_task: Count = 100):
        self.cutoff, self.scale, self.samples_per_task = cutoff, scale, samples_per_task

    def merged(self, deltas: Sequence[torch.Tensor]) -> torch.Tensor:
        total = sum(deltas)
        inside = torch.zeros(total.shape[1], total.shape[1], dtype=total.dtype, device=total.device)
        wanted = torch.zeros_like(total)
        for delta in deltas:
            length = delta.square().sum()
            if length:
                gram = delta.T @ delta / length
                inside += gram
                wanted += delta @ gram
        # Without inputs that no model has ever used: LAPACK fails on some matrices of mostly 0.
        lit = inside.diag() > 0
        if lit.any():
            missing = (wanted - total @ inside)[:, lit]
            total[:, lit] += missing @ torch.linalg.pinv(inside[lit][:, lit], rtol=self.cutoff, hermitian=True)
        return total
