"""Batches of one epoch from tensors in memory: an order by seed, task and epoch, every sample exactly once."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from cl import seeding
from cl.scenarios import Samples

GATHER_BYTES = 2**20


@dataclass(slots=True)
class Batch:
    """New samples, raw: `x` [B, C, H, W] uint8, `y` [B] int64, `task` [B] int64."""

    x: torch.Tensor
    y: torch.Tensor
    task: torch.Tensor


def epoch_batches(samples: Samples, batch_size: int, seed: int, task_id: int, epoch: int) -> Iterator[Batch]:
    """The samples in random order; the last batch holds what is left over.

    Samples are gathered for many batches at once, which then are slices: a gather per batch costs more than its bytes.
    """
    order = seeding.generator(seed, "order", task_id, epoch).permutation(len(samples))
    order = torch.from_numpy(order).to(samples.y.device)
    sample_bytes = samples.x[0].numel() * samples.x.element_size()
    batches = max(1, GATHER_BYTES // (sample_bytes * batch_size))
    for chosen in order.split(batches * batch_size):
        x, y, task = (column.index_select(0, chosen) for column in (samples.x, samples.y, samples.task))
        for part in zip(x.split(batch_size), y.split(batch_size), task.split(batch_size)):
            yield Batch(*part)


def num_batches(num_samples: int, batch_size: int) -> int:
    """Batches of one epoch."""
    return -(-num_samples // batch_size)
