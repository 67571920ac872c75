"""What all methods with draws from a memory have: sizes of draws, when replay begins, how the memory is filled."""

from typing import Literal

import torch

from cl import seeding
from cl.buffers.base import ReplayBuffer
from cl.data.rows import Rows
from cl.strategies.base import Strategy
from cl.strategies.context import StrategyContext
from cl.values import Count


def all_records(buffer: ReplayBuffer, capacity: int) -> Rows:
    """All records of a memory, on all ranks together, in the order in which they were offered.

    Draws that were asked for before are forgotten. `capacity`: as many as there can be.
    """
    for _ in range(buffer.pending):
        buffer.receive()
    buffer.request(capacity)
    everything = buffer.receive()
    # Each rank draws the records in another order.
    order = everything.ids.argsort().to(everything["y"].device)
    return Rows(everything.columns).part(order)


class ReplayStrategy(Strategy):
    """A strategy with `num_draws` independent draws of `replay_batch_size` records per step.

    `replay_from`: the task, counted from 1, with which replay begins. `filling`: "stream" offers every new sample to
    the memory in the step that trains on it; "task_end" stores equally many random samples of each class of a task
    once the task is over, as many as its part of the capacity, which all tasks share equally.
    """

    uses_memory = uses_buffer = True
    num_draws = 1

    def __init__(
        self, replay_batch_size: Count, replay_from: Count = 1, filling: Literal["stream", "task_end"] = "stream"
    ):
        self.replay_batch_size, self.replay_from, self.filling = replay_batch_size, replay_from, filling
        self.needs_boundaries = filling == "task_end" or replay_from > 1
        self.draw_sizes = self.sizes_of_draws(0)

    def setup(self, context: StrategyContext) -> None:
        super().setup(context)
        if self.filling == "task_end" and self.buffer.capacity < len(self.stages):
            raise ValueError(
                f"strategy.filling=task_end gives each of {len(self.stages)} tasks the same part of the memory: "
                f"buffer.capacity={self.buffer.capacity} is too small for that"
            )

    def sizes_of_draws(self, stage: int) -> tuple[int, ...]:
        """How many records each draw has in a stage."""
        return (self.replay_batch_size if stage + 1 >= self.replay_from else 0,) * self.num_draws

    def set_stage(self, stage: int) -> None:
        super().set_stage(stage)
        self.draw_sizes = self.sizes_of_draws(stage)

    def before_task(self, stage: int, samples: Rows) -> None:
        super().before_task(stage, samples)
        if stage and self.draw_sizes != self.sizes_of_draws(stage - 1):
            self.request_anew()

    def after_task(self, stage: int, samples: Rows) -> None:
        if self.filling == "task_end":
            self.buffer.add(self.chosen(stage, samples))
            self.request_anew()

    def request_anew(self) -> None:
        """Ask for the draws of the next step, in place of those that were asked for before."""
        for _ in range(self.buffer.pending):
            self.buffer.receive()
        for size in self.draw_sizes:
            self.buffer.request(size)

    def exchange(self, offers: list[dict[str, torch.Tensor]]) -> None:
        super().exchange(offers if self.filling == "stream" else [])

    def chosen(self, stage: int, samples: Rows) -> dict[str, torch.Tensor]:
        """This rank's part of the samples of a task that are stored when it is over."""
        return self.share(stage, samples, self.buffer.capacity // len(self.stages)).columns

    def share(self, stage: int, samples: Rows, part: int) -> Rows:
        """This rank's part of `part` random samples of a task, equally many of each of its classes."""
        order = torch.from_numpy(seeding.generator(self.seed, "filling", stage).permutation(len(samples)))
        labels = samples["y"].cpu()[order]
        classes = labels.unique().tolist()
        quotas = [part // len(classes) + (place < part % len(classes)) for place in range(len(classes))]
        kept = torch.cat([order[labels == label][:quota] for label, quota in zip(classes, quotas)])
        comm = self.updater.comm
        # Dealt out in turn, also from task to task, so that every rank's part of the memory has room for them.
        mine = kept[(comm.rank - stage * part) % comm.size :: comm.size].to(samples["y"].device)
        return samples.part(mine).loaded()
