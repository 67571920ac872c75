"""Dark Experience Replay++ (Buzzega et al. 2020, Dark Experience for General Continual Learning, eq. 6).

Records carry the logits that the network gave when they were stored. Two independent draws per step: the first is held
to its stored logits, the second to its labels. Three separate means; nothing is folded into one batch.
"""

import torch
import torch.nn.functional as F

from cl.buffers.base import Field, Records
from cl.loader import Batch
from cl.strategies.base import mean_of
from cl.strategies.replay import ReplayStrategy, check_weights


class Derpp(ReplayStrategy):
    """CE(f(x), y) + alpha MSE(f(x'), z') + beta CE(f(x''), y''); the MSE is a mean over records and outputs."""

    num_draws = 2

    def __init__(self, replay_batch_size: int, alpha: float, beta: float):
        super().__init__(replay_batch_size)
        check_weights(alpha=alpha, beta=beta)
        self.alpha, self.beta = alpha, beta

    def fields(self, sample_shape: tuple[int, ...], num_outputs: int) -> list[Field]:
        return [*super().fields(sample_shape, num_outputs), Field("logits", (num_outputs,), torch.float32)]

    def loss(self, batch: Batch, draws: list[Records]) -> torch.Tensor:
        logits, *replayed = self.forward_each(batch.x, *(draw["x"] for draw in draws))
        self.new_logits = logits.detach().float()
        loss = mean_of(self.cross_entropy(logits, batch.y, batch.task), batch)
        if not draws:
            return loss
        (first, second), (first_logits, second_logits) = draws, replayed
        distillation = mean_of(F.mse_loss(first_logits, first["logits"]), first)
        rehearsal = mean_of(self.cross_entropy(second_logits, second["y"], second["task"]), second)
        return loss + self.alpha * distillation + self.beta * rehearsal

    def remember(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {**super().remember(batch), "logits": self.new_logits}
