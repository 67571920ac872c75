"""A strategy of your own: replay with a weight on the loss of the replayed samples."""

import torch

from cl.buffers.base import Records
from cl.data.rows import Rows
from cl.strategies.replay import ReplayStrategy
from cl.values import Count, NotNegative


class WeightedReplay(ReplayStrategy):
    """CE(f(x), y) + weight CE(f(x'), y'), (x', y') drawn from the memory."""

    needs_labels = True

    def __init__(self, replay_batch_size: Count, weight: NotNegative = 1.0):
        super().__init__(replay_batch_size)
        self.weight = weight

    def loss(self, batch: Rows, draws: list[Records]) -> torch.Tensor:
        new = self.loss_together([batch])
        if not any(draws):  # the first step, or nothing stored yet
            return new
        replayed = self.loss_together(draws)
        self.log("replayed_loss", replayed)
        return new + self.weight * replayed
