"""A scenario of one's own: in each task the pictures are darker.

python run.py --config-dir docs/examples/conf scenario=dimming5 trust=[my_scenario]
"""

from functools import partial

import numpy as np

from cl.datasets.base import Dataset, Split
from cl.scenarios.base import Part, Scenario, Tasks
from cl.values import Count, InnerFraction


def dimmed(pictures, factor: float):
    """Pictures [N, C, H, W] with all pixels times a factor."""
    return (pictures * factor).to(pictures.dtype)


class Dimming(Scenario):
    """Domain-incremental: every task has all classes, and its pixels are `factor` times those of the task before."""

    def __init__(self, num_tasks: Count, factor: InnerFraction, concatenate: bool = False):
        super().__init__(num_tasks, concatenate)
        self.factor = factor

    def plan(self, dataset: Dataset) -> None:
        if dataset.dtype_name != "uint8":
            raise ValueError("scenario=dimming is for pictures, but the samples are no pixels")
        self.num_outputs = dataset.num_classes  # task_outputs stays empty: the tasks share their labels

    def split(self, train: Split, test: Split, seed: int) -> Tasks:
        parts = [[Part(np.arange(len(split)), split.y.numpy())] * self.num_tasks for split in (train, test)]
        transforms = [partial(dimmed, factor=self.factor**task) for task in range(self.num_tasks)]
        return Tasks(train, test, *parts, transforms)
