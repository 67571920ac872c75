"""Batches of one epoch: an order by seed, task and epoch, or that of a stream; every sample exactly once."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from cl import seeding
from cl.data.rows import Rows

GATHER_BYTES = 2**20


def epoch_batches(
    rows: Rows,
    batch_size: int,
    seed: int,
    task_id: int,
    epoch: int,
    rank: int = 0,
    ranks: int = 1,
    fewest: int = 1,
    first: int = 0,
    ordered: bool = False,
) -> Iterator[Rows]:
    """This rank's part of each step of `ranks * batch_size` rows in random order; the last step has the remainder.

    `first`: number of the step to begin with. `ordered`: the rows keep their order, so each step has the next ones.

    The order is the same on every rank, and so is the number of steps. No batch has less than `fewest` rows: a
    remainder is shared among as many ranks as can have that many, and joins the step before where no rank can. A rank
    that gets nothing of the remainder gets rows of other ranks with loss weight 0: it has to take part in the exchange
    of gradients. Raises ValueError where there are fewer than `fewest` rows.
    """
    if len(rows) < fewest:
        raise ValueError(
            f"a stage of training has {len(rows)} samples, and needs at least {fewest}"
            + (": batch normalisation takes a variance over them" if fewest > 1 else "")
        )
    if ordered:
        order = np.arange(len(rows))
    else:
        order = seeding.generator(seed, "order", task_id, epoch).permutation(len(rows))
    steps = num_batches(len(rows), batch_size, ranks, fewest)
    size = batch_size * ranks
    # Of each step, rank r takes the r-th run of batch_size rows; of the remainder, every ranks-th row.
    whole = steps if len(rows) == steps * size else steps - 1
    mine = order[: whole * size].reshape(-1, ranks, batch_size)[:, rank].reshape(-1)
    rest = order[whole * size :]
    device = rows["y"].device
    chosen = list(torch.from_numpy(mine).to(device).split(batch_size)) if len(mine) else []
    weights = [1.0] * len(chosen)
    if len(rest):
        takers = min(ranks, len(rest) // fewest)
        taken = rest[rank::takers] if rank < takers else rest[:0]
        weights.append(ranks * len(taken) / len(rest))
        chosen.append(torch.from_numpy(taken if len(taken) else rest[:fewest]).to(device))
    for batch, weight in zip(_gathered(rows, chosen[first:]), weights[first:]):
        batch.loss_weight = weight
        yield batch


def in_order(rows: Rows, batch_size: int, rank: int = 0, ranks: int = 1) -> Iterator[Rows]:
    """The rows in their order, in batches; of the batches every `ranks`-th, beginning with number `rank`."""
    starts = range(rank * batch_size, len(rows), ranks * batch_size)
    parts = [slice(start, min(start + batch_size, len(rows))) for start in starts]
    if isinstance(rows["x"], torch.Tensor):
        for part in parts:
            yield rows.part(part)
    else:
        yield from _gathered(rows, [torch.arange(part.start, part.stop) for part in parts])


def _gathered(rows: Rows, chosen: Sequence[torch.Tensor]) -> Iterator[Rows]:
    """The rows at some indices, batch by batch."""
    if not isinstance(rows["x"], torch.Tensor):
        others = {name: column for name, column in rows.columns.items() if name != "x"}
        for x, part in zip(rows["x"].stream(chosen), chosen):
            part = part.to(rows["y"].device)
            yield Rows({"x": x} | {name: column.index_select(0, part) for name, column in others.items()})
        return
    # Gathered for many batches at once, which then are slices: a gather per batch costs more than its bytes.
    row_bytes = rows["x"][0].numel() * rows["x"].element_size()
    at_once = max(1, GATHER_BYTES // (row_bytes * len(chosen[0]))) if chosen else 1
    for first in range(0, len(chosen), at_once):
        parts = chosen[first : first + at_once]
        indices, sizes = torch.cat(list(parts)), [len(part) for part in parts]
        pieces = [column.index_select(0, indices).split(sizes) for column in rows.columns.values()]
        for batch in zip(*pieces):
            yield Rows(dict(zip(rows.columns, batch)))


def num_batches(num_rows: int, batch_size: int, ranks: int = 1, fewest: int = 1) -> int:
    """Steps of one epoch; a remainder of less than `fewest` rows is no step, but part of the one before."""
    whole, rest = divmod(num_rows, batch_size * ranks)
    return max(1, whole + (rest >= fewest))
