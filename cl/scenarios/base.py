"""Scenarios: how a data set becomes a sequence of tasks. Continuum makes the splits.

A scenario works in two steps. `plan` decides from the data set's shape alone what the tasks will be, and rejects what
cannot be; `split` hands the labels to continuum and returns `Tasks`, whose samples are contiguous uint8 tensors.
Terms after van de Ven et al. 2022, Three types of incremental learning.
torch is imported by what works on samples: `plan` needs none.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from cl.datasets.base import Dataset, Split

if TYPE_CHECKING:
    import torch

    from cl.data.rows import Rows


@dataclass(frozen=True)
class Part:
    """One task of one split: which samples, and the labels they have in the scenario."""

    indices: np.ndarray
    labels: np.ndarray


class Tasks:
    """The tasks of a scenario with their samples; `len` is their number."""

    def __init__(self, train: Split, test: Split, train_parts: list[Part], test_parts: list[Part], transforms: list):
        self._train, self._test = train, test
        self._train_parts, self._test_parts, self._transforms = train_parts, test_parts, transforms
        self.testing = lru_cache(maxsize=None)(self._testing)  # every task is tested after each one

    def __len__(self) -> int:
        return len(self._train_parts)

    def training(self, task_ids: list[int]) -> "Rows":
        """The training samples of some tasks together."""
        from cl.data.rows import Rows

        return Rows.cat([self._gather(self._train, self._train_parts[i], i) for i in task_ids])

    def num_training(self, task_ids: list[int]) -> int:
        """How many training samples some tasks have, without gathering them."""
        return sum(len(self._train_parts[i].indices) for i in task_ids)

    def _testing(self, task_id: int, device: "torch.device") -> "Rows":
        """The test samples of one task on a device, kept there."""
        return self._gather(self._test, self._test_parts[task_id], task_id).to(device)

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
    """A way to make `num_tasks` tasks; `concatenate` joins each task's training data with those of all before.

    After `plan`: `num_outputs`, the size of the classifier, and `task_outputs`, for each task the outputs that are its
    own (empty where the tasks share their labels). `targets`: what is to be computed in place of labels, by shape.
    """

    task_aware = False  # whether training and the scenario's own accuracy are told the task of a sample
    targets: dict[str, tuple[int, ...]] = {}

    def __init__(self, num_tasks: int, concatenate: bool):
        if num_tasks < 1:
            raise ValueError(f"scenario.num_tasks must be at least 1, got {num_tasks}")
        self.num_tasks, self.concatenate = num_tasks, concatenate
        self.num_outputs = 0
        self.task_outputs: list[range] = []

    @property
    def num_labels(self) -> int:
        """How many different labels the samples have; the memory counts by them."""
        return self.num_outputs

    @property
    def output_shape(self) -> tuple[int, ...]:
        """What the network gives for one sample."""
        return (self.num_outputs,)

    @abstractmethod
    def plan(self, dataset: Dataset) -> None:
        """Fix the tasks for a data set of known shape; raises ValueError if it cannot have such tasks."""

    @abstractmethod
    def split(self, train: Split, test: Split, seed: int) -> Tasks:
        """The tasks of loaded data; what is random in them depends on `seed` alone."""
