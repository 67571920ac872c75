"""Batches of one epoch from tensors in memory: an order by seed, task and epoch, every sample exactly once."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from cl import seeding
from cl.scenarios import Samples

GATHER_BYTES = 2**20


@dataclass(slots=True)
class Batch:
    """New samples, raw: `x` [B, C, H, W] uint8, `y` [B] int64, `task` [B] int64.

    `share` is what the mean over these samples weighs in the mean over the whole step: 1 for a batch that is the step;
    with several ranks, ranks * B / samples of all ranks, so that the mean over ranks is the mean over samples.
    """

    x: torch.Tensor
    y: torch.Tensor
    task: torch.Tensor
    share: float = 1.0

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, name: str) -> torch.Tensor:
        """A column by the name that it has in a record."""
        return getattr(self, name)


def epoch_batches(
    samples: Samples, batch_size: int, seed: int, task_id: int, epoch: int, rank: int = 0, ranks: int = 1
) -> Iterator[Batch]:
    """This rank's part of each step of `ranks * batch_size` samples in random order; the last step has what is left.

    The order is the same on every rank, and so is the number of steps. A rank for which nothing is left in the last
    step gets a sample of another rank with share 0: it has to take part in the exchange of gradients.
    Samples are gathered for many batches at once, which then are slices: a gather per batch costs more than its bytes.
    """
    order = seeding.generator(seed, "order", task_id, epoch).permutation(len(samples))
    whole = len(samples) // (batch_size * ranks) * batch_size * ranks
    # Of each step, rank r takes the r-th run of batch_size samples; of a ragged step, every ranks-th sample.
    mine = order[:whole].reshape(-1, ranks, batch_size)[:, rank].reshape(-1)
    left = order[whole:]
    device = samples.y.device
    sample_bytes = samples.x[0].numel() * samples.x.element_size()
    batches = max(1, GATHER_BYTES // (sample_bytes * batch_size))
    for chosen in torch.from_numpy(mine).to(device).split(batches * batch_size) if len(mine) else ():
        columns = (column.index_select(0, chosen).split(batch_size) for column in (samples.x, samples.y, samples.task))
        for x, y, task in zip(*columns):
            yield Batch(x, y, task)
    if len(left):
        own = left[rank::ranks]
        share = ranks * len(own) / len(left)
        chosen = torch.from_numpy(own if len(own) else left[:1]).to(device)
        columns = (column.index_select(0, chosen) for column in (samples.x, samples.y, samples.task))
        yield Batch(*columns, share=share)


def num_batches(num_samples: int, batch_size: int, ranks: int = 1) -> int:
    """Steps of one epoch."""
    return -(-num_samples // (batch_size * ranks))
