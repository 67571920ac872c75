"""RanPAC (McDonnell et al. 2023, RanPAC: Random Projections and Pre-trained Models for Continual Learning).

Ridge regression from random features of the features to the classes, from sums over all samples.
"""

from collections.abc import Callable

import torch

from cl import seeding
from cl.data.rows import Rows
from cl.strategies.context import StrategyContext
from cl.strategies.features import FeatureStrategy, Moments
from cl.values import Count, Positive

RIDGES = [10.0**power for power in range(-8, 9)]  # among which lambda is chosen
PART = 5  # every fifth sample of a task is held out


class Ranpac(FeatureStrategy):
    """Scores W h(x), h = relu(phi(x) P), W = (G + lambda I)^-1 C, G = sum h h^T, C = sum h y^T (eq. 6, algorithm 1).

    P [features, `num_features`] is drawn from N(0, 1) by the seed of the run, so only G and C persist. `lambda_`: None
    for the power of ten from 1e-8 to 1e8 that has the least squared error on a fifth of the newest task's samples when
    W is fitted to its others (appendix F.6); afterwards all of them are part of G and C.
    """

    products = True

    def __init__(self, num_features: Count = 2000, lambda_: Positive | None = None):
        self.num_features, self.lambda_ = num_features, lambda_
        self.chosen: float | None = lambda_
        self.needs_boundaries = lambda_ is None  # it is chosen when a task is over

    def setup(self, context: StrategyContext) -> None:
        super().setup(context)
        generator = torch.Generator().manual_seed(seeding.derive(self.seed, "projection"))
        shape = self.features.width, self.num_features
        self.projection = torch.randn(shape, generator=generator).to(self.updater.device)
        self.fitted = self.held = None  # sums over the task that is under way, where lambda is chosen

    @property
    def vector_width(self) -> int:
        return self.num_features

    def vectors(self, images: torch.Tensor) -> torch.Tensor:
        return (super().vectors(images) @ self.projection).relu()

    def before_task(self, stage: int, samples: Rows) -> None:
        super().before_task(stage, samples)
        if self.lambda_ is not None:
            return
        if len(samples) < PART:
            raise ValueError(
                f"strategy=ranpac chooses lambda on every fifth sample of a task, and task {stage + 1} has "
                f"{len(samples)}: give strategy.lambda_"
            )
        self.fitted, self.held = self.new_moments(), self.new_moments()

    def add(self, vectors: torch.Tensor, labels: torch.Tensor) -> None:
        if self.held is None:
            self.moments.add(vectors, labels)
            return
        before = int(self.fitted.counts.sum() + self.held.counts.sum())
        held = (before + torch.arange(len(labels), device=labels.device)) % PART == PART - 1
        self.fitted.add(vectors[~held], labels[~held])
        self.held.add(vectors[held], labels[held])

    def after_task(self, stage: int, samples: Rows) -> None:
        if self.held is not None:
            self.chosen = best_ridge(self.fitted, self.held)
            self.moments = self.all_moments()
            self.fitted = self.held = None

    def all_moments(self) -> Moments:
        if self.held is None:
            return self.moments
        total = self.new_moments()
        for part in (self.moments, self.fitted, self.held):
            total.include(part)
        return total

    def scorer(self) -> Callable[[torch.Tensor], torch.Tensor]:
        total = self.all_moments()
        ridge = best_ridge(self.fitted, self.held) if self.chosen is None else self.chosen
        system = total.products.clone()
        system.diagonal().add_(ridge)
        weights = torch.linalg.solve(system, total.sums.T)  # [D, C]
        return lambda vectors: vectors @ weights

    def state_dict(self) -> dict:
        parts = [None if part is None else part.state_dict() for part in (self.fitted, self.held)]
        return super().state_dict() | {"parts": parts, "lambda": self.chosen}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.chosen = state["lambda"]
        self.fitted, self.held = (None if part is None else self.new_moments() for part in state["parts"])
        for own, part in zip((self.fitted, self.held), state["parts"]):
            if own is not None:
                own.load_state_dict(part)


def best_ridge(fitted: Moments, held: Moments) -> float:
    """The lambda of `RIDGES` whose W, fitted to some samples, has the least squared error on those held out.

    The sums are enough: the error of all outputs together is a constant - 2 <W, C> + <W, G W> with G and C of the
    samples held out.
    """
    errors = []
    for ridge in RIDGES:
        system = fitted.products.clone()
        system.diagonal().add_(ridge)
        factor, failed = torch.linalg.cholesky_ex(system)
        if failed:  # too small a lambda for double precision
            errors.append(float("inf"))
            continue
        weights = torch.cholesky_solve(fitted.sums.T, factor)
        errors.append(((weights * (held.products @ weights)).sum() - 2 * (weights * held.sums.T).sum()).item())
    return RIDGES[errors.index(min(errors))]
