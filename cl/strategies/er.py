"""Experience Replay (Chaudhry et al. 2019, On Tiny Episodic Memories in Continual Learning).

One forward pass over new and replayed samples together, one mean cross entropy over both.
"""

import torch

from cl.buffers.base import Records
from cl.loader import Batch
from cl.strategies.replay import ReplayStrategy


class Er(ReplayStrategy):
    """CE(f([x ; x']), [y ; y']), (x', y') drawn from the memory."""

    def loss(self, batch: Batch, draws: list[Records]) -> torch.Tensor:
        if not draws:
            return super().loss(batch, draws)
        (replayed,) = draws
        logits = self.forward(torch.cat((batch.x, replayed["x"])))
        return self.cross_entropy(
            logits, torch.cat((batch.y, replayed["y"])), torch.cat((batch.task, replayed["task"]))
        )
