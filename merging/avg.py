"""Averaging of weights: sum_i lambda_i theta_i."""

import torch

from merging.fusion import Models, VectorFusion, weighted_mean


class Avg(VectorFusion):
    """The weighted mean of the models' weights."""

    def merge(self, models: Models) -> torch.Tensor:
        return weighted_mean(models.vectors(), models.weights)
