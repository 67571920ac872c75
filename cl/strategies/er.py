"""Experience Replay (Chaudhry et al. 2019, On Tiny Episodic Memories in Continual Learning).

One forward pass over new and replayed samples together, one mean cross entropy over both.
"""

import torch

from cl.buffers.base import Records
from cl.loader import Batch
from cl.strategies.base import mean_of
from cl.strategies.replay import ReplayStrategy


class Er(ReplayStrategy):
    """CE(f([x ; x']), [y ; y']), (x', y') drawn from the memory."""

    def loss(self, batch: Batch, draws: list[Records]) -> torch.Tensor:
        if not draws:
            return super().loss(batch, draws)
        (replayed,) = draws
        parts = [part for part in (batch, replayed) if part.share]
        x, y, task = (torch.cat([part[name] for part in parts]) for name in ("x", "y", "task"))
        return mean_of(self.cross_entropy(self.forward(x), y, task), *parts)
