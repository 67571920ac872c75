"""Class-incremental with repetition (Hemati et al. 2023, Class-Incremental Learning with Repetition).

Two generators of streams in which classes come back in later tasks, at random. All tasks are tested on the whole test
split, as the paper does: every column of the accuracy matrix is the accuracy on all classes, and measures of single
tasks, such as forgetting, are not defined.
"""

from abc import abstractmethod

import numpy as np

from cl import seeding
from cl.datasets.base import Dataset, Split
from cl.scenarios.base import Part, Scenario, Tasks
from cl.values import Count, InnerFraction


class _Repeating(Scenario):
    """Tasks that have some of the classes, with the labels of the data set."""

    classes_return = tests_all = True

    def __init__(self, num_tasks: int):
        super().__init__(num_tasks, concatenate=False)

    def plan(self, dataset: Dataset) -> None:
        self.num_outputs = dataset.num_classes

    def split(self, train: Split, test: Split, seed: int) -> Tasks:
        labels = train.y.numpy()
        chosen = self.deal(labels, seeding.generator(seed, "repetition"))
        everything = Part(np.arange(len(test)), test.y.numpy())
        parts = [Part(indices, labels[indices]) for indices in map(np.sort, chosen)]
        return Tasks(train, test, parts, [everything] * self.num_tasks, [None] * self.num_tasks)

    @abstractmethod
    def deal(self, labels: np.ndarray, generator: np.random.Generator) -> list[np.ndarray]:
        """The indices of each task's training samples, from the labels of all."""


class Repetition(_Repeating):
    """The paper's slot-based generator: each task has `classes_per_task` = K of the C classes, drawn at random.

    Each class is in equally many of the N tasks, to within one, and its samples are divided equally among these: each
    is used once. K = C / N is class-incremental, K = C is instance-incremental.
    """

    def __init__(self, num_tasks: int, classes_per_task: Count):
        super().__init__(num_tasks)
        self.classes_per_task = classes_per_task

    def plan(self, dataset: Dataset) -> None:
        super().plan(dataset)
        size, classes = self.classes_per_task, dataset.num_classes
        if not classes <= size * self.num_tasks or size > classes:
            least = -(-classes // self.num_tasks)
            raise ValueError(
                f"scenario.classes_per_task must be from {least} to {classes}, so that {self.num_tasks} tasks have all "
                f"of {classes} classes, got {size}"
            )

    def deal(self, labels: np.ndarray, generator: np.random.Generator) -> list[np.ndarray]:
        occurrences = slots(self.num_outputs, self.num_tasks, self.classes_per_task, generator)
        tasks: list[list[np.ndarray]] = [[] for _ in range(self.num_tasks)]
        for label, where in enumerate(occurrences.T):
            samples = generator.permutation(np.flatnonzero(labels == label))
            if len(samples) < where.sum():
                raise ValueError(
                    f"class {label} has {len(samples)} training samples, and comes in {where.sum()} tasks: choose "
                    "fewer scenario.num_tasks or scenario.classes_per_task"
                )
            for task, part in zip(np.flatnonzero(where), np.array_split(samples, where.sum())):
                tasks[task].append(part)
        return [np.concatenate(parts) for parts in tasks]


def slots(num_classes: int, num_tasks: int, size: int, generator: np.random.Generator) -> np.ndarray:
    """[T, C] bool: tasks of `size` different classes, and each class in equally many tasks, to within one."""
    left = np.full(num_classes, num_tasks * size // num_classes)
    left[generator.permutation(num_classes)[: num_tasks * size % num_classes]] += 1
    found = np.zeros((num_tasks, num_classes), dtype=bool)
    for task in range(num_tasks):
        forced = left == num_tasks - task  # such a class is in all tasks from now on
        free = np.where(forced, 0, left)
        chosen = np.flatnonzero(forced)
        if len(chosen) < size:
            drawn = generator.choice(num_classes, size - len(chosen), replace=False, p=free / free.sum())
            chosen = np.concatenate([chosen, drawn])
        found[task, chosen] = True
        left[chosen] -= 1
    return found


class RandomRepetition(_Repeating):
    """The paper's sampling-based generator, with a geometric distribution of the first occurrences.

    Class c comes first in task i with probability p (1 - p)^(i-1), p = `first`, cut off after the last task, and is in
    each later task with probability `repetition`. A task has `samples` training samples (None: the number of all
    divided by the tasks), equally many of each of its classes to within one. A class gives its samples in a random
    order and begins again once all are used. So that no task is empty, the class that comes first is moved to the first
    task, and a task to which no class falls repeats one of the classes so far.
    """

    def __init__(self, num_tasks: int, first: InnerFraction, repetition: InnerFraction, samples: Count | None = None):
        super().__init__(num_tasks)
        self.first, self.repetition, self.samples = first, repetition, samples

    def deal(self, labels: np.ndarray, generator: np.random.Generator) -> list[np.ndarray]:
        of_class = [generator.permutation(np.flatnonzero(labels == label)) for label in range(self.num_outputs)]
        if missing := [label for label, samples in enumerate(of_class) if not len(samples)]:
            raise ValueError(f"the training split has no sample of the labels {missing}: expected one of every class")
        size = self.samples or len(labels) // self.num_tasks
        used, tasks = [0] * self.num_outputs, []
        for present in self.occurrences(generator):
            chosen = generator.permutation(np.flatnonzero(present))
            parts = []
            for label, part in zip(chosen, np.array_split(np.arange(size), len(chosen))):
                samples = of_class[label]
                count = min(len(part), len(samples))  # none twice within a task
                parts.append(np.take(samples, np.arange(used[label], used[label] + count), mode="wrap"))
                used[label] += count
            tasks.append(np.concatenate(parts))
        if not all(map(len, tasks)):
            raise ValueError(f"{size} samples per task leave a task empty: raise scenario.samples")
        return tasks

    def occurrences(self, generator: np.random.Generator) -> np.ndarray:
        """[T, C] bool: which classes each task has."""
        weights = self.first * (1 - self.first) ** np.arange(self.num_tasks)
        starts = generator.choice(self.num_tasks, self.num_outputs, p=weights / weights.sum())
        starts[starts.argmin()] = 0
        numbers = np.arange(self.num_tasks)[:, None]
        again = generator.random((self.num_tasks, self.num_outputs)) < self.repetition
        found = (numbers == starts) | (numbers > starts) & again
        for task in np.flatnonzero(~found.any(1)):
            found[task, generator.choice(np.flatnonzero(starts < task))] = True
        return found
