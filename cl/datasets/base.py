"""The interface of a data set: its shape before loading, then a training and a test split of contiguous images.

torch is imported only when samples are read, so that a configuration can be checked without it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cl import seeding

if TYPE_CHECKING:
    import torch

    from cl.data.streaming import FileImages, Workers


@dataclass(frozen=True)
class Split:
    """The samples of one split: `x` [N, C, H, W] uint8 or float32, labels `y` [N] int64, `targets` by name [N, ...].

    `x` is a contiguous tensor, or pictures that are streamed from their files. What a frozen network has made of
    pictures, `cl.run.features`, has any shape [N, ...], and may be float16.
    """

    x: "torch.Tensor | FileImages"
    y: "torch.Tensor"
    targets: "dict[str, torch.Tensor]" = field(default_factory=dict)

    def __post_init__(self):
        import torch

        from cl.data.streaming import FileImages

        kinds = (torch.uint8, torch.float16, torch.float32)
        assert self.x.dtype in kinds and len(self.x.shape) > 1, (self.x.dtype, self.x.shape)
        assert isinstance(self.x, FileImages) or self.x.is_contiguous()
        assert self.y.dtype == torch.int64 and self.y.shape == self.x.shape[:1], (self.y.dtype, self.y.shape)
        assert all(len(column) == len(self.y) for column in self.targets.values()), self.targets.keys()

    def __len__(self) -> int:
        return len(self.y)

    def part(self, which: "torch.Tensor") -> "Split":
        """The samples at the indices `which`; reads no file."""
        return Split(self.x[which], self.y[which], {name: column[which] for name, column in self.targets.items()})


class Dataset(ABC):
    """Labelled samples, or samples with targets that the network should compute.

    A subclass knows `num_classes` and `sample_shape` (C, H, W) without loading, so that an impossible combination
    fails early. `check` tests that the files exist, `read` loads them. With targets, `target_shapes` has the shape of
    each by name, and the label of a sample is only the number of its scan.
    """

    num_classes: int
    sample_shape: tuple[int, int, int]
    dtype_name = "uint8"
    target_shapes: dict[str, tuple[int, ...]] = {}

    def __init__(self, validation: float, mean: list | None, std: list | None, augment: list, crop: int | None = None):
        """`crop`: side in pixels of the square of each picture that the network takes; None: the whole picture."""
        self.validation, self.mean, self.std, self.augment, self.crop = validation, mean, std, augment, crop
        self.loader: Workers | None = None

    @property
    def sample_dtype(self) -> "torch.dtype":
        """The torch dtype of the samples."""
        import torch

        return getattr(torch, self.dtype_name)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of the network's input."""
        channels, height, width = self.sample_shape
        return (channels, height, width) if self.crop is None else (channels, self.crop, self.crop)

    @abstractmethod
    def check(self) -> None:
        """Raise ValueError or OSError with the remedy if the data cannot be loaded; reads no samples."""

    @abstractmethod
    def read(self) -> tuple[Split, Split]:
        """The official training and test splits."""

    def load(
        self, seed: int, loader: "Workers | None" = None, view: Callable[[str, Split], Split] | None = None
    ) -> tuple[Split, Split]:
        """The training and the test split; with `validation` set, both are parts of the official training split.

        The held-out part is drawn by `seed`, stratified by class to within one sample. The official test split is then
        not used at all. `loader` decodes pictures that are streamed. `view`: what takes the place of an official split
        that is used, from its name (training, test) and itself.
        """
        self.loader = loader
        train, test = self.read()
        for name, split in (("training", train), ("test", test)):
            self._check_split(name, split)
        if view is not None:
            train = view("training", train)
        if self.validation == 0:
            return train, test if view is None else view("test", test)
        order = seeding.generator(seed, "validation").permutation(len(train))
        held_out = round(self.validation * len(train))
        if not 0 < held_out < len(train):
            raise ValueError(
                f"dataset.validation={self.validation} of {len(train)} samples leaves an empty part: expected at least "
                "one sample to train on and one to test on"
            )
        import torch

        validation, rest = (train.part(torch.from_numpy(part)) for part in stratified(train.y.numpy(), order, held_out))
        return rest, validation

    def _check_split(self, name: str, split: Split) -> None:
        """Raise ValueError for samples that do not match the data set's shape, dtype or number of classes."""
        place = f"{type(self).__name__} in {self.root}" if hasattr(self, "root") else type(self).__name__
        if len(split) == 0:
            raise ValueError(f"{place}: there are no {name} samples, expected at least one")
        if split.x.shape[1:] != self.sample_shape or split.x.dtype != self.sample_dtype:
            raise ValueError(
                f"{place}: the {name} samples are {split.x.dtype} of shape {tuple(split.x.shape[1:])}, expected "
                f"{self.sample_dtype} of shape {tuple(self.sample_shape)}"
            )
        low, high = int(split.y.min()), int(split.y.max())
        if low < 0 or high >= self.num_classes:
            raise ValueError(
                f"{place}: the {name} labels go from {low} to {high}, expected 0 to {self.num_classes - 1}: are these "
                "the files of another data set?"
            )


def check_dataset(dataset: Dataset) -> None:
    """Raise ValueError or OSError for a data set that does not know its shape, or whose data cannot be loaded."""
    lacks = [name for name in ("num_classes", "sample_shape") if not hasattr(dataset, name)]
    if lacks:
        raise ValueError(
            f"{type(dataset).__name__} has no {' and no '.join(lacks)}: a data set knows them before anything is "
            "loaded, for example num_classes = 10 and sample_shape = (3, 32, 32) in its class"
        )
    dataset.check()


def by_class(labels: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The indices grouped by class, in their given order within each class."""
    return indices[np.argsort(labels[indices], kind="stable")]


def stratified(labels: np.ndarray, indices: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose `count` of the indices, stratified by class to within one sample; returns them and the rest, sorted.

    The order of `indices` decides which samples of a class are chosen.
    """
    ordered = by_class(labels, indices)
    # Evenly spaced over the samples sorted by class, so each class has its proportion, rounded up or down.
    chosen = np.diff(np.arange(len(ordered) + 1) * count // len(ordered)) == 1
    return np.sort(ordered[chosen]), np.sort(ordered[~chosen])


def split_of(images: np.ndarray, labels) -> Split:
    """A split from [N, H, W] or [N, H, W, C] uint8 images and N labels; raises ValueError for unequal numbers."""
    import torch

    if images.ndim == 3:
        images = images[..., None]
    if len(images) != len(labels):
        raise ValueError(f"there are {len(images)} images but {len(labels)} labels")
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return Split(x, torch.as_tensor(np.asarray(labels, dtype=np.int64)))
