"""Gradient based Sample Selection (Aljundi et al. 2019, Gradient Based Sample Selection for Online Continual Learning).

The memory keeps samples whose gradients point in different directions: of two that could be kept, the one whose
gradient is like that of other stored samples gives way.
"""

from typing import Literal

import numpy as np
import torch

from cl import seeding
from cl.data.rows import Rows
from cl.networks.modes import in_evaluation_mode
from cl.strategies.base import Strategy
from cl.strategies.context import StrategyContext
from cl.strategies.gradients import cosines
from cl.values import Count

UNKNOWN = 1.0  # the score of samples that come when nothing is stored: as if at right angles


class Gss(Strategy):
    """CE(f([x ; x']), [y ; y']) as in `er`; (x', y') from a memory that is filled by GSS-Greedy (algorithm 2).

    After a step each new sample has the score c = 1 + the largest cosine between the gradient of its loss and those of
    `compared` random stored samples. While there is room it is stored. Then, if c < 1, a stored sample i is drawn with
    a probability in proportion to its score c_i, and gives way with the probability c_i / (c_i + c).

    `gate` batch: what has to be below 1 is the score of the mean gradient of the new samples of the step (of the rank),
    as in Mammoth and in the survey of Mai et al. 2022; with sample it is that of the sample itself, as in the paper.
    Gradients are those of single samples, without augmentation, in evaluation mode. Every rank keeps the whole memory,
    decides alike on the new samples of all, and draws its own x'.
    """

    needs_labels = uses_memory = mixable = True

    def __init__(self, replay_batch_size: Count, compared: Count = 10, gate: Literal["sample", "batch"] = "sample"):
        self.replay_batch_size, self.compared, self.gate = replay_batch_size, compared, gate

    def setup(self, context: StrategyContext) -> None:
        super().setup(context)
        self.steps, self.stored = 0, 0
        self.memory: dict[str, torch.Tensor] = {}  # by column, with room for `capacity` samples
        self.scores = torch.zeros(0, dtype=torch.float64)  # of the stored samples

    def random(self, purpose: str, *which: int) -> np.random.Generator:
        """The generator of random numbers for a purpose in this step."""
        return seeding.generator(self.seed, purpose, self.steps, *which)

    def rows(self, places: torch.Tensor) -> Rows:
        """Stored samples by their places."""
        places = places.to(self.updater.device)
        return Rows({name: column[places] for name, column in self.memory.items()})

    def recall(self) -> list[Rows]:
        if not self.stored:
            return []
        places = self.random("replay", self.updater.comm.rank).permutation(self.stored)[: self.replay_batch_size]
        self.replayed_samples += len(places)
        return [self.rows(torch.from_numpy(places))]

    def loss(self, batch: Rows, draws: list[Rows]) -> torch.Tensor:
        return self.loss_together([part for part in (batch, *draws) if part.loss_weight] or [batch])

    def observe(self, batch: Rows) -> torch.Tensor:
        loss = super().observe(batch)
        own = batch.part(slice(None if batch.loss_weight else 0))  # no sample twice, where other ranks have it
        every = self.updater.comm.gather([own.columns, *self.scores_of(own)])
        random = self.random("insertion")
        for columns, scores, admitted in every:
            columns = {name: column.to(self.updater.device) for name, column in columns.items()}
            self.offer(columns, scores, admitted, random)
        self.steps += 1
        return loss

    def scores_of(self, new: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """[n] float64 and bool, on the CPU: the score of each new sample, and whether another may give way to it."""
        if not self.stored or not len(new):
            scores = torch.full((len(new),), UNKNOWN, dtype=torch.float64)
            return scores, scores < 1
        places = self.random("compared").permutation(self.stored)[: self.compared]
        both = Rows.cat([self.rows(torch.from_numpy(places)), Rows(new.columns)])
        with in_evaluation_mode(self.model), self.passes.paused():
            x, mask = self.transform.test(both.x), self.outputs.for_training
            each, together = cosines(self.model, self.updater.weights, mask, x, both.y, both.task, len(places))
        taken = len(new) + len(places) * self.updater.comm.is_main  # the stored ones on every rank alike: counted once
        self.passes.count(forward=taken, backward=taken)
        scores = 1 + each.max(1)[0].double().cpu()
        return scores, scores < 1 if self.gate == "sample" else (together.max() < 0).cpu().expand(len(scores))

    def offer(
        self,
        columns: dict[str, torch.Tensor],
        scores: torch.Tensor,
        admitted: torch.Tensor,
        random: np.random.Generator,
    ) -> None:
        """Store what algorithm 2 lets in, one after the other, of samples with what `scores_of` gives."""
        if not self.memory:
            self.memory = {name: column.new_zeros(self.capacity, *column.shape[1:]) for name, column in columns.items()}
        for number, (score, may) in enumerate(zip(scores.tolist(), admitted.tolist())):
            if self.stored < self.capacity:
                place, self.stored = self.stored, self.stored + 1
                self.scores = torch.cat([self.scores, torch.zeros(1, dtype=torch.float64)])
            elif may:
                sums = self.scores.cumsum(0)
                place = int(torch.searchsorted(sums, random.random() * sums[-1], right=True).clamp(max=len(sums) - 1))
                theirs = self.scores[place].item()
                if random.random() >= theirs / (theirs + score):
                    continue
            else:
                continue
            self.scores[place] = max(score, 1e-9)  # a cosine of -1: it could never be drawn
            for name, column in self.memory.items():
                column[place] = columns[name][number]

    @property
    def nbytes(self) -> int:
        used = sum(column[: self.stored].nbytes for column in self.memory.values())
        return used // self.updater.comm.size  # every rank has them all; one copy is counted

    def stored_samples(self) -> list[Rows]:
        return [Rows({name: column[: self.stored] for name, column in self.memory.items()})] if self.stored else []

    def state_dict(self) -> dict:
        stored = {name: column[: self.stored] for name, column in self.memory.items()}
        return super().state_dict() | {"steps": self.steps, "stored": stored, "scores": self.scores}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.steps, self.stored, self.scores = state["steps"], len(state["scores"]), state["scores"].cpu().clone()
        self.memory = {}
        for name, column in state["stored"].items():
            room = torch.zeros(self.capacity, *column.shape[1:], dtype=column.dtype, device=self.updater.device)
            room[: self.stored] = column.to(room.device)
            self.memory[name] = room
