"""Data sets in the files that torchvision reads and downloads."""

import gzip
import socket
import struct
import zlib
from abc import abstractmethod
from pathlib import Path

import numpy as np

from cl.data.downloads import fetch
from cl.datasets.base import Dataset, Split, split_of
from cl.datasets.layouts import root_of, seen

EMNIST_CLASSES = {"balanced": 47, "byclass": 62, "bymerge": 47, "letters": 26, "digits": 10, "mnist": 10}
SILENCE = 60.0  # seconds without a byte after which a download fails, because other processes wait for it


class _TorchvisionSet(Dataset):
    """A data set in the files of torchvision, held in memory."""

    torchvision_name: str
    folder: str  # below root, where torchvision keeps the files
    beginnings: tuple[str, ...]  # of the names of its files and archives

    def __init__(
        self, root: str, download: bool, validation: float, mean: list | None, std: list | None, augment: list
    ):
        super().__init__(validation, mean, std, augment)
        self.root, self.download = root_of(Path(root).expanduser(), self.folder), download
        self.options: dict = {}  # further arguments of torchvision's class

    def check(self) -> None:
        """Raise FileNotFoundError, which names the expected folder, unless `download` is set."""
        if not self.download and not self.is_there():
            raise FileNotFoundError(
                f"no {self.torchvision_name} in {self.root}: expected the folder {self.root / self.folder}; "
                "set dataset.root=PATH to where it is, or dataset.download=true to fetch it"
                + seen(self.root, self.folder, self.beginnings)
            )

    def is_there(self) -> bool:
        """Whether any file of the data set is there."""
        return (self.root / self.folder).is_dir()

    def read(self) -> tuple[Split, Split]:
        # Checked before taking the lock, because a complete folder may be read-only.
        if self.download and self.damaged(self.root):
            fetch(self.root, self.folder, self._fetch, self.damaged)
        try:
            train, test = self.parts()
        except Exception as error:  # readers raise many types for a damaged file, AssertionError among them
            damaged = ", ".join(path.name for path in self.damaged(self.root)) or "no single file"
            raise ValueError(
                f"the {self.torchvision_name} files in {self.root / self.folder} cannot be read ({error}); damaged or "
                f"missing: {damaged}; dataset.download=true fetches them again"
            ) from error
        return train, test

    @abstractmethod
    def parts(self) -> list[Split]:
        """The training and the test split."""

    @abstractmethod
    def damaged(self, root: Path) -> list[Path]:
        """The files of the data set below `root` that are missing or cannot be read."""

    def factory(self):
        """torchvision's class of the data set, imported only when needed because that takes a second."""
        from torchvision import datasets

        return getattr(datasets, self.torchvision_name)

    def _fetch(self, root: Path) -> None:
        factory, before = self.factory(), socket.getdefaulttimeout()
        socket.setdefaulttimeout(SILENCE)  # torchvision sets none
        try:
            factory(root=root, train=True, download=True, **self.options)
        except Exception as error:  # many types: RuntimeError for a wrong checksum, EOFError for a truncated archive
            places = [factory.url] if "url" in vars(factory) else factory.mirrors
            options = "".join(f", {name}={value!r}" for name, value in self.options.items())
            name = self.torchvision_name
            raise OSError(
                f"{name} could not be downloaded ({error}); tried {', '.join(places)}. With a network, run "
                f"`python -c \"from torchvision.datasets import {name}; {name}('data', download=True{options})\"` "
                f"and copy data/{self.folder} to {self.root / self.folder}"
            ) from error
        finally:
            socket.setdefaulttimeout(before)


class _Idx(_TorchvisionSet):
    """Grey pictures of 28x28 pixels in MNIST's four IDX files, plain or in gzip, with a dash or dot in their names."""

    sample_shape = (1, 28, 28)
    prefixes = ("train", "t10k")  # of the files' names
    beginnings = ("train-", "t10k-", "emnist-", "gzip.zip")

    def is_there(self) -> bool:
        return super().is_there() or any(path.is_file() for pair in self._paths(self.root) for path in pair)

    def parts(self) -> list[Split]:
        return [self.part(split_of(*map(_read_idx, pair))) for pair in self._paths(self.root)]

    def part(self, split: Split) -> Split:
        """Convert a split from the form in the files."""
        return split

    def damaged(self, root: Path) -> list[Path]:
        found = []
        for paths in self._paths(root):
            lengths = set()
            for path in paths:
                try:
                    lengths.add(len(_read_idx(path)))
                except (OSError, ValueError):
                    found.append(path)
            if len(lengths) > 1:  # unequal numbers of pictures and labels: not files of one data set
                found += paths
        return found

    def _paths(self, root: Path) -> list[list[Path]]:
        """The pictures' and the labels' file of the training split, then those of the test split."""
        kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
        return [[self._path(root / self.folder, f"{part}-{kind}") for kind in kinds] for part in self.prefixes]

    def _path(self, folder: Path, name: str) -> Path:
        """The path of a file under any of its names, or its expected path if it is missing."""
        dotted = name.replace("-idx", ".idx")
        forms = [f"{form}{ending}" for ending in ("", ".gz") for form in (name, dotted)]
        places = [place / form for place in (folder, folder.parent) for form in forms]
        return next((place for place in places if place.is_file()), folder / name)


def _read_idx(path: Path) -> np.ndarray:
    """The array of unsigned bytes in an IDX file (format: http://yann.lecun.com/exdb/mnist).

    Raises ValueError for a damaged file and for other formats.
    """
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    if content[:3] != b"\0\0\x08" or len(content) < 4 or len(content) < 4 + 4 * content[3]:
        raise ValueError(f"{path} is not an IDX file of unsigned bytes")
    shape = struct.unpack(f">{content[3]}I", content[4 : 4 + 4 * content[3]])
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * content[3])
    if len(values) != np.prod(shape, dtype=np.int64) or len(shape) not in (1, 3):
        raise ValueError(f"{path} is damaged: it has {len(values)} bytes for an array of shape {shape}")
    return values.reshape(shape).copy()  # writable


class Mnist(_Idx):
    """60,000 training and 10,000 test pictures of handwritten digits, 1x28x28 (LeCun et al. 1998)."""

    torchvision_name, folder, num_classes = "MNIST", "MNIST/raw", 10


class FashionMnist(_Idx):
    """60,000 training and 10,000 test pictures of clothing in 10 classes, 1x28x28 (Xiao et al. 2017)."""

    torchvision_name, folder, num_classes = "FashionMNIST", "FashionMNIST/raw", 10


class Kmnist(_Idx):
    """60,000 training and 10,000 test pictures of cursive Japanese characters, 10 classes (Clanuwat et al. 2018)."""

    torchvision_name, folder, num_classes = "KMNIST", "KMNIST/raw", 10


class Emnist(_Idx):
    """Handwritten digits and letters, 1x28x28, upright (Cohen et al. 2017); `split`: which ones and which classes."""

    torchvision_name, folder = "EMNIST", "EMNIST/raw"

    def __init__(
        self, split: str, root: str, download: bool, validation: float, mean: list | None, std: list | None,
        augment: list,
    ):  # fmt: skip
        if split not in EMNIST_CLASSES:
            raise ValueError(f"dataset.split={split} does not exist; valid: {', '.join(EMNIST_CLASSES)}")
        super().__init__(root, download, validation, mean, std, augment)
        self.num_classes, self.prefixes = EMNIST_CLASSES[split], (f"emnist-{split}-train", f"emnist-{split}-test")
        self.split = self.options["split"] = split

    def part(self, split: Split) -> Split:
        """Transpose the pictures back, and count the letters from 0 instead of 1."""
        return Split(split.x.transpose(2, 3).contiguous(), split.y - (1 if self.split == "letters" else 0))


class _Cifar(_TorchvisionSet):
    """A CIFAR data set; torchvision knows the checksum of each of its files."""

    def parts(self) -> list[Split]:
        factory = self.factory()
        loaded = [factory(root=self.root, train=train) for train in (True, False)]
        return [split_of(np.asarray(part.data), part.targets) for part in loaded]

    def damaged(self, root: Path) -> list[Path]:
        from torchvision.datasets.utils import check_integrity

        factory, folder = self.factory(), root / self.folder
        files = [*factory.train_list, *factory.test_list, (factory.meta["filename"], factory.meta["md5"])]
        return [folder / name for name, md5 in files if not check_integrity(folder / name, md5)]


class Cifar10(_Cifar):
    """50,000 training and 10,000 test pictures of 10 classes, 3x32x32 (Krizhevsky 2009)."""

    torchvision_name, folder = "CIFAR10", "cifar-10-batches-py"
    num_classes, sample_shape, beginnings = 10, (3, 32, 32), ("cifar-10-", "data_batch_")


class Cifar100(_Cifar):
    """50,000 training and 10,000 test pictures of 100 classes, 3x32x32 (Krizhevsky 2009)."""

    torchvision_name, folder = "CIFAR100", "cifar-100-python"
    num_classes, sample_shape, beginnings = 100, (3, 32, 32), ("cifar-100-",)
