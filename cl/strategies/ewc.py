"""Elastic Weight Consolidation (Kirkpatrick et al. 2017, eq. 3), online (Schwarz et al. 2018, Progress & Compress)."""

from typing import Literal

import torch

from cl import seeding
from cl.data.rows import Rows
from cl.networks.modes import in_evaluation_mode
from cl.strategies.fisher import SquaredGradients, directions
from cl.strategies.penalty import PenaltyStrategy
from cl.values import Count, Fraction, NotNegative


class Ewc(PenaltyStrategy):
    """CE(f(x), y) + lambda/2 sum_i F_i (theta_i - theta*_i)^2.

    `anchors` online: after each task F <- gamma F + F_t and theta* <- theta. Schwarz et al. have gamma in the penalty
    as well, gamma F in place of F: theirs with lambda is ours with gamma times lambda. separate: a penalty for each
    earlier task, with its own F_t and theta*_t (Kirkpatrick et al.). Their sum is, but for a constant, one penalty with
    the sum of the F_t around the mean of the theta*_t, weighed by F_t: that is what is stored.

    F_t is the diagonal of the Fisher information at the end of task t: the mean over its training samples (or
    `fisher_samples` of them) of the squared gradient of log p(y | x), in expectation over "all" outputs (exact), with y
    "sampled" from the network's own prediction, or the sample's own label ("empirical"). On a converged network a label
    other than the predicted one is hardly ever sampled, and nearly all of the information lies in those.
    """

    needs_labels = True

    def __init__(
        self,
        lambda_: NotNegative,
        gamma: Fraction = 1.0,
        fisher_labels: Literal["all", "sampled", "empirical"] = "all",
        fisher_samples: Count | None = None,
        anchors: Literal["online", "separate"] = "online",
    ):
        if anchors == "separate" and gamma != 1:
            raise ValueError(f"strategy.gamma={gamma} belongs to anchors=online: with anchors=separate leave it at 1")
        super().__init__(strength=lambda_)
        self.gamma, self.anchors = gamma, anchors
        self.fisher_labels, self.fisher_samples = fisher_labels, fisher_samples

    def after_task(self, stage: int, samples: Rows) -> None:
        fisher, before, anchor = self.fisher(stage, samples), self.importance, self.anchor
        self.importance, self.anchor = fisher, self.current_weights()
        if before:
            self.importance = [new + self.gamma * old for new, old in zip(fisher, before)]
        if before and self.anchors == "separate":
            self.anchor = [
                torch.where(total > 0, old + new / total * (weight - old), weight)
                for old, new, total, weight in zip(anchor, fisher, self.importance, self.anchor)
            ]

    def fisher(self, stage: int, samples: Rows) -> list[torch.Tensor]:
        """F_t, a tensor for each weight; every rank computes its part."""
        device, comm = self.updater.device, self.updater.comm
        random = seeding.generator(self.seed, "fisher", stage)
        order = random.permutation(len(samples))[: self.fisher_samples]
        mine = torch.from_numpy(order[comm.rank :: comm.size]).to(samples.y.device)
        numbers = torch.from_numpy(random.random(len(order))[comm.rank :: comm.size]).to(device)
        squares = SquaredGradients(self.model, self.updater.weights, self.outputs.for_training)
        with in_evaluation_mode(self.model), self.passes.paused():
            self._add_up(squares, samples, mine, numbers)
        self.passes.count(forward=len(mine), backward=squares.products)
        totals = [squares.totals[name] for name in squares.names]
        return [value * (comm.size / len(order)) for value in comm.mean(totals)]

    def _add_up(self, squares: SquaredGradients, samples: Rows, mine: torch.Tensor, numbers: torch.Tensor) -> None:
        """Add the samples `mine` [n], each with its random number in `numbers` [n]."""
        device = self.updater.device
        if len(mine):
            chunk = squares.chunk(self.transform.test(samples.part(mine[:2]).loaded().to(device).x))
            for part, uniform in zip(mine.split(chunk), numbers.split(chunk)):
                some = samples.part(part).loaded().to(device)

                def directions_of(probabilities, y=some.y, uniform=uniform):
                    return directions(probabilities, self.fisher_labels, y, uniform)

                squares.add(self.transform.test(some.x), some.task, directions_of)
