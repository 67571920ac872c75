"""Batches of one epoch from tensors in memory: an order by seed, task and epoch, every sample exactly once."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from cl import seeding
from cl.scenarios import Samples


@dataclass(slots=True)
class Batch:
    """New samples, raw: `x` [B, C, H, W] uint8, `y` [B] int64, `task` [B] int64."""

    x: torch.Tensor
    y: torch.Tensor
    task: torch.Tensor


def epoch_batches(samples: Samples, batch_size: int, seed: int, task_id: int, epoch: int) -> Iterator[Batch]:
    """The samples in random order; the last batch holds what is left over."""
    order = seeding.generator(seed, "order", task_id, epoch).permutation(len(samples))
    order = torch.from_numpy(order).to(samples.y.device)
    for chosen in order.split(batch_size):
        yield Batch(
            samples.x.index_select(0, chosen), samples.y.index_select(0, chosen), samples.task.index_select(0, chosen)
        )


def num_batches(num_samples: int, batch_size: int) -> int:
    """Batches of one epoch."""
    return -(-num_samples // batch_size)
