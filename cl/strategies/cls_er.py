"""CLS-ER (Arani et al. 2022, Learning Fast, Learning Slow: ... Complementary Learning System, eq. 2 to 5, algorithm 1).

Two moving averages of the network stand beside it: a plastic one, which follows quickly, and a stable one. They teach
the network on replayed samples, and the stable one is tested.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from cl.buffers.base import Records
from cl.data.rows import Rows
from cl.networks.lora import changing_state
from cl.seeding import Uniforms
from cl.strategies.context import StrategyContext
from cl.strategies.replay import ReplayStrategy
from cl.strategies.teacher import loaded_teacher, new_teacher
from cl.values import Count, Fraction, NotNegative

AVERAGES = ("plastic", "stable")


class ClsEr(ReplayStrategy):
    """CE(f([x ; x']), [y ; y']) + lambda MSE(f(x'), z'); the MSE is a mean over records and outputs.

    z' are the logits of that average which gives the true class the higher probability, for each record. After each
    step the plastic average is updated with probability `plastic_rate`, average <- a average + (1 - a) weights with
    a = min(1 - 1 / (step + 1), `plastic_decay`); so is the stable one with its own rate and decay. The averages answer
    in evaluation mode, and the statistics of batch-norm are averaged with the weights, over all ranks; the authors'
    averages use those of each batch, and their network sees x' once more for the MSE. Saved and merged is the network.
    """

    needs_labels = True
    plastic: nn.Module  # both from the first task on
    stable: nn.Module

    follows_weights = "tests an average of its own"
    keeps_weights = "strategy=cls_er"  # those of the averages

    def __init__(
        self,
        replay_batch_size: Count,
        lambda_: NotNegative,
        plastic_rate: Fraction = 1.0,
        plastic_decay: Fraction = 0.99,
        stable_rate: Fraction = 0.9,
        stable_decay: Fraction = 0.99,
        replay_from: Count = 1,
    ):
        super().__init__(replay_batch_size, replay_from)
        self.lambda_, self.steps = lambda_, 0
        self.rates, self.decays = (plastic_rate, stable_rate), (plastic_decay, stable_decay)

    def setup(self, context: StrategyContext) -> None:
        super().setup(context)
        self.uniforms = Uniforms(context.seed, "cls_er")  # the same on all ranks

    def start_task(self, stage: int) -> None:
        if stage == 0:
            self.plastic, self.stable = new_teacher(self.model), new_teacher(self.model)

    def loss(self, batch: Rows, draws: list[Records]) -> torch.Tensor:
        if not any(draws):
            return super().loss(batch, draws)
        (draw,) = draws
        x = self.transform.train(torch.cat([batch["x"], draw["x"]]))
        logits, replayed = self.network(x), x[len(batch) :]
        consistency = F.mse_loss(logits[len(batch) :], self.targets(replayed, draw))
        return self.mean_loss(logits, [batch, draw]) + self.lambda_ * draw.weighted(consistency)

    @torch.no_grad()
    def targets(self, images: torch.Tensor, draw: Records) -> torch.Tensor:
        """z' [n, C] for transformed images of records."""
        plastic, stable = self.plastic(images), self.stable(images)
        of_class = [
            self.outputs.for_training(logits, draw["task"]).softmax(1).gather(1, draw["y"][:, None])
            for logits in (plastic, stable)
        ]
        return torch.where(of_class[1] > of_class[0], stable, plastic)

    def observe(self, batch: Rows) -> torch.Tensor:
        loss = super().observe(batch)
        self.steps += 1
        chances = self.uniforms.take(2)
        due = [
            (average, min(1 - 1 / (self.steps + 1), decay))
            for average, decay, rate, chance in zip((self.plastic, self.stable), self.decays, self.rates, chances)
            if chance < rate
        ]
        if due:
            self.update(due)
        return loss

    @torch.no_grad()
    def update(self, due: list[tuple[nn.Module, float]]) -> None:
        """Move some averages, each with its decay, towards the network."""
        statistics = [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]
        if statistics:
            statistics = self.updater.comm.mean(statistics)  # each rank has seen other samples
        for average, decay in due:
            torch._foreach_lerp_(list(average.parameters()), list(self.model.parameters()), 1 - decay)
            buffers = [buffer for buffer in average.buffers() if buffer.is_floating_point()]
            for buffer, new in zip(buffers, statistics):
                buffer.lerp_(new, 1 - decay)

    def classifier(self) -> Callable[[torch.Tensor], torch.Tensor]:
        return self.stable

    @property
    def nbytes(self) -> int:
        # Every rank has both; one copy is counted.
        networks = (changing_state(self.plastic), changing_state(self.stable))
        return sum(value.nbytes for weights in networks for value in weights.values()) // self.updater.comm.size

    def state_dict(self) -> dict:
        averages = {} if self.stage is None else {name: changing_state(getattr(self, name)) for name in AVERAGES}
        return super().state_dict() | averages | {"steps": self.steps, "uniforms": self.uniforms.state()}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.steps = state["steps"]
        self.uniforms.restore(state["uniforms"])
        for name in AVERAGES:
            if name in state:
                whole = self.model.state_dict() | state[name]  # with what is frozen in both
                setattr(self, name, loaded_teacher(self.model, whole))
