"""Dark Experience Replay++ (Buzzega et al. 2020, Dark Experience for General Continual Learning, eq. 6).

Two independent draws per step: the network is held to the stored logits of the first and to the labels of the second.
"""

import torch

from cl.buffers.base import Records
from cl.data.rows import Rows
from cl.strategies.der import Der, distillation
from cl.values import Count, NotNegative


class Derpp(Der):
    """CE(f(x), y) + alpha MSE(f(x'), z') + beta CE(f(x''), y''): three separate means.

    `folded`: CE(f([x ; x'']), [y ; y'']) + alpha MSE(f(x'), z'), one mean over new samples and second draw together
    (Bouvier et al. 2024); it has no beta. `distillation_batch_size`: records of the first draw, None as many as of the
    second; `distill_from`: the task, counted from 1, with which distillation begins.
    """

    num_draws = 2
    stackable = True

    def __init__(
        self,
        replay_batch_size: Count,
        alpha: NotNegative,
        beta: NotNegative | None,
        distillation_batch_size: Count | None = None,
        replay_from: Count = 1,
        distill_from: Count = 1,
        folded: bool = False,
    ):
        self.distillation_batch_size = replay_batch_size if distillation_batch_size is None else distillation_batch_size
        self.distill_from = distill_from
        if folded and beta is not None:
            raise ValueError("strategy.folded=true has no weight for the second draw: set strategy.beta=null")
        if not folded and beta is None:
            raise ValueError("strategy.beta=null belongs to strategy.folded=true: give it a number of at least 0")
        super().__init__(replay_batch_size, alpha, replay_from)
        self.beta, self.folded = beta, folded
        self.needs_boundaries |= distill_from > 1

    def sizes_of_draws(self, stage: int) -> tuple[int, ...]:
        distilled = self.distillation_batch_size if stage + 1 >= self.distill_from else 0
        return (distilled, *super().sizes_of_draws(stage)[1:])

    def loss(self, batch: Rows, draws: list[Records]) -> torch.Tensor:
        first, second = draws or (None, None)
        rehearsed = [second] if second else []
        # Each group goes through the network as one batch.
        groups = [[batch, *rehearsed]] if self.folded else [[batch], *([part] for part in rehearsed)]
        if first:
            groups.append([first])
        logits = self.forward_each(*(images(group) for group in groups))
        self.new_logits = logits[0][: len(batch)].detach().float()
        loss = self.mean_loss(logits[0], groups[0])
        if second and not self.folded:
            loss = loss + self.beta * self.mean_loss(logits[1], [second])
        if first:
            loss = loss + self.alpha * distillation(logits[-1], first)
        return loss


def images(group: list[Rows]) -> torch.Tensor:
    """The images of some rows, one after the other."""
    return group[0]["x"] if len(group) == 1 else torch.cat([rows["x"] for rows in group])
