"""Streams: classes come one after another, but come back, so that tasks have no classes of their own.

All outputs are shared: no task says which classes are possible. A class has a main task, that in which most of its
samples are, and the test samples of a task are those of its main classes. So the columns of the accuracy matrix divide
the test split as in a class-incremental scenario, and forgetting and transfer are defined by groups of classes.
"""

from abc import abstractmethod

import numpy as np

from cl import seeding
from cl.datasets.base import Dataset, Split
from cl.scenarios.base import Part, Scenario, Tasks
from cl.scenarios.classes import check_classes, check_order, drawn_order
from cl.values import Fraction, Positive


class Stream(Scenario):
    """C classes in T main groups, in the order of `class_order` (None: by label, "random", or a list of all labels).

    A label becomes its position in that order. The first groups have one class more where T does not divide C.
    """

    classes_return = True

    def __init__(self, num_tasks: int, class_order: str | list[int] | None = None):
        super().__init__(num_tasks, concatenate=False)
        check_order(class_order)
        self.class_order = class_order
        self.groups: list[np.ndarray] = []  # the labels of each main group

    def plan(self, dataset: Dataset) -> None:
        if self.num_tasks > dataset.num_classes:
            raise ValueError(
                f"scenario.num_tasks={self.num_tasks}, but the data set has {dataset.num_classes} classes: each task "
                f"is tested on classes of its own, so at most {dataset.num_classes} tasks (eval_every tests more often)"
            )
        check_order(self.class_order, dataset.num_classes)
        self.num_outputs = dataset.num_classes
        self.groups = np.array_split(np.arange(self.num_outputs), self.num_tasks)

    def split(self, train: Split, test: Split, seed: int) -> Tasks:
        check_classes(train, test, self.num_outputs)
        position = np.argsort(drawn_order(self.class_order, self.num_outputs, seed))
        labels, test_labels = (position[split.y.numpy()] for split in (train, test))
        parts = [Part(indices, labels[indices]) for indices in self.deal(labels, seed)]
        tested = [np.flatnonzero(np.isin(test_labels, group)) for group in self.groups]
        return Tasks(
            train, test, parts, [Part(indices, test_labels[indices]) for indices in tested], [None] * self.num_tasks
        )

    @abstractmethod
    def deal(self, labels: np.ndarray, seed: int) -> list[np.ndarray]:
        """The indices of each task's training samples, from the labels of all."""


class Blurry(Stream):
    """i-Blurry-N-M (Koh et al. 2022, Online Continual Learning on Class Incremental Blurry Task Configuration).

    N = 100 `disjoint` per cent of the classes are in their main task only. Of each other class, M = 100 `spread` per
    cent of the samples are in the other tasks, equally many in each to within one. The seed draws which classes are
    disjoint, as evenly over the tasks as may be, and which samples are spread.
    """

    def __init__(
        self, num_tasks: int, disjoint: Fraction, spread: Fraction, class_order: str | list[int] | None = None
    ):
        super().__init__(num_tasks, class_order)
        if num_tasks < 2:
            raise ValueError(f"a blurry scenario spreads samples over other tasks: at least 2, got {num_tasks}")
        self.disjoint, self.spread = disjoint, spread

    def deal(self, labels: np.ndarray, seed: int) -> list[np.ndarray]:
        generator = seeding.generator(seed, "blurry")
        counts = map(len, np.array_split(np.arange(round(self.disjoint * self.num_outputs)), self.num_tasks))
        tasks: list[list[np.ndarray]] = [[] for _ in self.groups]
        for task, (group, count) in enumerate(zip(self.groups, counts)):
            alone = generator.permutation(group)[:count]
            others = [other for other in range(self.num_tasks) if other != task]
            for label in group:
                samples = generator.permutation(np.flatnonzero(labels == label))
                moved = 0 if label in alone else round(self.spread * len(samples))
                tasks[task].append(samples[moved:])
                # The first parts are one sample longer, so it is drawn which tasks get these.
                for other, part in zip(generator.permutation(others), np.array_split(samples[:moved], len(others))):
                    tasks[other].append(part)
        found = [np.sort(np.concatenate(parts)) for parts in tasks]
        empty = [task + 1 for task, indices in enumerate(found) if not len(indices)]
        if empty:
            raise ValueError(
                f"scenario.spread={self.spread} leaves tasks {empty} without samples: choose a smaller part, or a data "
                "set with more samples of a class"
            )
        return found


class Gaussian(Stream):
    """A stream without boundaries: the share of each class rises and falls as a Gaussian over time.

    Shanahan et al. 2021 (Encoders and Ensembles for Task-Free Continual Learning) and Wang et al. 2022 (Learning to
    Prompt): the centres of the classes lie at equal distances, in the order of the classes. Each sample gets the time
    t ~ N(centre of its class, `width`^2), in distances between two centres, and all come in the order of their times,
    each once. So the share of class k at time t is n_k phi((t - k) / width) over the sum of these, with n_k the number
    of its samples. A task is an interval with its part of the samples, after which the network is tested. Times are
    drawn, not batches by these shares, so that one pass over the data set is the whole stream.
    """

    has_boundaries = False
    ordered = True

    def __init__(self, num_tasks: int, width: Positive, class_order: str | list[int] | None = None):
        super().__init__(num_tasks, class_order)
        self.width = width

    def deal(self, labels: np.ndarray, seed: int) -> list[np.ndarray]:
        times = seeding.generator(seed, "gaussian").normal(labels, self.width)
        return np.array_split(np.argsort(times, kind="stable"), self.num_tasks)
