"""Samples with their labels and tasks: what scenarios make, and training, tests and merges read."""

from dataclasses import dataclass, field

import torch

from cl.data.streaming import FileImages


@dataclass(frozen=True)
class Samples:
    """`x` [N, C, H, W], `y` [N] int64, `task` [N] int64, and further `targets` of N rows by name.

    x is a tensor, or pictures that stay in their files until they are asked for.
    """

    x: torch.Tensor | FileImages
    y: torch.Tensor
    task: torch.Tensor
    targets: dict[str, torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.y)

    def columns(self) -> dict[str, torch.Tensor | FileImages]:
        """Everything by the name that it has in a record."""
        return {"x": self.x, "y": self.y, "task": self.task, **self.targets}

    def to(self, device: torch.device) -> "Samples":
        return of_columns({name: column.to(device) for name, column in self.columns().items()})

    def part(self, which: torch.Tensor | slice) -> "Samples":
        """Some of them, by mask, indices or slice; no file is read."""
        return of_columns({name: column[which] for name, column in self.columns().items()})

    def loaded(self) -> "Samples":
        """The same with their pictures in memory."""
        if isinstance(self.x, torch.Tensor):
            return self
        return Samples(self.x.load(), self.y, self.task, self.targets)


def of_columns(columns: dict) -> Samples:
    """Samples of what `columns` gave."""
    rest = {name: column for name, column in columns.items() if name not in ("x", "y", "task")}
    return Samples(columns["x"], columns["y"], columns["task"], rest)


def joined(parts: list[Samples]) -> Samples:
    """Several parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    columns = [part.columns() for part in parts]
    return of_columns({name: _cat([each[name] for each in columns]) for name in columns[0]})


def _cat(columns: list):
    return torch.cat(columns) if isinstance(columns[0], torch.Tensor) else FileImages.cat(columns)
