"""Rows: the one type of samples, from the data set to the loss and to the replay memory.

A data set, the training set of a stage, a batch, a part of a batch and a draw from the memory are all `Rows`. Selecting
and joining rows reads no picture file.
"""

from collections.abc import Iterable, Sequence

import torch

from cl.data.streaming import FileImages

Column = torch.Tensor | FileImages
Selection = torch.Tensor | slice  # a mask [N] bool, indices, or a slice


class Rows:
    """Columns of the same length N by name: `x` [N, C, H, W], `y` [N] int64, `task` [N] int64, targets [N, ...].

    x is a tensor, or pictures that stay in their files until they are asked for. `loss_weight` is the factor on the
    mean loss over these rows in the loss of a step: 1 for rows that are the whole step. With several ranks it is
    ranks * N / rows of the step on all ranks, so that the mean over ranks is the mean over all rows of the step; for a
    part of a batch it is times its share of the batch's rows. Rows of weight 0 are there because every rank has to
    take part in the exchange of gradients.
    """

    __slots__ = ("columns", "loss_weight")

    def __init__(self, columns: dict[str, Column], loss_weight: float = 1.0):
        self.columns, self.loss_weight = columns, loss_weight

    def __len__(self) -> int:
        return self.columns["y"].shape[0]  # in half the time of len

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    @property
    def x(self) -> Column:
        return self.columns["x"]

    @property
    def y(self) -> torch.Tensor:
        return self.columns["y"]

    @property
    def task(self) -> torch.Tensor:
        return self.columns["task"]

    def part(self, which: Selection, loss_weight: float = 1.0) -> "Rows":
        """Some of the rows."""
        return Rows({name: column[which] for name, column in self.columns.items()}, loss_weight)

    def split(self, count: int) -> list["Rows"]:
        """`count` parts of nearly equal length, whose loss weights add up to this one.

        With fewer rows than parts, some of the parts are one row with loss weight 0.
        """
        bounds = [len(self) * i // count for i in range(count + 1)]
        return [
            self.part(slice(a, b), self.loss_weight * ((b - a) / len(self))) if b > a else self.part(slice(0, 1), 0.0)
            for a, b in zip(bounds, bounds[1:])
        ]

    def to(self, device: torch.device) -> "Rows":
        """The same rows on a device."""
        return Rows({name: column.to(device) for name, column in self.columns.items()}, self.loss_weight)

    def loaded(self) -> "Rows":
        """The same rows with their pictures in memory."""
        if isinstance(self.columns["x"], torch.Tensor):
            return self
        return Rows(self.columns | {"x": self.columns["x"].load()}, self.loss_weight)

    def weighted(self, mean: torch.Tensor) -> torch.Tensor:
        """What a mean over these rows adds to the loss of the step: the mean times `loss_weight`."""
        return mean if self.loss_weight == 1 else mean * self.loss_weight

    @staticmethod
    def cat(parts: Sequence["Rows"], names: Iterable[str] | None = None) -> "Rows":
        """Several parts, one after the other; of their columns `names`, None for those of the first part.

        A single part is returned itself. A mean over the result, times its loss weight, adds to the loss of the step
        what the parts would add if the step had them alone: so parts of loss weight 0 must be left out.
        """
        if len(parts) == 1:
            return parts[0]
        names = parts[0].columns if names is None else names
        columns = {name: _cat([part.columns[name] for part in parts]) for name in names}
        if all(part.loss_weight == 1 for part in parts):
            return Rows(columns)
        return Rows(columns, sum(map(len, parts)) / sum(len(part) / part.loss_weight for part in parts))


def _cat(columns: list[Column]) -> Column:
    return torch.cat(columns) if isinstance(columns[0], torch.Tensor) else FileImages.cat(columns)
