"""Scenarios: how a data set becomes a sequence of tasks. Continuum makes the splits.

A scenario works in two steps. `plan` decides from the data set's shape alone what the tasks will be, and rejects what
cannot be; `split` hands the labels to continuum and returns `Tasks`, whose samples are contiguous uint8 tensors.
Terms after van de Ven et al. 2022, Three types of incremental learning.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from cl import seeding
from cl.datasets.base import Dataset, Split, stratified
from cl.samples import Samples, joined
from cl.splits import class_incremental, instance_incremental
from cl.streaming import FileImages
from cl.transforms import permute_pixels, rotate


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

    def training(self, task_ids: list[int]) -> Samples:
        """The training samples of some tasks together."""
        return joined([self._gather(self._train, self._train_parts[i], i) for i in task_ids])

    def num_training(self, task_ids: list[int]) -> int:
        """How many training samples some tasks have, without gathering them."""
        return sum(len(self._train_parts[i].indices) for i in task_ids)

    def _testing(self, task_id: int, device: torch.device) -> Samples:
        """The test samples of one task on a device, kept there."""
        return self._gather(self._test, self._test_parts[task_id], task_id).to(device)

    def _gather(self, split: Split, part: Part, task_id: int) -> Samples:
        chosen = torch.from_numpy(part.indices)
        x, transform = split.x[chosen], self._transforms[task_id]
        if transform is not None:
            x = x.changed(transform) if isinstance(x, FileImages) else transform(x)
        y = torch.tensor(part.labels)
        return Samples(x, y, torch.full_like(y, task_id), {name: of[chosen] for name, of in split.targets.items()})


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


class ClassIncremental(Scenario):
    """Each task brings classes of its own; at test the task of a sample is not known.

    `increment`: classes of each task after the first (or of every task, as a list), `initial_increment`: of the first;
    left out, tasks get equal shares. `class_order`: None (by label), "random" (by the seed) or all labels as a list.
    Labels are renamed to their place in that order, so the first task always has the first outputs.
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
        if isinstance(class_order, str) and class_order != "random":
            raise ValueError(f"scenario.class_order must be null, random or a list of labels, got {class_order!r}")
        if isinstance(increment, list) and initial_increment is not None:
            raise ValueError("scenario.initial_increment has no meaning beside a list of increments; leave it out")
        self.initial_increment, self.increment, self.class_order = initial_increment, increment, class_order
        self.increments: list[int] = []
        self.num_classes = 0

    def plan(self, dataset: Dataset) -> None:
        self.increments = self._increments(dataset.num_classes)
        if isinstance(self.class_order, list) and sorted(self.class_order) != list(range(dataset.num_classes)):
            raise ValueError(
                f"scenario.class_order must hold each label from 0 to {dataset.num_classes - 1} once, "
                f"got {self.class_order}"
            )
        self.num_classes = self.num_outputs = dataset.num_classes
        ends = np.cumsum(self.increments).tolist()
        self.task_outputs = [range(end - size, end) for end, size in zip(ends, self.increments)]

    def _increments(self, num_classes: int) -> list[int]:
        tasks = self.num_tasks
        if tasks > num_classes:
            raise ValueError(
                f"scenario.num_tasks={tasks}, but the data set has {num_classes} classes: "
                f"each task needs one of its own, so at most {num_classes} tasks"
            )
        if isinstance(self.increment, list):
            increments = self.increment
        else:
            rest, rest_tasks = num_classes, tasks
            first = []
            if self.initial_increment is not None:
                first, rest, rest_tasks = [self.initial_increment], num_classes - self.initial_increment, tasks - 1
            share = self.increment
            if share is None:
                if rest_tasks and rest % rest_tasks:
                    raise ValueError(
                        f"{rest} classes do not divide into {rest_tasks} equal tasks; give scenario.num_tasks a divisor"
                        " of it, or the sizes with scenario.initial_increment and scenario.increment"
                    )
                share = rest // rest_tasks if rest_tasks else 0
            increments = first + [share] * rest_tasks
        if len(increments) != tasks or sum(increments) != num_classes or min(increments) < 1:
            raise ValueError(
                f"the tasks would have {increments} classes: expected {tasks} tasks (scenario.num_tasks) of at least "
                f"one class and {num_classes} classes in all; change scenario.initial_increment or scenario.increment"
            )
        return list(increments)

    def split(self, train: Split, test: Split, seed: int) -> Tasks:
        if self.class_order == "random":
            order = seeding.generator(seed, "class order").permutation(self.num_classes).tolist()
        else:
            order = self.class_order or list(range(self.num_classes))

        for name, split_ in (("training", train), ("test", test)):
            absent = sorted(set(range(self.num_classes)) - set(split_.y.unique().tolist()))
            if absent:
                raise ValueError(f"the {name} split has no sample of the labels {absent}: every class needs some")
        parts = [
            self._relabel([Part(*task) for task in class_incremental(split_.y.numpy(), self.increments, order)])
            for split_ in (train, test)
        ]
        return Tasks(train, test, *parts, [None] * self.num_tasks)

    def _relabel(self, parts: list[Part]) -> list[Part]:
        return parts


class TaskIncremental(ClassIncremental):
    """The same tasks, but the task of a sample is known: training and the scenario's accuracy use its outputs only."""

    task_aware = True

    def plan(self, dataset: Dataset) -> None:
        super().plan(dataset)
        if min(self.increments) < 2:
            raise ValueError(
                "a task with one class has nothing to tell apart when the task is known; "
                f"choose fewer tasks than scenario.num_tasks={self.num_tasks}"
            )


class DomainIncremental(ClassIncremental):
    """The same tasks with shared labels: each class is called by its place within its task ("Split", domain)."""

    def __init__(self, num_tasks: int, class_order: str | list[int] | None = None, concatenate: bool = False):
        super().__init__(num_tasks, class_order=class_order, concatenate=concatenate)

    def plan(self, dataset: Dataset) -> None:
        super().plan(dataset)
        if min(self.increments) < 2:
            raise ValueError(
                "tasks of one class that share their labels have nothing to tell apart; "
                f"choose fewer tasks than scenario.num_tasks={self.num_tasks}"
            )
        self.num_outputs, self.task_outputs = self.increments[0], []

    def _relabel(self, parts: list[Part]) -> list[Part]:
        return [Part(part.indices, part.labels - task * self.num_outputs) for task, part in enumerate(parts)]


class Reconstruction(ClassIncremental):
    """Each task brings scans of its own, and asks for the same targets; a label says from which scan a sample is.

    A network has one output channel for each target. Scans are grouped as classes are (`ClassIncremental`).
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
            raise ValueError("scenario=reconstruction needs targets: dataset=ptycho or ptycho_synthetic has them")
        super().plan(dataset)
        self.targets = dataset.target_shapes
        self.num_outputs, self.task_outputs = len(self.targets), []


class _Transformed(Scenario):
    """Every task has all samples, transformed in a way of its own; the labels are shared."""

    def plan(self, dataset: Dataset) -> None:
        self.num_outputs, self._sample_shape = dataset.num_classes, dataset.sample_shape

    @abstractmethod
    def transformations(self, seed: int) -> list:
        """For each task a function of uint8 images [N, C, H, W], or None."""

    def split(self, train: Split, test: Split, seed: int) -> Tasks:
        # Nothing to split: continuum's TransformationIncremental would deal the samples out to the tasks all the same,
        # refuse more tasks than samples of a class, and then give every task all of them.
        parts = [[Part(np.arange(len(split)), split.y.numpy())] * self.num_tasks for split in (train, test)]
        return Tasks(train, test, *parts, self.transformations(seed))


class Permuted(_Transformed):
    """The pixels of each task in an order of their own (Goodfellow et al. 2013); the first task's too by default."""

    def __init__(self, num_tasks: int, permute_first: bool = True, concatenate: bool = False):
        super().__init__(num_tasks, concatenate)
        self.permute_first = permute_first

    def transformations(self, seed: int) -> list:
        size = int(np.prod(self._sample_shape))
        orders = [seeding.generator(seed, "permutation", task).permutation(size) for task in range(self.num_tasks)]
        functions = [lambda x, order=torch.from_numpy(order): permute_pixels(x, order) for order in orders]
        return functions if self.permute_first else [None, *functions[1:]]


class Rotated(_Transformed):
    """The images of each task turned by an angle of their own, drawn from `degrees` = [from, to)."""

    def __init__(self, num_tasks: int, degrees: list[float], concatenate: bool = False):
        super().__init__(num_tasks, concatenate)
        if len(degrees) != 2 or degrees[0] > degrees[1]:
            raise ValueError(f"scenario.degrees must be [from, to] in degrees, got {degrees}")
        self.degrees = degrees

    def transformations(self, seed: int) -> list:
        angles = seeding.generator(seed, "rotation").uniform(*self.degrees, size=self.num_tasks).tolist()
        return [lambda x, angle=angle: rotate(x, angle) for angle in angles]


class InstanceIncremental(Scenario):
    """Each task is a random part of the data with all classes in their proportions, sizes differing by one at most.

    The test split is dealt out in the same way, so the mean over tasks is the accuracy on the whole of it.
    """

    def plan(self, dataset: Dataset) -> None:
        self.num_outputs = dataset.num_classes

    def split(self, train: Split, test: Split, seed: int) -> Tasks:
        parts = []
        for name, split in (("training", train), ("test", test)):
            if len(split) < self.num_tasks:
                raise ValueError(f"scenario.num_tasks={self.num_tasks}, but there are only {len(split)} {name} samples")
            # continuum's own split neither shuffles nor uses its seed, so it is given the task of every sample.
            by_class = _by_class(split.y.numpy(), seeding.generator(seed, f"instance {name}").permutation(len(split)))
            task_of = np.empty(len(split), dtype=np.int64)
            task_of[by_class] = np.arange(len(split)) % self.num_tasks
            parts.append([Part(*task) for task in instance_incremental(split.y.numpy(), task_of)])
        return Tasks(train, test, *parts, [None] * self.num_tasks)


class Skewed(Scenario):
    """Two tasks of unequal size: the first has one class whole and a share of the others, the second the rest.

    `first_share` of the samples of each other class (to within one sample), drawn by the seed, belongs to the first
    task, and so do all of `whole_class`; with None no class is special. Both are tested on the whole test split.
    Without `shuffle` the share is the first part of the other samples in the order of the data set, as in published
    splits: refused where a task would lack a class, as with files sorted by class.
    """

    def __init__(
        self,
        num_tasks: int,
        whole_class: int | None,
        first_share: float,
        shuffle: bool = True,
        concatenate: bool = False,
    ):
        super().__init__(num_tasks, concatenate)
        if num_tasks != 2:
            raise ValueError(f"a skewed scenario has two tasks, got scenario.num_tasks={num_tasks}")
        if not 0 < first_share < 1:
            raise ValueError(f"scenario.first_share must be a share between 0 and 1, got {first_share}")
        self.whole_class, self.first_share, self.shuffle = whole_class, first_share, shuffle

    def plan(self, dataset: Dataset) -> None:
        if self.whole_class is not None and not 0 <= self.whole_class < dataset.num_classes:
            raise ValueError(
                f"scenario.whole_class must be a label from 0 to {dataset.num_classes - 1}, got {self.whole_class}"
            )
        self.num_outputs = dataset.num_classes

    def split(self, train: Split, test: Split, seed: int) -> Tasks:
        labels = train.y.numpy()
        whole = labels == self.whole_class if self.whole_class is not None else np.zeros(len(labels), dtype=bool)
        others = np.flatnonzero(~whole)
        count = int(self.first_share * len(others))
        if not 0 < count < len(others):
            raise ValueError(f"scenario.first_share={self.first_share} of {len(others)} samples leaves a task empty")
        if self.shuffle:
            chosen, rest = stratified(labels, seeding.generator(seed, "skewed").permutation(others), count)
        else:
            chosen, rest = others[:count], others[count:]
            for place, part in (("first", chosen), ("second", rest)):
                absent = sorted(set(labels[others].tolist()) - set(labels[part].tolist()))
                if absent:
                    raise ValueError(
                        f"scenario.shuffle=false takes the samples in the order of the data set, and the {place} task "
                        f"would have none of the labels {absent}: set scenario.shuffle=true"
                    )
        first = np.sort(np.concatenate([np.flatnonzero(whole), chosen]))
        parts = [Part(indices, labels[indices]) for indices in (first, rest)]
        everything = Part(np.arange(len(test)), test.y.numpy())
        return Tasks(train, test, parts, [everything, everything], [None, None])


def _by_class(labels: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Indices into labels, those of a class together, within it in the order that they had."""
    return indices[np.argsort(labels[indices], kind="stable")]
