"""What the outputs of a network are held to, and by what they are judged: labels, or targets that they should equal."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
import torch.nn.functional as F


class Objective(ABC):
    """`loss` trains, `measure` tests. Columns are anything that gives a tensor by the name of a column."""

    measures = 1  # how many

    @abstractmethod
    def loss(self, outputs: torch.Tensor, columns) -> torch.Tensor:
        """A mean over the samples."""

    @abstractmethod
    def measure(self, outputs: torch.Tensor, columns) -> list[torch.Tensor]:
        """`measures` tensors [B]: what each sample adds to a sum over samples."""


class Labels(Objective):
    """Cross entropy with the labels `y`; tested by whether the largest output is that of the label.

    `foreign_outputs` [T, C] bool: the outputs that are not the task's own. Where they are given, the loss is over each
    sample's own outputs only, and there is a second measure over them.
    """

    def __init__(self, foreign_outputs: torch.Tensor | None):
        self.foreign_outputs = foreign_outputs
        self.measures = 1 if foreign_outputs is None else 2

    def loss(self, outputs: torch.Tensor, columns) -> torch.Tensor:
        return F.cross_entropy(own_outputs(outputs, self.foreign_outputs, columns["task"]), columns["y"])

    def mixed_loss(self, outputs: torch.Tensor, columns, partner: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The mean of weight CE(f(x), y) + (1 - weight) CE(f(x), y of the partner), for mixed images.

        `partner` [B]: with which other one each sample was mixed, `weight` [B]: its own share.
        """
        own, others = (
            F.cross_entropy(
                own_outputs(outputs, self.foreign_outputs, columns["task"][which]),
                columns["y"][which],
                reduction="none",
            )
            for which in (slice(None), partner)
        )
        return (weight * own + (1 - weight) * others).mean()

    def measure(self, outputs: torch.Tensor, columns) -> list[torch.Tensor]:
        found = [outputs.argmax(1) == columns["y"]]
        if self.foreign_outputs is not None:
            own = own_outputs(outputs, self.foreign_outputs, columns["task"])
            found.append(own.argmax(1) == columns["y"])
        return found


class AbsoluteError(Objective):
    """The mean absolute errors of T targets added up; outputs are [B, T, H, W], a channel for each target."""

    def __init__(self, targets: Iterable[str]):
        self.targets = tuple(targets)

    def loss(self, outputs: torch.Tensor, columns) -> torch.Tensor:
        return self.measure(outputs, columns)[0].mean()

    def measure(self, outputs: torch.Tensor, columns) -> list[torch.Tensor]:
        targets = torch.cat([columns[name] for name in self.targets], dim=1)
        return [(outputs - targets).abs().mean((2, 3)).sum(1)]


def own_outputs(logits: torch.Tensor, foreign_outputs: torch.Tensor | None, task: torch.Tensor) -> torch.Tensor:
    """Logits [B, C] with those of other tasks at minus infinity; as they are where no `foreign_outputs` are given."""
    if foreign_outputs is None:
        return logits
    return logits.masked_fill(foreign_outputs[task], float("-inf"))
