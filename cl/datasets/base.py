"""What every data set gives: its shape before anything is loaded, then two splits of contiguous uint8 images."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch

from cl import seeding


@dataclass(frozen=True)
class Split:
    """Samples of one split: `x` [N, C, H, W] uint8 and `y` [N] int64, both contiguous."""

    x: torch.Tensor
    y: torch.Tensor

    def __post_init__(self):
        assert self.x.dtype == torch.uint8 and self.x.ndim == 4 and self.x.is_contiguous(), (self.x.dtype, self.x.shape)
        assert self.y.dtype == torch.int64 and self.y.shape == self.x.shape[:1], (self.y.dtype, self.y.shape)

    def __len__(self) -> int:
        return len(self.y)


class Dataset(ABC):
    """A data set for classification.

    A subclass knows `num_classes` and `sample_shape` (C, H, W) without loading, so that an impossible combination
    fails early; `check` looks whether the files are there, `read` loads them.
    """

    num_classes: int
    sample_shape: tuple[int, int, int]

    def __init__(self, validation: float, mean: list | None, std: list | None, augment: list):
        if not 0 <= validation < 1:
            raise ValueError(f"dataset.validation must be a share in [0, 1), got {validation}")
        self.validation, self.mean, self.std, self.augment = validation, mean, std, augment

    @abstractmethod
    def check(self) -> None:
        """Raise ValueError or OSError, with what to do, if the data cannot be loaded; reads no samples."""

    @abstractmethod
    def read(self) -> tuple[Split, Split]:
        """The official training and test splits."""

    def load(self, seed: int) -> tuple[Split, Split]:
        """Training and test split; with `validation` set, both are parts of the official training split.

        The part held out is drawn by `seed`. The official test split is then not used at all: what is chosen on the
        validation part has not seen it.
        """
        train, test = self.read()
        if self.validation == 0:
            return train, test
        order = seeding.generator(seed, "validation").permutation(len(train))
        held_out = round(self.validation * len(train))
        if not 0 < held_out < len(train):
            raise ValueError(f"dataset.validation={self.validation} of {len(train)} samples leaves an empty part")
        parts = (np.sort(order[held_out:]), np.sort(order[:held_out]))
        rest, validation = (Split(train.x[part], train.y[part]) for part in map(torch.from_numpy, parts))
        return rest, validation


def split_of(images: np.ndarray, labels) -> Split:
    """A split from [N, H, W] or [N, H, W, C] uint8 images and N labels; raises ValueError for unequal numbers."""
    if images.ndim == 3:
        images = images[..., None]
    if len(images) != len(labels):
        raise ValueError(f"there are {len(images)} images but {len(labels)} labels")
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return Split(x, torch.as_tensor(np.asarray(labels, dtype=np.int64)))
