"""Scenarios whose tasks bring new classes, and one whose tasks bring new scans."""

import numpy as np

from cl import seeding
from cl.datasets.base import Dataset, Split
from cl.scenarios.base import Part, Scenario, Tasks
from cl.scenarios.splits import class_incremental


def check_order(class_order: str | list[int] | None, num_classes: int | None = None) -> None:
    """Raise ValueError for what is no order of the classes; a list is checked once their number is known."""
    if isinstance(class_order, str) and class_order != "random":
        raise ValueError(f"scenario.class_order must be null, random or a list of labels, got {class_order!r}")
    if num_classes is not None and isinstance(class_order, list) and sorted(class_order) != list(range(num_classes)):
        raise ValueError(
            f"scenario.class_order must contain each label from 0 to {num_classes - 1} once, got {class_order}"
        )


def drawn_order(class_order: str | list[int] | None, num_classes: int, seed: int) -> list[int]:
    """All labels in their order: by label (None), by the seed ("random") or as the list says."""
    if class_order == "random":
        return seeding.generator(seed, "class order").permutation(num_classes).tolist()
    return class_order or list(range(num_classes))


def check_classes(train: Split, test: Split, num_classes: int) -> None:
    """Raise ValueError for a split without samples of some class."""
    for name, split in (("training", train), ("test", test)):
        absent = sorted(set(range(num_classes)) - set(split.y.unique().tolist()))
        if absent:
            raise ValueError(
                f"the {name} split has no sample of the labels {absent}: expected at least one of every class"
            )


class ClassIncremental(Scenario):
    """Each task brings new classes; the task of a test sample is unknown (class-incremental).

    `increment`: number of classes of each task after the first, or a list with one number per task;
    `initial_increment`: that of the first task. With neither, all tasks get equally many. `class_order`: None (by
    label), "random" (by the seed) or a list of all labels. A label becomes its position in that order, so the first
    task always has the first outputs.
    """

    def __init__(
        self,
        num_tasks: int,
        initial_increment: int | None = None,
        increment: int | list[int] | None = None,
        class_order: str | list[int] | None = None,
        concatenate: bool = False,
    ):
        super().__init__(num_tasks, concatenate)
        check_order(class_order)
        if isinstance(increment, list) and initial_increment is not None:
            raise ValueError("scenario.initial_increment contradicts a list in scenario.increment: give one of the two")
        self.initial_increment, self.increment, self.class_order = initial_increment, increment, class_order
        self.increments: list[int] = []
        self.num_classes = 0

    @property
    def split_by_seed(self) -> bool:
        return self.class_order == "random"

    def plan(self, dataset: Dataset) -> None:
        self.increments = self._increments(dataset.num_classes)
        check_order(self.class_order, dataset.num_classes)
        self.num_classes = self.num_outputs = dataset.num_classes
        ends = np.cumsum(self.increments).tolist()
        self.task_outputs = [range(end - size, end) for end, size in zip(ends, self.increments)]

    def _increments(self, num_classes: int) -> list[int]:
        tasks = self.num_tasks
        if tasks > num_classes:
            raise ValueError(
                f"scenario.num_tasks={tasks}, but the data set has {num_classes} classes: each task needs at least one "
                f"class, so at most {num_classes} tasks"
            )
        if isinstance(self.increment, list):
            increments = self.increment
        else:
            rest, rest_tasks = num_classes, tasks
            first = []
            if self.initial_increment is not None:
                first, rest, rest_tasks = [self.initial_increment], num_classes - self.initial_increment, tasks - 1
            size = self.increment
            if size is None:
                if rest_tasks and rest % rest_tasks:
                    raise ValueError(
                        f"{rest} classes do not divide into {rest_tasks} equal tasks: set scenario.num_tasks to a "
                        f"divisor of {rest}, or give the sizes with scenario.initial_increment and scenario.increment"
                    )
                size = rest // rest_tasks if rest_tasks else 0
            increments = first + [size] * rest_tasks
        if len(increments) != tasks or sum(increments) != num_classes or min(increments) < 1:
            raise ValueError(
                f"the tasks would have {increments} classes: expected {tasks} tasks (scenario.num_tasks) of at least "
                f"one class and {num_classes} classes in all; change scenario.initial_increment or scenario.increment"
            )
        return list(increments)

    def split(self, train: Split, test: Split, seed: int) -> Tasks:
        order = drawn_order(self.class_order, self.num_classes, seed)
        check_classes(train, test, self.num_classes)
        parts = [
            self._relabel([Part(*task) for task in class_incremental(split_.y.numpy(), self.increments, order)])
            for split_ in (train, test)
        ]
        return Tasks(train, test, *parts, [None] * self.num_tasks)

    def _relabel(self, parts: list[Part]) -> list[Part]:
        return parts


class TaskIncremental(ClassIncremental):
    """Class-incremental tasks, task-aware: training and accuracy use only the outputs of the sample's task."""

    task_aware = True

    def plan(self, dataset: Dataset) -> None:
        super().plan(dataset)
        if min(self.increments) < 2:
            raise ValueError(
                "a task with one class has nothing to classify when the task is known: "
                f"choose fewer tasks than scenario.num_tasks={self.num_tasks}"
            )


class Reconstruction(ClassIncremental):
    """Each task brings new scans with the same targets; the label of a sample is the number of its scan.

    The network has one output channel per target. Scans are grouped into tasks like classes (`ClassIncremental`).
    """

    def __init__(self, num_tasks: int, scan_order: str | list[int] | None = None, concatenate: bool = False):
        super().__init__(num_tasks, class_order=scan_order, concatenate=concatenate)

    @property
    def num_labels(self) -> int:
        return self.num_classes

    @property
    def output_shape(self) -> tuple[int, ...]:
        _, height, width = next(iter(self.targets.values()))
        return (self.num_outputs, height, width)

    def plan(self, dataset: Dataset) -> None:
        if not dataset.target_shapes:
            raise ValueError("scenario=reconstruction needs a data set with targets: dataset=ptycho, ptycho_synthetic")
        super().plan(dataset)
        self.targets = dataset.target_shapes
        self.num_outputs, self.task_outputs = len(self.targets), []
