"""The outputs of the network that belong to each task, and masks of other tasks' classes."""

from collections.abc import Iterable, Sequence

import torch


class TaskOutputs:
    """The C = `num_outputs` outputs of a network, with `task_outputs` of each of T tasks; empty: tasks share all.

    `other_classes` [T, C] bool: for each task the outputs of other tasks' classes; None if tasks share all outputs.
    `task_aware`: whether training knows the task of a sample and can mask other tasks' classes.
    """

    def __init__(
        self,
        num_outputs: int,
        task_outputs: Sequence[range] = (),
        task_aware: bool = False,
        device: torch.device = torch.device("cpu"),
    ):
        self.num_outputs, self.task_outputs, self.device = num_outputs, task_outputs, device
        self.shared = not task_outputs
        self.task_aware = task_aware and not self.shared
        self.other_classes: torch.Tensor | None = None
        if not self.shared:
            self.other_classes = torch.stack([~self.of_tasks([task]) for task in range(len(task_outputs))])

    def of_tasks(self, tasks: Iterable[int]) -> torch.Tensor:
        """[C] bool: the outputs of the tasks; all outputs if tasks share them."""
        mask = torch.full((self.num_outputs,), self.shared, device=self.device)
        for task in () if self.shared else tasks:
            mask[list(self.task_outputs[task])] = True
        return mask

    def mask_others(self, logits: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        """Set other tasks' classes to minus infinity in logits [B, C] of samples of the tasks [B]."""
        if self.other_classes is None:
            return logits
        return logits.masked_fill(self.other_classes[task], float("-inf"))

    def for_training(self, logits: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        """The logits [B, C] for a training loss; task-aware training masks other tasks' classes."""
        return self.mask_others(logits, task) if self.task_aware else logits


def keep_only(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Set all logits [B, C] to minus infinity except those of `classes` [C] bool."""
    return logits.masked_fill(~classes, float("-inf"))


def tasks_of(stages: Iterable[Iterable[int]]) -> list[int]:
    """The tasks of the training stages, sorted, each once."""
    return sorted({task for tasks in stages for task in tasks})
