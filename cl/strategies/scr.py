"""Supervised Contrastive Replay (Mai et al. 2021, Supervised Contrastive Replay: Revisiting the Nearest Class Mean
Classifier in Online Class-Incremental Continual Learning, eq. 4 to 6).

Features of one class are drawn together and those of others apart; a sample is given the class of the nearest mean.
"""

import contextlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from cl import seeding
from cl.buffers.base import Records
from cl.data.rows import Rows
from cl.networks.modes import evaluating
from cl.strategies.context import StrategyContext
from cl.strategies.contrast import supervised_contrast
from cl.strategies.features import Features, Moments, cosines
from cl.strategies.head import last_layer
from cl.strategies.replay import ReplayStrategy, all_records
from cl.values import Count, Positive

PART = 500  # images whose features are computed at once


class Scr(ReplayStrategy):
    """The supervised contrastive loss over two views of [x ; x'], (x', y') drawn from the memory.

    The views are each image as it is and once augmented; without `dataset.augment` the two are equal. A view is
    z = g(phi(x)) of length 1, g a projection of two layers that is trained along. In tests the score of a class is the
    cosine between phi(x) and the mean of phi, of length 1, over the samples of the class in the memory. The last layer
    of the network is not used. The authors' code does not train before there is something in the memory; a step of
    several ranks, or of several backward passes, contrasts the samples of each with one another.
    """

    defined_in = ("class", "domain", "stream")
    needs_labels = True
    follows_weights = "trains a projection beside the network"
    tested_within = False  # the means take all records out of the memory, in place of the draws of the next step
    keeps_weights = "strategy=scr"  # those of the projection

    def __init__(
        self,
        replay_batch_size: Count,
        temperature: Positive = 0.07,
        projection_dim: Count = 128,
        projection_hidden: Count | None = None,
    ):
        super().__init__(replay_batch_size)
        self.temperature, self.projection_dim, self.projection_hidden = temperature, projection_dim, projection_hidden
        self.means: Moments | None = None  # by class, of the memory's samples; None once a step has changed them

    def trained(self, model: nn.Module, num_outputs: int, seed: int) -> nn.Module:
        head = last_layer(model, num_outputs, "strategy=scr")
        hidden = self.projection_hidden or head.in_features
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeding.derive(seed, "projection"))
            layers = nn.Linear(head.in_features, hidden), nn.ReLU(), nn.Linear(hidden, self.projection_dim)
        self.projection = nn.Sequential(*layers).to(head.weight.device)
        return nn.ModuleList([model, self.projection])

    def setup(self, context: StrategyContext) -> None:
        super().setup(context)
        if self.network is not self.model:
            raise ValueError("strategy=scr looks into the network, which compile=true does not allow: leave it out")
        self.features = Features(self.model, self.outputs.num_outputs, "strategy=scr")
        others = {id(weight) for weight in (*self.features.head.parameters(), *self.projection.parameters())}
        if not any(id(weight) not in others for weight in self.updater.weights):
            raise ValueError(
                "strategy=scr trains what comes before the last layer, and all of that is frozen: choose strategy=ncm"
            )
        weights = {name: value.cpu() for name, value in self.projection.state_dict().items()}
        self.projection.load_state_dict(self.updater.comm.broadcast(weights))  # as the network's own

    def observe(self, batch: Rows) -> torch.Tensor:
        self.means = None
        return super().observe(batch)

    def loss(self, batch: Rows, draws: list[Records]) -> torch.Tensor:
        rows = Rows.cat([part for part in (batch, *draws) if len(part) and part.loss_weight] or [batch], ("x", "y"))
        views = [self.transform.test(rows["x"]), self.transform.train(rows["x"])]
        z = torch.cat([self.projection(self.features(view)) for view in views])
        return rows.weighted(supervised_contrast(z.float(), rows["y"].repeat(2), self.temperature))

    def after_task(self, stage: int, samples: Rows) -> None:
        super().after_task(stage, samples)
        # Every rank computes the same: one of them counts.
        with contextlib.nullcontext() if self.updater.comm.is_main else self.passes.paused():
            self.means = self.class_means()

    def class_means(self) -> Moments:
        """Sums of the features of all samples in the memory."""
        rows = all_records(self.buffer, self.capacity)
        self.request_anew()
        found = Moments(self.outputs.num_outputs, self.features.width, self.updater.device)
        with evaluating(self.model):
            for part in torch.arange(len(rows), device=rows.y.device).split(PART):
                some = rows.part(part)
                found.add(F.normalize(self.features(self.transform.test(some.x))), some.y)
        return found

    def classifier(self) -> Callable[[torch.Tensor], torch.Tensor]:
        if self.means is None:  # asked within a task
            with self.passes.paused():
                self.means = self.class_means()
        means, unseen = self.means.means.float().to(self.updater.device), ~self.means.seen.to(self.updater.device)

        def scores(images: torch.Tensor) -> torch.Tensor:
            return cosines(self.features(images), means).masked_fill(unseen, float("-inf"))

        return scores

    def state_dict(self) -> dict:
        return super().state_dict() | {"projection": self.projection.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.projection.load_state_dict(state["projection"])
