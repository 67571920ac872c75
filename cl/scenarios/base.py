"""The interface of a scenario, which divides a data set into a sequence of tasks; continuum computes the splits.

A scenario works in two steps. `plan` determines the tasks from the data set's shape alone and rejects impossible ones.
`split` passes the labels to continuum and returns `Tasks` with contiguous samples. Terms as in van de Ven et al. 2022,
Three types of incremental learning. torch is imported only by functions that work on samples; `plan` does not need it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from cl.datasets.base import Dataset, Split

if TYPE_CHECKING:
    import torch

    from cl.data.rows import Rows

# What tasks bring, with a scenario that has it: new classes, with the task of a sample unknown or known, or new inputs.
KINDS = {
    "class": "each task brings new classes and the task is not told (scenario=class10)",
    "task": "each task brings new classes and the task is told (scenario=task5)",
    "domain": "all tasks share their labels (scenario=domain5)",
    "stream": "classes come one after another, and come back in later tasks (scenario=blurry5)",
}


@dataclass(frozen=True)
class Part:
    """One task of one split: the indices of its samples, and their labels in the scenario."""

    indices: np.ndarray
    labels: np.ndarray


class Tasks:
    """The tasks of a scenario with their samples; `len` is their number."""

    def __init__(self, train: Split, test: Split, train_parts: list[Part], test_parts: list[Part], transforms: list):
        self._train, self._test = train, test
        self.train_parts, self.test_parts, self._transforms = train_parts, test_parts, transforms
        self.testing = lru_cache(maxsize=None)(self._testing)  # cached: all tasks are tested after each task

    def __len__(self) -> int:
        return len(self.train_parts)

    def training(self, task_ids: list[int]) -> "Rows":
        """The training samples of the tasks together."""
        from cl.data.rows import Rows

        return Rows.cat([self._gather(self._train, self.train_parts[i], i) for i in task_ids])

    def num_training(self, task_ids: list[int]) -> int:
        """The number of training samples of the tasks."""
        return sum(len(self.train_parts[i].indices) for i in task_ids)

    def classes(self, task_ids: Sequence[int]) -> list[int]:
        """The labels of the training samples of the tasks, sorted."""
        return np.unique(np.concatenate([self.train_parts[i].labels for i in task_ids])).tolist()

    def tested_with(self, task_id: int) -> int:
        """The first task that is tested on the very same samples: the task itself, unless it shares them."""
        same = (
            i for i, part in enumerate(self.test_parts)
            if part is self.test_parts[task_id] and self._transforms[i] is self._transforms[task_id]
        )  # fmt: skip
        return next(same)

    def _testing(self, task_id: int, device: "torch.device") -> "Rows":
        """The test samples of one task on a device."""
        return self._gather(self._test, self.test_parts[task_id], task_id).to(device)

    def testing_once(self, task_ids: Sequence[int], device: "torch.device", by_task: bool = False) -> "Rows":
        """The test samples of several tasks together on a device, each once where tasks share it.

        Two are the same if picture, transformation and label are; with `by_task`, where the task of a sample matters,
        those of different tasks never are. Rows have the first of their tasks.
        """
        import torch

        from cl.data.rows import Rows

        found, parts, done = set(), [], set()
        for task_id in task_ids:
            same = task_id if by_task else self.tested_with(task_id)
            if same in done:
                continue
            done.add(same)
            part, samples = self.test_parts[task_id], self.testing(task_id, device)
            shared = id(self._transforms[task_id]), task_id if by_task else None
            keys = [(*shared, *pair) for pair in zip(part.indices.tolist(), part.labels.tolist())]
            new = [place for place, key in enumerate(keys) if key not in found]
            found.update(keys)
            if new:
                chosen = torch.tensor(new, device=samples.y.device)
                parts.append(samples if len(new) == len(keys) else samples.part(chosen))
        return Rows.cat(parts)

    def _gather(self, split: Split, part: Part, task_id: int) -> "Rows":
        import torch

        from cl.data.rows import Rows
        from cl.data.streaming import FileImages

        chosen = torch.from_numpy(part.indices)
        x, transform = split.x[chosen], self._transforms[task_id]
        if transform is not None:
            x = x.changed(transform) if isinstance(x, FileImages) else transform(x)
        y = torch.tensor(part.labels)
        return Rows(
            {"x": x, "y": y, "task": torch.full_like(y, task_id)}
            | {name: target[chosen] for name, target in split.targets.items()}
        )


class Scenario(ABC):
    """A rule that makes `num_tasks` tasks; `concatenate` joins each task's training data with those of earlier tasks.

    `plan` sets `num_outputs`, the size of the classifier, and `task_outputs`, the outputs of each task (empty if the
    tasks share their labels). `targets`: shapes by name of the targets that replace labels.
    """

    task_aware = False  # whether the task of a sample is known in training and for the scenario's accuracy
    targets: dict[str, tuple[int, ...]] = {}
    split_by_seed = True  # whether the seed decides which samples a task has
    changes_pictures = False  # whether a task changes the pictures of its samples
    has_boundaries = True  # whether the data change at the ends of tasks; without, a task is an interval between tests
    tests_all = False  # whether all tasks are tested on the whole test split: no column is about one task then
    classes_return = False  # whether classes occur in several tasks, which come one after another all the same
    ordered = False  # whether the order of a task's samples is part of the scenario: one pass, and no shuffling

    def __init__(self, num_tasks: int, concatenate: bool):
        if num_tasks < 1:
            raise ValueError(f"scenario.num_tasks must be at least 1, got {num_tasks}")
        self.num_tasks, self.concatenate = num_tasks, concatenate
        self.num_outputs = 0
        self.task_outputs: list[range] = []

    @property
    def kind(self) -> str:
        """One of `KINDS` (van de Ven et al. 2022, table 1, and streams), once the tasks are planned."""
        if self.classes_return:
            return "stream"
        if not self.task_outputs:
            return "domain"
        return "task" if self.task_aware else "class"

    @property
    def num_labels(self) -> int:
        """The number of different labels of the samples, by which the replay memory counts."""
        return self.num_outputs

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of the network's output for one sample."""
        return (self.num_outputs,)

    @abstractmethod
    def plan(self, dataset: Dataset) -> None:
        """Determine the tasks from the data set's shape; raises ValueError if it cannot have such tasks."""

    @abstractmethod
    def split(self, train: Split, test: Split, seed: int) -> Tasks:
        """The tasks of loaded data; random choices depend on `seed` alone."""
