"""Experience Replay with maximally interfered retrieval (Aljundi et al. 2019, Online Continual Learning with MIR).

ER-MIR, their algorithm 1: of some candidates from the memory the step replays those whose loss a step on the new
samples alone would raise most.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch.func import functional_call

from cl.buffers.base import Records
from cl.data.rows import Rows
from cl.networks.modes import evaluating, untracked
from cl.strategies.er import Er
from cl.values import Count


class Mir(Er):
    """CE(f([x ; x']), [y ; y']), x' the records with the largest CE(f_v(x'), y') - CE(f(x'), y') of the candidates.

    f_v has the weights after a virtual step of plain SGD on the new samples of all ranks and accumulation steps, at
    the current learning rate. Each rank chooses among candidates of its own. The virtual gradient is taken as in
    training; the candidates are scored without augmentation, in full precision and in evaluation mode. None of this
    moves weights or batch statistics. The authors' code scores in training mode, adds a mean over the new and one over
    the replayed samples, and takes candidates of earlier tasks only.
    """

    needs_labels = True

    def __init__(
        self,
        replay_batch_size: Count,
        candidates: Count = 50,
        replay_from: Count = 1,
        filling: Literal["stream", "task_end"] = "stream",
    ):
        if candidates < replay_batch_size:
            raise ValueError(
                f"strategy.candidates={candidates} are fewer than the strategy.replay_batch_size={replay_batch_size} "
                "that are chosen from them: raise the first or lower the second"
            )
        self.candidates = candidates
        super().__init__(replay_batch_size, replay_from, filling)

    def sizes_of_draws(self, stage: int) -> tuple[int, ...]:
        return tuple(size and self.candidates for size in super().sizes_of_draws(stage))

    def select(self, batch: Rows, draws: list[Records]) -> list[Records]:
        if not draws or len(draws[0]) <= self.replay_batch_size:
            return draws
        (candidates,) = draws
        self.replayed_samples -= len(candidates) - self.replay_batch_size
        rise = self.rise(candidates, self.virtual_weights(batch))
        return [candidates.part(rise.topk(self.replay_batch_size).indices)]

    def virtual_weights(self, batch: Rows) -> dict[str, torch.Tensor]:
        """The trained weights by name, after a step of SGD on the new samples."""
        parts = [part for part, _ in self.micro_batches(batch, [])]
        with untracked(self.model):
            gradients = self.updater.gradient(lambda part: self.loss_together([part]), parts)
        groups = self.updater.optimizer.param_groups
        rates = {id(weight): group["lr"] for group in groups for weight in group["params"]}
        names = {id(weight): name for name, weight in self.model.named_parameters()}
        return {
            names[id(weight)]: weight.detach() - rates[id(weight)] * gradient
            for weight, gradient in zip(self.updater.weights, gradients)
        }

    def rise(self, records: Records, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        """[n]: by how much the loss on each record is higher with other weights, given by name."""
        x = self.transform.test(records["x"])
        with evaluating(self.model):
            logits = functional_call(self.model, weights, (x,)), self.model(x)
        after, before = (
            F.cross_entropy(self.outputs.for_training(of, records["task"]), records["y"], reduction="none")
            for of in logits
        )
        return after - before
