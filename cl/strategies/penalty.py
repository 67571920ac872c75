"""What the methods share that hold every weight near its earlier value, in proportion to its importance."""

from collections.abc import Sequence

import torch

from cl.buffers.base import Records
from cl.data.rows import Rows
from cl.strategies.base import Strategy


class PenaltyStrategy(Strategy):
    """CE(f(x), y) + strength / 2 sum_i importance_i (theta_i - anchor_i)^2.

    The gradient of the penalty is added in closed form once that of the loss is reduced: it is the same on all ranks.
    The loss that is reported is the first term.
    """

    changes_gradients = mixable = needs_boundaries = True

    def __init__(self, strength: float):
        self.strength = strength
        self.importance: list[torch.Tensor] = []  # of each weight; empty in the first task
        self.anchor: list[torch.Tensor] = []

    @torch.no_grad()
    def adjust_gradients(self, batch: Rows, draws: Sequence[Records]) -> None:
        if not self.importance:
            return
        weights, gradients = self.updater.weights, self.updater.gradients()
        distances = torch._foreach_sub(weights, self.anchor)
        torch._foreach_mul_(distances, self.importance)
        torch._foreach_add_(gradients, distances, alpha=self.strength)

    def current_weights(self) -> list[torch.Tensor]:
        """A copy of the weights as they are now."""
        return [weight.detach().clone() for weight in self.updater.weights]

    @property
    def nbytes(self) -> int:
        # Every rank has them all; one copy is counted.
        return sum(value.nbytes for value in (*self.importance, *self.anchor)) // self.updater.comm.size

    def state_dict(self) -> dict:
        return super().state_dict() | {"importance": self.importance, "anchor": self.anchor}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.importance, self.anchor = (self.copies(state[key]) for key in ("importance", "anchor"))

    def copies(self, values: list[torch.Tensor]) -> list[torch.Tensor]:
        """Copies of some tensors, on the device of the weights."""
        return [value.to(self.updater.device, copy=True) for value in values]
