"""Data sets in the files that torchvision reads and downloads."""

from abc import abstractmethod
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
            if self.download:
                self._remove_damaged()  # torchvision fetches what is missing, but not every damaged file
            parts = [factory(self.root, train=train, download=self.download) for train in (True, False)]
            train, test = (split_of(np.asarray(part.data), part.targets) for part in parts)
        except Exception as error:  # a damaged file raises whatever its reader stumbles over, AssertionError included
            damaged = ", ".join(path.name for path in self.damaged()) or "none of them by itself"
            raise ValueError(
                f"the {self.torchvision_name} files in {self.root / self.folder} cannot be read ({error}); damaged or "
                f"missing: {damaged}; dataset.download=true fetches them anew"
            ) from error
        return train, test

    @abstractmethod
    def damaged(self) -> list[Path]:
        """The files that are missing or cannot be read."""

    def _remove_damaged(self) -> None:
        for path in self.damaged():
            path.unlink(missing_ok=True)


class Mnist(_TorchvisionSet):
    """60,000 and 10,000 handwritten digits, 1x28x28 (LeCun et al. 1998)."""

    torchvision_name, folder = "MNIST", "MNIST/raw"
    num_classes, sample_shape = 10, (1, 28, 28)

    def damaged(self) -> list[Path]:
        from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

        found = []
        for part in ("train", "t10k"):
            paths = [self.root / self.folder / f"{part}-{name}" for name in ("images-idx3-ubyte", "labels-idx1-ubyte")]
            lengths = set()
            for path in paths:
                try:
                    lengths.add(len(read_sn3_pascalvincent_tensor(str(path))))
                except Exception:  # see above: there is no one type
                    found.append(path)
            if len(lengths) > 1:  # whole, but not of one data set
                found += paths
        return found


class _Cifar(_TorchvisionSet):
    """The two CIFAR sets; torchvision knows the checksum of each of their files."""

    def damaged(self) -> list[Path]:
        from torchvision import datasets
        from torchvision.datasets.utils import check_integrity

        factory, folder = getattr(datasets, self.torchvision_name), self.root / self.folder
        files = [*factory.train_list, *factory.test_list, (factory.meta["filename"], factory.meta["md5"])]
        return [folder / name for name, md5 in files if not check_integrity(folder / name, md5)]


class Cifar10(_Cifar):
    """50,000 and 10,000 pictures of 10 classes, 3x32x32 (Krizhevsky 2009)."""

    torchvision_name, folder = "CIFAR10", "cifar-10-batches-py"
    num_classes, sample_shape = 10, (3, 32, 32)


class Cifar100(_Cifar):
    """50,000 and 10,000 pictures of 100 classes, 3x32x32 (Krizhevsky 2009)."""

    torchvision_name, folder = "CIFAR100", "cifar-100-python"
    num_classes, sample_shape = 100, (3, 32, 32)
