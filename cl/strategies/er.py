"""Experience Replay (Chaudhry et al. 2019, On Tiny Episodic Memories in Continual Learning).

One forward pass over new and replayed samples together, one mean cross entropy over both.
"""

from typing import Literal

import torch

from cl.buffers.base import Records
from cl.data.rows import Rows
from cl.strategies.replay import ReplayStrategy
from cl.values import Count


class Er(ReplayStrategy):
    """CE(f([x ; x']), [y ; y']), (x', y') drawn from the memory.

    `weighting` by_task: in task t, 1/t CE(f(x), y) + (1 - 1/t) CE(f(x'), y') (van de Ven et al. 2022).
    """

    stackable = True

    def __init__(
        self,
        replay_batch_size: Count,
        replay_from: Count = 1,
        filling: Literal["stream", "task_end"] = "stream",
        weighting: Literal["together", "by_task"] = "together",
    ):
        super().__init__(replay_batch_size, replay_from, filling)
        self.weighting, self.task_number = weighting, 1
        self.mixable = weighting == "together"
        self.needs_boundaries |= weighting == "by_task"

    def set_stage(self, stage: int) -> None:
        super().set_stage(stage)
        self.task_number = stage + 1

    def loss(self, batch: Rows, draws: list[Records]) -> torch.Tensor:
        if not any(draws):
            return super().loss(batch, draws)
        weights = (1 / self.task_number, 1 - 1 / self.task_number)
        parts, weights = zip(*[(part, weight) for part, weight in zip((batch, *draws), weights) if part.loss_weight])
        if self.weighting == "together":
            return self.loss_together(parts)
        outputs = self.forward(torch.cat([part["x"] for part in parts]))
        pieces = outputs.split([len(part) for part in parts])
        means = [part.weighted(self.objective.loss(piece, part)) for piece, part in zip(pieces, parts)]
        return sum(weight * mean for weight, mean in zip(weights, means))
