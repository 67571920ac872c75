"""Long-tailed class-incremental tasks (Liu et al. 2022, Long-Tailed Class Incremental Learning)."""

from typing import Annotated

import numpy as np

from cl import seeding
from cl.datasets.base import Split
from cl.scenarios.base import Part, Tasks
from cl.scenarios.classes import ClassIncremental
from cl.values import Range


class LongTailed(ClassIncremental):
    """Class-incremental tasks whose classes have n, n r^(-1/(C-1)), ... n / r training samples, r = `imbalance`.

    n is the number of samples of the largest class of the data set. Without `shuffle` the numbers fall in the order of
    the classes, so the first task has most samples (the paper's ordered LT-CIL); with it the seed draws which class
    gets which number (shuffled LT-CIL). A class keeps all its samples where it has fewer, and at least one. The test
    split stays as it is.
    """

    def __init__(
        self,
        num_tasks: int,
        imbalance: Annotated[float, Range(least=1)],
        shuffle: bool = False,
        initial_increment: int | None = None,
        increment: int | list[int] | None = None,
        class_order: str | list[int] | None = None,
        concatenate: bool = False,
    ):
        super().__init__(num_tasks, initial_increment, increment, class_order, concatenate)
        self.imbalance, self.shuffle = imbalance, shuffle

    @property
    def split_by_seed(self) -> bool:
        return True  # it draws the samples that are kept

    def split(self, train: Split, test: Split, seed: int) -> Tasks:
        tasks = super().split(train, test, seed)
        generator = seeding.generator(seed, "long tail")
        sizes = tail(int(train.y.bincount().max()), self.num_classes, self.imbalance)
        if self.shuffle:
            sizes = generator.permutation(sizes)
        for task, part in enumerate(tasks.train_parts):
            order = generator.permutation(len(part.labels))
            kept = [order[part.labels[order] == label][: sizes[label]] for label in np.unique(part.labels)]
            chosen = np.sort(np.concatenate(kept))
            tasks.train_parts[task] = Part(part.indices[chosen], part.labels[chosen])
        return tasks


def tail(largest: int, num_classes: int, imbalance: float) -> np.ndarray:
    """[C]: the number of samples of each class, from the largest to the smallest, rounded down, at least one."""
    steps = np.arange(num_classes) / max(1, num_classes - 1)
    return np.maximum(1, np.floor(largest * imbalance**-steps + 1e-9).astype(np.int64))
