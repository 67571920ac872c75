"""Which outputs of the network belong to which task, and the masks that follow from that."""

from collections.abc import Iterable, Sequence

import torch


class TaskOutputs:
    """The `num_outputs` outputs of a network, and in `task_outputs` those of each of T tasks; empty: tasks share them.

    `other_classes` [T, C] bool: for each task the outputs that belong to other tasks, None where tasks share all
    outputs. `task_aware`: whether training is told the task of a sample, and there are masks to use that for.
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
        """[C] bool: the outputs of some tasks; where tasks share their outputs, all."""
        mask = torch.full((self.num_outputs,), self.shared, device=self.device)
        for task in () if self.shared else tasks:
            mask[list(self.task_outputs[task])] = True
        return mask

    def mask_others(self, logits: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of samples of the tasks [B], with other tasks' classes at minus infinity."""
        if self.other_classes is None:
            return logits
        return logits.masked_fill(self.other_classes[task], float("-inf"))

    def for_training(self, logits: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        """Logits as a training loss takes them: without other tasks' classes where training is told the task."""
        return self.mask_others(logits, task) if self.task_aware else logits


def keep_only(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Logits [B, C] with all but some `classes` [C] bool at minus infinity."""
    return logits.masked_fill(~classes, float("-inf"))


def tasks_of(stages: Iterable[Iterable[int]]) -> list[int]:
    """The tasks of some stages of training, each once, in rising order."""
    return sorted({task for tasks in stages for task in tasks})
