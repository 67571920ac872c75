"""Averaged Gradient Episodic Memory (Chaudhry et al. 2019, Efficient Lifelong Learning with A-GEM, eq. 11).

The gradient of the new samples is projected so that it does not, to first order, raise the loss on a draw from the
memory. The memory holds equally many samples of each task that is over (their algorithm 2).
"""

from typing import Literal

import torch

from cl.buffers.base import Records
from cl.data.rows import Rows
from cl.strategies.replay import ReplayStrategy
from cl.values import Count


class Agem(ReplayStrategy):
    """g - min(0, g.g_ref) / (g_ref.g_ref) g_ref, with g and g_ref the gradients of the new and of the replayed samples.

    Both are means over all ranks before they are compared, so every rank projects alike.
    """

    changes_gradients = True

    def __init__(
        self, replay_batch_size: Count, replay_from: Count = 1, filling: Literal["stream", "task_end"] = "task_end"
    ):
        super().__init__(replay_batch_size, replay_from, filling)

    def adjust_gradients(self, batch: Rows, draws: list[Records]) -> None:
        if not any(draws):
            return
        (replayed,) = draws
        count = min(self.updater.accumulation_steps, max(1, len(replayed) // self.fewest_samples))
        parts = replayed.split(count)
        reference = self.updater.gradient(lambda part: self.mean_loss(self.forward(part["x"]), [part]), parts)
        project(self.updater.gradients(), reference)


def project(gradients: list[torch.Tensor], reference: list[torch.Tensor]) -> None:
    """Replace gradients by the closest ones whose product with a reference is not negative, in place.

    The solution of the quadratic programme: minimise |g' - g|^2 / 2 subject to g'.g_ref >= 0.
    """
    product = sum(torch.sum(g * r) for g, r in zip(gradients, reference))
    square = sum(torch.sum(r * r) for r in reference)
    tiny = torch.finfo(square.dtype).tiny
    factor = product.clamp(max=0) / square.clamp(min=tiny)
    for g, r in zip(gradients, reference):
        g.sub_(factor * r)
