"""The handwritten digits bundled with scikit-learn (UCI Optical Recognition of Handwritten Digits, test part).

Read like scikit-learn's `load_digits`, but without the import of scikit-learn, which takes as long as that of torch.
"""

import gzip
import importlib.util
from pathlib import Path

import numpy as np

from cl.datasets.base import Dataset, Split, split_of


class Digits(Dataset):
    """1,797 digits of 8x8 pixels; every fifth sample of each class is in the test split (there is no official one).

    The grey levels 0..16 are scaled to 0..255 and rounded.
    """

    num_classes = 10
    sample_shape = (1, 8, 8)

    def __init__(self, validation: float, mean: list | None, std: list | None, augment: list):
        super().__init__(validation, mean, std, augment)

    def check(self) -> None:
        """Nothing can be missing: the samples come with scikit-learn."""

    def read(self) -> tuple[Split, Split]:
        images, labels = _levels_and_labels()
        images = np.round(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        rank_in_class = np.empty(len(labels), dtype=np.int64)
        for label in range(self.num_classes):
            members = np.flatnonzero(labels == label)
            rank_in_class[members] = np.arange(len(members))
        is_test = rank_in_class % 5 == 4
        return split_of(images[~is_test], labels[~is_test]), split_of(images[is_test], labels[is_test])


def _levels_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """Grey levels [1797, 64] from 0 to 16 and labels [1797]; raises FileNotFoundError if scikit-learn lacks them."""
    found = importlib.util.find_spec("sklearn")
    path = Path(found.submodule_search_locations[0] if found else "sklearn") / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: it comes with scikit-learn, `pip install scikit-learn` adds it")
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    return table[:, :-1], table[:, -1].astype(np.int64)
