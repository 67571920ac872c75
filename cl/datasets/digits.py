"""The handwritten digits bundled with scikit-learn (UCI Optical Recognition of Handwritten Digits, test part)."""

import numpy as np

from cl.datasets.base import Dataset, Split, split_of


class Digits(Dataset):
    """1,797 digits, 8x8 pixels; every fifth sample of each class is the test split (there is no official one).

    Levels 0..16 become 0..255, rounded.
    """

    num_classes = 10
    sample_shape = (1, 8, 8)

    def __init__(self, validation: float, mean: list | None, std: list | None, augment: list):
        super().__init__(validation, mean, std, augment)

    def check(self) -> None:
        """Nothing can be missing: the samples come with scikit-learn."""

    def read(self) -> tuple[Split, Split]:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        images = np.round(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        rank_in_class = np.empty(len(labels), dtype=np.int64)
        for label in range(self.num_classes):
            members = np.flatnonzero(labels == label)
            rank_in_class[members] = np.arange(len(members))
        is_test = rank_in_class % 5 == 4
        return split_of(images[~is_test], labels[~is_test]), split_of(images[is_test], labels[is_test])
