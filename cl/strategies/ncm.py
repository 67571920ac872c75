"""Nearest class mean (SimpleCIL of Zhou et al. 2023, Revisiting Class-Incremental Learning with Pre-Trained Models)."""

from collections.abc import Callable

import torch

from cl.strategies.features import FeatureStrategy, cosines


class Ncm(FeatureStrategy):
    """The score of a class is the cosine between phi(x) and the mean of phi over its samples (eq. 4).

    No weight is trained: each sample passes once, and only the means persist.
    """

    def scorer(self) -> Callable[[torch.Tensor], torch.Tensor]:
        means = self.moments.means
        return lambda features: cosines(features, means)
