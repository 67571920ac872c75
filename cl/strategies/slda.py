"""Deep streaming linear discriminant analysis (Hayes & Kanan 2020, Lifelong Machine Learning with Deep Streaming LDA).

A mean for each class and one covariance for all of them, updated with every sample.
"""

from collections.abc import Callable

import torch

from cl.strategies.features import FeatureStrategy
from cl.values import Fraction


class Slda(FeatureStrategy):
    """Scores W phi(x) + b: Lambda = ((1 - s) Sigma + s I)^-1, w_k = Lambda mu_k, b_k = -mu_k . Lambda mu_k / 2.

    Sigma is the covariance of phi within the classes, over all samples so far (the paper's "plastic" one), s the
    `shrinkage`. The paper adds a sample with its distance to the running mean, times t / (t + 1) after t samples of
    any class, and the first sample of a class with its distance to 0; here the sums give the covariance itself, which
    does not depend on the order.
    """

    products = True

    def __init__(self, shrinkage: Fraction = 1e-4):
        self.shrinkage = shrinkage

    def scorer(self) -> Callable[[torch.Tensor], torch.Tensor]:
        means, counts = self.moments.means, self.moments.counts
        within = self.moments.products - (means * counts[:, None]).T @ means
        covariance = (1 - self.shrinkage) * within / counts.sum().clamp(min=1)
        covariance.diagonal().add_(self.shrinkage)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if failed:
            raise ValueError(
                f"strategy.shrinkage={self.shrinkage:g} leaves a covariance of {len(means[0])} features that has no "
                "inverse: give a larger one (the paper: 1e-4)"
            )
        weights = torch.cholesky_solve(means.T, factor)  # [D, C]
        bias = -(means * weights.T).sum(1) / 2
        return lambda features: features @ weights + bias
