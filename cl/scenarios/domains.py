"""Scenarios whose tasks share their labels and differ in their inputs."""

from abc import abstractmethod

import numpy as np

from cl import seeding
from cl.datasets.base import Dataset, Split
from cl.scenarios.base import Part, Scenario, Tasks
from cl.scenarios.classes import ClassIncremental


class DomainIncremental(ClassIncremental):
    """Class-incremental tasks with shared labels: the label of a class is its position in its task."""

    def __init__(self, num_tasks: int, class_order: str | list[int] | None = None, concatenate: bool = False):
        super().__init__(num_tasks, class_order=class_order, concatenate=concatenate)

    def plan(self, dataset: Dataset) -> None:
        super().plan(dataset)
        if min(self.increments) < 2:
            raise ValueError(
                "tasks of one class that share their labels have nothing to classify: "
                f"choose fewer tasks than scenario.num_tasks={self.num_tasks}"
            )
        self.num_outputs, self.task_outputs = self.increments[0], []

    def _relabel(self, parts: list[Part]) -> list[Part]:
        return [Part(part.indices, part.labels - task * self.num_outputs) for task, part in enumerate(parts)]


class _Transformed(Scenario):
    """Every task has all samples under another transformation; the tasks share their labels."""

    changes_pictures = True

    def plan(self, dataset: Dataset) -> None:
        self.num_outputs, self._sample_shape = dataset.num_classes, dataset.sample_shape

    @abstractmethod
    def transformations(self, seed: int) -> list:
        """One function of uint8 images [N, C, H, W] per task, or None for unchanged images."""

    def split(self, train: Split, test: Split, seed: int) -> Tasks:
        # Without continuum: its TransformationIncremental splits the samples first, which fails for more tasks than
        # samples of a class, and then gives all samples to every task.
        parts = [[Part(np.arange(len(split)), split.y.numpy())] * self.num_tasks for split in (train, test)]
        return Tasks(train, test, *parts, self.transformations(seed))


class Permuted(_Transformed):
    """Each task permutes the pixels in another order (Goodfellow et al. 2013).

    `permute_first`: whether the first task permutes them too.
    """

    def __init__(self, num_tasks: int, permute_first: bool = True, concatenate: bool = False):
        super().__init__(num_tasks, concatenate)
        self.permute_first = permute_first

    def transformations(self, seed: int) -> list:
        import torch

        from cl.data.transforms import permute_pixels

        size = int(np.prod(self._sample_shape))
        orders = [seeding.generator(seed, "permutation", task).permutation(size) for task in range(self.num_tasks)]
        functions = [lambda x, order=torch.from_numpy(order): permute_pixels(x, order) for order in orders]
        return functions if self.permute_first else [None, *functions[1:]]


class Rotated(_Transformed):
    """Each task rotates the images by another angle, drawn uniformly from `degrees` = [from, to)."""

    def __init__(self, num_tasks: int, degrees: list[float], concatenate: bool = False):
        super().__init__(num_tasks, concatenate)
        if len(degrees) != 2 or degrees[0] > degrees[1]:
            raise ValueError(f"scenario.degrees must be [from, to] in degrees, got {degrees}")
        self.degrees = degrees

    def transformations(self, seed: int) -> list:
        from cl.data.transforms import rotate

        angles = seeding.generator(seed, "rotation").uniform(*self.degrees, size=self.num_tasks).tolist()
        return [lambda x, angle=angle: rotate(x, angle) for angle in angles]
