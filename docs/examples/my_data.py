"""A data set of one's own: pictures with one bright column, whose place is the class.

python run.py --config-dir docs/examples/conf dataset=columns trust=[my_data]
"""

import numpy as np

from cl.datasets.base import Dataset, Split, split_of
from cl.values import Count


class Columns(Dataset):
    """`per_class` training pictures of each of eight classes, and a fifth of that for the test; 8x8 grey pixels."""

    num_classes = 8
    sample_shape = (1, 8, 8)

    def __init__(self, validation: float, mean: list | None, std: list | None, augment: list, per_class: Count):
        super().__init__(validation, mean, std, augment)
        self.per_class = per_class

    def check(self) -> None:
        """Nothing can be missing; a data set in files raises FileNotFoundError here, before anything is read."""

    def read(self) -> tuple[Split, Split]:
        return self._made(self.per_class, seed=1), self._made(max(1, self.per_class // 5), seed=2)

    def _made(self, per_class: int, seed: int) -> Split:
        labels = np.repeat(np.arange(self.num_classes), per_class)
        images = np.random.default_rng(seed).integers(0, 100, (len(labels), 8, 8), dtype=np.uint8)
        images[np.arange(len(labels)), :, labels] += 155
        return split_of(images, labels)
