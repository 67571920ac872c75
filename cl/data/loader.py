"""Batches of one epoch: an order by seed, task and epoch, every sample exactly once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from cl import seeding
from cl.data.rows import Samples

GATHER_BYTES = 2**20


@dataclass(slots=True)
class Batch:
    """New samples, raw: `x` [B, C, H, W], `y` [B] int64, `task` [B] int64, and what `targets` they have.

    `share` is what the mean over these samples weighs in the mean over the whole step: 1 for a batch that is the step;
    with several ranks, ranks * B / samples of all ranks, so that the mean over ranks is the mean over samples.
    """

    x: torch.Tensor
    y: torch.Tensor
    task: torch.Tensor
    share: float = 1.0
    targets: dict[str, torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, name: str) -> torch.Tensor:
        """A column by the name that it has in a record."""
        return self.targets[name] if name in self.targets else getattr(self, name)

    def columns(self) -> dict[str, torch.Tensor]:
        """Everything by the name that it has in a record."""
        return {"x": self.x, "y": self.y, "task": self.task, **self.targets}


def epoch_batches(
    samples: Samples, batch_size: int, seed: int, task_id: int, epoch: int, rank: int = 0, ranks: int = 1,
    fewest: int = 1,
) -> Iterator[Batch]:  # fmt: skip
    """This rank's part of each step of `ranks * batch_size` samples in random order; the last step has what is left.

    The order is the same on every rank, and so is the number of steps. No batch has less than `fewest` samples: of the
    last step as many ranks as can have that many get their part, and what is left for none of them joins the step
    before. A rank for which nothing is left gets samples of other ranks with share 0: it has to take part in the
    exchange of gradients. Raises ValueError where there are not that many samples.
    """
    if len(samples) < fewest:
        raise ValueError(
            f"a stage of training has {len(samples)} samples, and needs at least {fewest}"
            + (": batch normalisation takes a variance over them" if fewest > 1 else "")
        )
    order = seeding.generator(seed, "order", task_id, epoch).permutation(len(samples))
    steps = num_batches(len(samples), batch_size, ranks, fewest)
    size = batch_size * ranks
    # Of each step, rank r takes the r-th run of batch_size samples; of a ragged step, every ranks-th sample.
    whole = steps if len(samples) == steps * size else steps - 1
    mine = order[: whole * size].reshape(-1, ranks, batch_size)[:, rank].reshape(-1)
    left = order[whole * size :]
    chosen = list(torch.from_numpy(mine).to(samples.y.device).split(batch_size)) if len(mine) else []
    shares = [1.0] * len(chosen)
    if len(left):
        takers = min(ranks, len(left) // fewest)
        own = left[rank::takers] if rank < takers else left[:0]
        shares.append(ranks * len(own) / len(left))
        chosen.append(torch.from_numpy(own if len(own) else left[:fewest]).to(samples.y.device))
    for batch, share in zip(_gathered(samples, chosen), shares):
        batch.share = share
        yield batch


def in_order(samples: Samples, batch_size: int, rank: int = 0, ranks: int = 1) -> Iterator[Batch]:
    """The samples as they are, without augmentation or shuffling; of their batches this rank's, every `ranks`-th."""
    starts = range(rank * batch_size, len(samples), ranks * batch_size)
    parts = [slice(start, min(start + batch_size, len(samples))) for start in starts]
    if isinstance(samples.x, torch.Tensor):
        for part in parts:
            yield _batch({name: column[part] for name, column in samples.columns().items()})
    else:
        yield from _gathered(samples, [torch.arange(part.start, part.stop) for part in parts])


def _gathered(samples: Samples, chosen: Sequence[torch.Tensor]) -> Iterator[Batch]:
    """The samples at some indices, batch by batch."""
    columns = samples.columns()
    if not isinstance(samples.x, torch.Tensor):
        del columns["x"]
        for x, part in zip(samples.x.stream(chosen), chosen):
            part = part.to(samples.y.device)
            yield _batch({"x": x} | {name: column.index_select(0, part) for name, column in columns.items()})
        return
    # Gathered for many batches at once, which then are slices: a gather per batch costs more than its bytes.
    sample_bytes = samples.x[0].numel() * samples.x.element_size()
    at_once = max(1, GATHER_BYTES // (sample_bytes * len(chosen[0]))) if chosen else 1
    for first in range(0, len(chosen), at_once):
        parts = chosen[first : first + at_once]
        indices, sizes = torch.cat(list(parts)), [len(part) for part in parts]
        pieces = [column.index_select(0, indices).split(sizes) for column in columns.values()]
        for batch in zip(*pieces):
            yield _batch(dict(zip(columns, batch)))


def _batch(columns: dict[str, torch.Tensor]) -> Batch:
    x, y, task = (columns.pop(name) for name in ("x", "y", "task"))
    return Batch(x, y, task, targets=columns)


def num_batches(num_samples: int, batch_size: int, ranks: int = 1, fewest: int = 1) -> int:
    """Steps of one epoch; less than `fewest` samples that are left make none of their own."""
    whole, left = divmod(num_samples, batch_size * ranks)
    return max(1, whole + (left >= fewest))
