"""Files in the original formats of the data sets, written small."""

import hashlib
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

MNIST_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def _idx(array: np.ndarray) -> bytes:
    """IDX: two zero bytes, 8 for unsigned bytes, the number of dimensions, each as a big-endian int32, the values."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def idx():
    """The bytes of an IDX file with an array."""
    return _idx


@pytest.fixture
def write_mnist():
    """Writes MNIST's four files below a root; returns the folder that they are in."""

    def write(root: Path, parts: dict[str, tuple[np.ndarray, np.ndarray]]) -> Path:
        folder = root / "MNIST" / "raw"
        folder.mkdir(parents=True, exist_ok=True)
        for part, arrays in parts.items():
            for name, array in zip(MNIST_FILES[part], arrays):
                (folder / name).write_bytes(_idx(array))
        return folder

    return write


@pytest.fixture
def write_cifar(monkeypatch):
    """Writes the pickles of CIFAR below a root and makes torchvision expect just their md5 sums, which it checks.

    `batches`: file name to ([N, 3, 32, 32] images, labels). Nothing else of torchvision is replaced, so a file that
    is changed afterwards is found out as one of the real data set would be.
    """
    from torchvision import datasets

    def write(root: Path, name: str, batches: dict[str, tuple[np.ndarray, list[int]]], labels_key: str) -> Path:
        factory = getattr(datasets, name)
        folder = root / factory.base_folder
        folder.mkdir(parents=True)
        sums = {}
        contents = {
            file: {"data": images.reshape(len(images), -1), labels_key: labels}
            for file, (images, labels) in batches.items()
        }
        contents[factory.meta["filename"]] = {factory.meta["key"]: [str(i) for i in range(100)]}
        for file, content in contents.items():
            raw = pickle.dumps(content, protocol=2)
            (folder / file).write_bytes(raw)
            sums[file] = hashlib.md5(raw).hexdigest()
        for split in ("train_list", "test_list"):
            monkeypatch.setattr(factory, split, [[file, sums[file]] for file, _ in getattr(factory, split)])
        monkeypatch.setattr(factory, "meta", {**factory.meta, "md5": sums[factory.meta["filename"]]})
        return folder

    return write


@pytest.fixture(scope="session")
def real_mnist_root() -> Path:
    """The folder with MNIST/raw/ of the real data set; skips, saying where it was looked for, if there is none."""
    repository = Path(__file__).resolve().parents[2]
    given = os.environ.get("REMERGE_DATA")
    places = [Path(given).expanduser()] if given else [repository / "data", repository.parent / "shared" / "data"]
    for place in places:
        if all((place / "MNIST" / "raw" / name).is_file() for names in MNIST_FILES.values() for name in names):
            return place
    pytest.skip(
        "THE REAL MNIST WAS NOT TESTED: no MNIST/raw/ with the four unpacked files (*-ubyte) in "
        f"{' or '.join(map(str, places))}; set REMERGE_DATA to the folder that holds MNIST/, or fetch it with "
        "python run.py dataset=mnist dataset.download=true"
    )
