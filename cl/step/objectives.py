"""What the outputs of a network are compared with: labels, or targets that they should equal."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
import torch.nn.functional as F

from cl.data.rows import Rows
from cl.scenarios.outputs import TaskOutputs


class Objective(ABC):
    """`loss` is for training, `measure` for tests. `columns`: those of the rows that `loss` reads."""

    measures = 1  # how many
    columns: tuple[str, ...]

    @abstractmethod
    def loss(self, outputs: torch.Tensor, rows: Rows) -> torch.Tensor:
        """A mean over the rows."""

    @abstractmethod
    def measure(self, outputs: torch.Tensor, rows: Rows) -> list[torch.Tensor]:
        """`measures` tensors [B]: what each row adds to a sum over rows."""


class Labels(Objective):
    """Cross entropy with the labels `y`; tested by whether the largest output is that of the label.

    Where training is told the task of a sample, the loss is without other tasks' classes. Where tasks have different
    outputs, there is a second measure: whether the largest output of the sample's task is that of the label.
    """

    def __init__(self, outputs: TaskOutputs):
        self.outputs = outputs
        self.measures = 1 if outputs.shared else 2
        self.columns = ("y", "task") if outputs.task_aware else ("y",)

    def loss(self, outputs: torch.Tensor, rows: Rows) -> torch.Tensor:
        if self.outputs.task_aware:
            outputs = self.outputs.mask_others(outputs, rows["task"])
        return F.cross_entropy(outputs, rows["y"])

    def mixed_loss(
        self, outputs: torch.Tensor, rows: Rows, partner: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        """The mean of weight CE(f(x), y) + (1 - weight) CE(f(x), y of the partner), for mixed images.

        `partner` [B]: with which other image each was mixed, `weight` [B]: how much of a mixed image is the first one.
        """
        own, others = (
            F.cross_entropy(
                self.outputs.mask_others(outputs, rows["task"][which]) if self.outputs.task_aware else outputs,
                rows["y"][which],
                reduction="none",
            )
            for which in (slice(None), partner)
        )
        return (weight * own + (1 - weight) * others).mean()

    def measure(self, outputs: torch.Tensor, rows: Rows) -> list[torch.Tensor]:
        found = [outputs.argmax(1) == rows["y"]]
        if not self.outputs.shared:
            found.append(self.outputs.mask_others(outputs, rows["task"]).argmax(1) == rows["y"])
        return found


class AbsoluteError(Objective):
    """The mean absolute errors of T targets added up; outputs are [B, T, H, W], a channel for each target."""

    def __init__(self, targets: Iterable[str]):
        self.targets = self.columns = tuple(targets)

    def loss(self, outputs: torch.Tensor, rows: Rows) -> torch.Tensor:
        return self.measure(outputs, rows)[0].mean()

    def measure(self, outputs: torch.Tensor, rows: Rows) -> list[torch.Tensor]:
        targets = torch.cat([rows[name] for name in self.targets], dim=1)
        return [(outputs - targets).abs().mean((2, 3)).sum(1)]
