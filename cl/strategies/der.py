"""Dark Experience Replay (Buzzega et al. 2020, Dark Experience for General Continual Learning, eq. 5 and algorithm 1).

Records carry the logits that the network gave when they were stored; the network is held to them.
"""

import torch
import torch.nn.functional as F

from cl.buffers.base import Field, Records
from cl.data.rows import Rows
from cl.strategies.replay import ReplayStrategy
from cl.values import Count, NotNegative


class Der(ReplayStrategy):
    """CE(f(x), y) + alpha MSE(f(x'), z'); the MSE is a mean over records and outputs."""

    stackable = True

    def __init__(self, replay_batch_size: Count, alpha: NotNegative, replay_from: Count = 1):
        super().__init__(replay_batch_size, replay_from)
        self.alpha = alpha

    def fields(self, sample_shape: tuple[int, ...], output_shape: tuple[int, ...], *other, **named) -> list[Field]:
        logits = Field("logits", output_shape, torch.float32)
        return [*super().fields(sample_shape, output_shape, *other, **named), logits]

    def loss(self, batch: Rows, draws: list[Records]) -> torch.Tensor:
        draws = [draw for draw in draws if len(draw)]
        logits, *replayed = self.forward_each(batch["x"], *(draw["x"] for draw in draws))
        self.new_logits = logits.detach().float()
        loss = batch.weighted(self.objective.loss(logits, batch))
        for draw, output in zip(draws, replayed):
            loss = loss + self.alpha * distillation(output, draw)
        return loss

    def remember(self, batch: Rows) -> dict[str, torch.Tensor]:
        return {**super().remember(batch), "logits": self.new_logits}


def distillation(logits: torch.Tensor, draw: Records) -> torch.Tensor:
    """The mean squared distance between outputs [n, ...] and those stored with a draw."""
    return draw.weighted(F.mse_loss(logits, draw["logits"]))
