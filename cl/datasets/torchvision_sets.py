"""Data sets in the files that torchvision reads and downloads."""

from pathlib import Path

import numpy as np

from cl.datasets.base import Dataset, Split, split_of


class _TorchvisionSet(Dataset):
    """A data set of torchvision with `data` and `targets` in memory."""

    torchvision_name: str
    folder: str  # below root, where torchvision keeps the files

    def __init__(
        self, root: str, download: bool, validation: float, mean: list | None, std: list | None, augment: list
    ):
        super().__init__(validation, mean, std, augment)
        self.root, self.download = Path(root).expanduser(), download

    def check(self) -> None:
        """Raise FileNotFoundError that names the folder which is expected, unless it is to be downloaded."""
        if not self.download and not (self.root / self.folder).is_dir():
            raise FileNotFoundError(
                f"no {self.torchvision_name} in {self.root}: expected the folder {self.root / self.folder}; "
                "set dataset.root=PATH to where it is, or dataset.download=true to fetch it"
            )

    def read(self) -> tuple[Split, Split]:
        from torchvision import datasets

        factory = getattr(datasets, self.torchvision_name)
        try:
            parts = [factory(self.root, train=train, download=self.download) for train in (True, False)]
        except Exception as error:  # a damaged file raises whatever its reader stumbles over, AssertionError included
            raise ValueError(
                f"the {self.torchvision_name} files in {self.root / self.folder} are missing or damaged ({error}); "
                "dataset.download=true fetches them anew"
            ) from error
        train, test = (split_of(np.asarray(part.data), part.targets) for part in parts)
        return train, test


class Mnist(_TorchvisionSet):
    """60,000 and 10,000 handwritten digits, 1x28x28 (LeCun et al. 1998)."""

    torchvision_name, folder = "MNIST", "MNIST/raw"
    num_classes, sample_shape = 10, (1, 28, 28)


class Cifar10(_TorchvisionSet):
    """50,000 and 10,000 pictures of 10 classes, 3x32x32 (Krizhevsky 2009)."""

    torchvision_name, folder = "CIFAR10", "cifar-10-batches-py"
    num_classes, sample_shape = 10, (3, 32, 32)


class Cifar100(_TorchvisionSet):
    """50,000 and 10,000 pictures of 100 classes, 3x32x32 (Krizhevsky 2009)."""

    torchvision_name, folder = "CIFAR100", "cifar-100-python"
    num_classes, sample_shape = 100, (3, 32, 32)
