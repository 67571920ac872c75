"""Synaptic Intelligence (Zenke et al. 2017, Continual Learning Through Synaptic Intelligence, eq. 3 to 5)."""

import torch

from cl.buffers.base import Records
from cl.data.rows import Rows
from cl.strategies.penalty import PenaltyStrategy
from cl.values import NotNegative, Positive


class Si(PenaltyStrategy):
    """CE(f(x), y) + c sum_i Omega_i (theta_i - theta*_i)^2.

    theta*: the weights at the end of the task before. After each task Omega_i grows by max(0, omega_i) / (D_i^2 + xi),
    where omega_i is the sum over its steps of -dL/dtheta_i times the step that theta_i made, L the loss without the
    penalty, and D_i the way from the weights with which the task started to those with which it ended.

    The paper's eq. 5 does not clamp negative omega_i. Mammoth takes for what a step adds to omega_i the learning rate
    times the square of the clipped gradient with the penalty.
    """

    follows_weights = "adds up what each step of the way has done"

    def __init__(self, c: NotNegative, xi: Positive):
        super().__init__(strength=2 * c)
        self.xi = xi
        self.start: list[torch.Tensor] = []  # of the task: its first weights; empty between two tasks
        self.path: list[torch.Tensor] = []  # of each weight: omega_i so far

    def start_task(self, stage: int) -> None:
        self.start = self.current_weights()
        self.path = [torch.zeros_like(weight) for weight in self.updater.weights]

    def observe(self, batch: Rows) -> torch.Tensor:
        before = [weight.detach().clone() for weight in self.updater.weights]
        loss = super().observe(batch)
        with torch.no_grad():
            steps = torch._foreach_sub(before, self.updater.weights)
            torch._foreach_addcmul_(self.path, self.loss_gradients, steps)
        return loss

    def adjust_gradients(self, batch: Rows, draws: list[Records]) -> None:
        self.loss_gradients = [gradient.clone() for gradient in self.updater.gradients()]
        if self.updater.scaler is not None:  # a step with gradients beyond fp16 is left out, and adds nothing
            self.loss_gradients = [gradient.nan_to_num_(0.0, 0.0, 0.0) for gradient in self.loss_gradients]
        super().adjust_gradients(batch, draws)

    @torch.no_grad()
    def after_task(self, stage: int, samples: Rows) -> None:
        grown = [
            path.clamp(min=0) / ((weight - start) ** 2 + self.xi)
            for path, weight, start in zip(self.path, self.updater.weights, self.start)
        ]
        self.importance = torch._foreach_add(self.importance, grown) if self.importance else grown
        self.anchor = self.current_weights()
        self.start, self.path = [], []

    def state_dict(self) -> dict:
        return super().state_dict() | {"start": self.start, "path": self.path}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.start, self.path = (self.copies(state[key]) for key in ("start", "path"))
