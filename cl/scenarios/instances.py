"""Scenarios whose tasks are parts of one data set with the same classes."""

import numpy as np

from cl import seeding
from cl.datasets.base import Dataset, Split, by_class, stratified
from cl.scenarios.base import Part, Scenario, Tasks
from cl.scenarios.splits import instance_incremental


class InstanceIncremental(Scenario):
    """Each task is a random part of the data, stratified by class; sizes differ by at most one.

    The test split is divided in the same way, so the mean over tasks is the accuracy on the whole test split.
    """

    def plan(self, dataset: Dataset) -> None:
        self.num_outputs = dataset.num_classes

    def split(self, train: Split, test: Split, seed: int) -> Tasks:
        parts = []
        for name, split in (("training", train), ("test", test)):
            if len(split) < self.num_tasks:
                raise ValueError(f"scenario.num_tasks={self.num_tasks}, but there are only {len(split)} {name} samples")
            # continuum would neither shuffle nor use its seed, so it gets the task of every sample.
            ordered = by_class(split.y.numpy(), seeding.generator(seed, f"instance {name}").permutation(len(split)))
            task_of = np.empty(len(split), dtype=np.int64)
            task_of[ordered] = np.arange(len(split)) % self.num_tasks
            parts.append([Part(*task) for task in instance_incremental(split.y.numpy(), task_of)])
        return Tasks(train, test, *parts, [None] * self.num_tasks)


class Skewed(Scenario):
    """Two tasks of unequal size: the first has one class alone and a fraction of the others, the second has the rest.

    The first task gets all samples of `whole_class` (None: no such class) and the fraction `first_share` of each other
    class, drawn by the seed and stratified to within one sample. Both tasks are tested on the whole test split. Without
    `shuffle` the first task gets the first samples in the order of the data set, as in published splits; ValueError if
    a task then lacks a class, as for files sorted by class.
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
            raise ValueError(f"scenario.first_share must be a fraction between 0 and 1, got {first_share}")
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
            raise ValueError(
                f"scenario.first_share={self.first_share} of {len(others)} samples leaves a task empty: choose another "
                "fraction"
            )
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
