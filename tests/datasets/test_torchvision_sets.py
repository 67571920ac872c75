"""MNIST and CIFAR: the original file formats, read bit by bit, and what is said when files are missing or damaged."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cl.datasets.torchvision_sets import Cifar10, Cifar100, Emnist, FashionMnist, Kmnist, Mnist

DRAW = np.random.default_rng(0)
CIFAR10_FILES = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]


def make(factory, root, download: bool = False, **more):
    return factory(root=str(root), download=download, validation=0.0, mean=None, std=None, augment=[], **more)


def images(count: int, *shape: int) -> np.ndarray:
    return DRAW.integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.fixture
def small_mnist(tmp_path, write_mnist):
    """12 training and 7 test samples, and the folder they are in."""
    parts = {part: (images(n, 28, 28), DRAW.integers(0, 10, n)) for part, n in (("train", 12), ("test", 7))}
    return write_mnist(tmp_path, parts), parts


@pytest.fixture
def small_cifar10(tmp_path, write_cifar):
    """Three samples in each of the six files."""
    batches = {file: (images(3, 3, 32, 32), DRAW.integers(0, 10, 3).tolist()) for file in CIFAR10_FILES}
    return write_cifar(tmp_path, "CIFAR10", batches, "labels"), batches


@pytest.fixture
def small_cifar100(tmp_path, write_cifar):
    batches = {
        file: (images(n, 3, 32, 32), DRAW.integers(0, 100, n).tolist()) for file, n in (("train", 6), ("test", 4))
    }
    return write_cifar(tmp_path, "CIFAR100", batches, "fine_labels"), batches


def assert_equal(split, expected_images: np.ndarray, expected_labels) -> None:
    """Bit-exact, in [N, C, H, W]."""
    assert split.x.dtype == torch.uint8 and split.x.is_contiguous() and split.y.dtype == torch.int64
    assert split.x.shape == expected_images.shape
    assert np.array_equal(split.x.numpy(), expected_images)
    assert split.y.tolist() == list(expected_labels)


def test_mnist_comes_back_bit_by_bit(small_mnist, tmp_path):
    _, parts = small_mnist
    for split, (pictures, labels) in zip(make(Mnist, tmp_path).load(seed=0), parts.values()):
        assert_equal(split, pictures[:, None], labels)


@pytest.mark.parametrize("factory", [FashionMnist, Kmnist])
def test_the_sets_in_the_format_of_mnist_come_back_bit_by_bit(small_mnist, tmp_path, factory):
    folder, parts = small_mnist
    shutil.copytree(folder, tmp_path / "other" / factory.folder)
    for split, (pictures, labels) in zip(make(factory, tmp_path / "other").load(seed=0), parts.values()):
        assert_equal(split, pictures[:, None], labels)
    with pytest.raises(FileNotFoundError, match=factory.folder):
        make(factory, tmp_path / "nowhere").check()


@pytest.mark.parametrize("split, classes, first", [("balanced", 47, 0), ("letters", 26, 1), ("digits", 10, 0)])
def test_emnist_is_turned_upright_and_its_letters_counted_from_0(tmp_path, idx, split, classes, first):
    folder = tmp_path / "EMNIST" / "raw"
    folder.mkdir(parents=True)
    parts = [(images(n, 28, 28), DRAW.integers(first, first + classes, n)) for n in (9, 5)]
    for name, (pictures, labels) in zip(("train", "test"), parts):
        (folder / f"emnist-{split}-{name}-images-idx3-ubyte").write_bytes(idx(pictures))
        (folder / f"emnist-{split}-{name}-labels-idx1-ubyte").write_bytes(idx(labels))
    dataset = make(Emnist, tmp_path, split=split)
    assert dataset.num_classes == classes
    for found, (pictures, labels) in zip(dataset.load(seed=0), parts):
        assert_equal(found, pictures.transpose(0, 2, 1)[:, None], labels - first)
    (folder / f"emnist-{split}-test-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match=f"damaged or missing: emnist-{split}-test-labels-idx1-ubyte"):
        dataset.load(seed=0)
    with pytest.raises(ValueError, match="dataset.split=capital does not exist; valid: balanced"):
        make(Emnist, tmp_path, split="capital")


def test_cifar10_comes_back_bit_by_bit_and_in_the_order_of_its_files(small_cifar10, tmp_path):
    _, batches = small_cifar10
    train, test = make(Cifar10, tmp_path).load(seed=0)
    pictures, labels = zip(*(batches[file] for file in CIFAR10_FILES[:5]))
    assert_equal(train, np.concatenate(pictures), np.concatenate(labels))
    assert_equal(test, *batches["test_batch"])


def test_cifar100_comes_back_bit_by_bit_with_its_fine_labels(small_cifar100, tmp_path):
    _, batches = small_cifar100
    for split, (pictures, labels) in zip(make(Cifar100, tmp_path).load(seed=0), batches.values()):
        assert_equal(split, pictures, labels)


@pytest.mark.parametrize(
    "factory, folder, shape, classes",
    [
        (Mnist, "MNIST/raw", (1, 28, 28), 10),
        (Cifar10, "cifar-10-batches-py", (3, 32, 32), 10),
        (Cifar100, "cifar-100-python", (3, 32, 32), 100),
    ],
)
def test_a_missing_folder_is_named_with_the_remedy_and_the_shape_is_known_without_it(
    factory, folder, shape, classes, tmp_path
):
    dataset = make(factory, tmp_path)
    assert (dataset.sample_shape, dataset.num_classes) == (shape, classes)
    with pytest.raises(FileNotFoundError) as error:
        dataset.check()
    for expected in (str(tmp_path / folder), "dataset.root=", "dataset.download=true"):
        assert expected in str(error.value)
    make(factory, tmp_path, download=True).check()  # it is going to be fetched


def test_a_folder_that_is_there_passes_the_check(small_mnist, small_cifar10, small_cifar100, tmp_path):
    for factory in (Mnist, Cifar10, Cifar100):
        make(factory, tmp_path).check()


MNIST_NAMES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


def _cut_into_the_header(path):
    path.write_bytes(path.read_bytes()[:6])


def _empty(path):
    path.write_bytes(b"")


def _lengthen(path):
    path.write_bytes(path.read_bytes() + b"\0\0")


def _overwrite(path):
    path.write_bytes(b"<html>404 Not Found</html>" * 40)


DAMAGES = (_truncate, _cut_into_the_header, _empty, _lengthen, _overwrite)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
@pytest.mark.parametrize("name", MNIST_NAMES)
def test_a_damaged_mnist_file_is_a_value_error_that_names_its_folder(small_mnist, tmp_path, name, damage):
    folder, _ = small_mnist
    damage(folder / name)
    with pytest.raises(ValueError) as error:
        make(Mnist, tmp_path).read()
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("name", MNIST_NAMES)
def test_a_missing_mnist_file_is_a_value_error_that_names_its_folder(small_mnist, tmp_path, name):
    folder, _ = small_mnist
    (folder / name).unlink()
    with pytest.raises(ValueError) as error:
        make(Mnist, tmp_path).read()
    assert str(folder) in str(error.value)


def test_images_and_labels_of_different_number_are_a_value_error(small_mnist, tmp_path):
    folder, _ = small_mnist
    shutil.copy(folder / "t10k-labels-idx1-ubyte", folder / "train-labels-idx1-ubyte")
    with pytest.raises(ValueError) as error:
        make(Mnist, tmp_path).read()
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("damage", [_truncate, _empty, _overwrite], ids=lambda damage: damage.__name__.strip("_"))
@pytest.mark.parametrize("name", ["data_batch_1", "data_batch_5", "test_batch", "batches.meta"])
def test_a_damaged_cifar10_file_is_a_value_error_that_names_its_folder(small_cifar10, tmp_path, name, damage):
    folder, _ = small_cifar10
    damage(folder / name)
    with pytest.raises(ValueError) as error:
        make(Cifar10, tmp_path).read()
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_a_truncated_cifar100_file_is_a_value_error_that_names_its_folder(small_cifar100, tmp_path, name):
    folder, _ = small_cifar100
    _truncate(folder / name)
    with pytest.raises(ValueError) as error:
        make(Cifar100, tmp_path).read()
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_the_damaged_mnist_file_itself_is_named(small_mnist, tmp_path, name):
    _truncate(small_mnist[0] / name)
    with pytest.raises(ValueError, match=name):
        make(Mnist, tmp_path).read()


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch"])
def test_the_damaged_cifar_file_itself_is_named(small_cifar10, tmp_path, name):
    _truncate(small_cifar10[0] / name)
    with pytest.raises(ValueError, match=name):
        make(Cifar10, tmp_path).read()


def _other_labels(path):
    shutil.copy(path.with_name("t10k-labels-idx1-ubyte"), path.with_name("train-labels-idx1-ubyte"))


@pytest.mark.parametrize("damage", [*DAMAGES, _other_labels], ids=lambda damage: damage.__name__.strip("_"))
def test_download_fetches_a_damaged_mnist_file_anew_as_the_error_says(small_mnist, tmp_path, monkeypatch, damage):
    folder, _ = small_mnist
    whole = {name: (folder / name).read_bytes() for name in MNIST_NAMES}
    damage(folder / MNIST_NAMES[0])
    with pytest.raises(ValueError, match="dataset.download=true fetches them again"):
        make(Mnist, tmp_path).read()

    def fetch(url, download_root, filename, md5):
        name = filename.removesuffix(".gz")
        (Path(download_root) / name).write_bytes(whole[name])

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fetch)
    assert len(make(Mnist, tmp_path, download=True).read()[0]) == 12


def _dotted(folder):
    for name in MNIST_NAMES:
        (folder / name).rename(folder / name.replace("-idx", ".idx"))
    return folder.parent.parent


def _gzipped(folder, ending: str = ".gz"):
    for name in MNIST_NAMES:
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / f"{name}{ending}").write_bytes(gzip.compress(content))
    return folder.parent.parent


def _gzipped_without_its_ending(folder):
    return _gzipped(folder, "")


def _beside_raw(folder):
    for name in MNIST_NAMES:
        (folder / name).rename(folder.parent / name)
    folder.rmdir()
    return folder.parent.parent


FORMS = {
    "dotted": _dotted,
    "gzipped": _gzipped,
    "gzipped without its ending": _gzipped_without_its_ending,
    "dotted and gzipped": lambda folder: _gzipped(folder) and [
        path.rename(path.with_name(path.name.replace("-idx", ".idx"))) for path in folder.iterdir()
    ] and folder.parent.parent,
    "not in raw": _beside_raw,
    "root is MNIST": lambda folder: folder.parent,
    "root is MNIST/raw": lambda folder: folder,
    "root is MNIST, not in raw": lambda folder: _beside_raw(folder) / "MNIST",
}  # fmt: skip


@pytest.mark.parametrize("download", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_mnist_in_another_form_is_read_bit_by_bit(small_mnist, form, download, monkeypatch):
    folder, parts = small_mnist
    monkeypatch.setattr(Mnist, "_fetch", lambda *_: pytest.fail("it was fetched though it is there"))
    dataset = make(Mnist, FORMS[form](folder), download=download)
    dataset.check()
    for split, (pictures, labels) in zip(dataset.load(seed=0), parts.values()):
        assert_equal(split, pictures[:, None], labels)


def test_the_folder_of_another_set_of_the_same_names_is_not_taken(small_mnist):
    for root in (small_mnist[0], small_mnist[0].parent):
        with pytest.raises(FileNotFoundError, match="no FashionMNIST in"):
            make(FashionMnist, root).check()


def test_cifar_is_found_where_root_is_its_own_folder(small_cifar10):
    folder, batches = small_cifar10
    dataset = make(Cifar10, folder)
    dataset.check()
    assert_equal(dataset.load(seed=0)[1], *batches["test_batch"])


@pytest.mark.parametrize("factory, there, message", [
    (Cifar10, "cifar-10-python.tar.gz", "; the archive {}/cifar-10-python.tar.gz was found: unpack it there"),
    (Cifar100, "cifar-100-python.tar.gz", "; the archive {}/cifar-100-python.tar.gz was found: unpack it there"),
    (Cifar10, "cifar-10-batches-bin/a.bin", "; the folder {}/cifar-10-batches-bin was found, which has a similar name"),
    (Cifar10, "data_batch_1", "; {}/data_batch_1 was found, which may be a part of it: if so, move it and similar "),
    (Cifar10, "deep/cifar-10-batches-py/x", "; it was found one folder deeper: set dataset.root={}/deep"),
    (Mnist, "train-images-idx3-ubyte.gz", "; {}/train-images-idx3-ubyte.gz was found, which may be a part of it"),
    (Mnist, "data/MNIST/raw/x", "; it was found one folder deeper: set dataset.root={}/data"),
    (Mnist, "", "; there is no folder {}"),
])  # fmt: skip
def test_what_was_seen_in_another_form_is_said(tmp_path, factory, there, message):
    root = tmp_path / "own"
    if there:
        (root / there).parent.mkdir(parents=True)
        (root / there).write_bytes(b"")
    with pytest.raises(FileNotFoundError) as error:
        make(factory, root).check()
    assert message.format(root) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("shape, high, message", [
    ((4, 32, 32), 9, r"training samples are torch.uint8 of shape \(1, 32, 32\), expected torch.uint8 of shape \(1, 28"),
    ((4, 28, 28), 25, "training labels go from 25 to 25, expected 0 to 9"),
    ((0, 28, 28), 9, "there are no training samples"),
])  # fmt: skip
def test_samples_of_another_data_set_are_refused(tmp_path, write_mnist, shape, high, message):
    part = (np.zeros(shape, dtype=np.uint8), np.full(shape[0], high))
    write_mnist(tmp_path, {"train": part, "test": part})
    with pytest.raises(ValueError, match=message):
        make(Mnist, tmp_path).load(0)


def test_the_real_mnist(real_mnist_root):
    dataset = make(Mnist, real_mnist_root)
    dataset.check()
    train, test = dataset.load(seed=0)
    assert tuple(train.x.shape) == (60000, 1, 28, 28) and tuple(test.x.shape) == (10000, 1, 28, 28)
    # the class counts that are published for it
    assert train.y.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert test.y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    # and the mean and deviation that everyone normalises it with
    pixels = train.x.numpy() / np.float32(255)
    assert pixels.mean(dtype=np.float64) == pytest.approx(0.1307, abs=5e-5)
    assert pixels.std(dtype=np.float64) == pytest.approx(0.3081, abs=5e-5)


def test_validation_of_the_real_mnist_holds_out_training_samples(real_mnist_root):
    dataset = Mnist(root=str(real_mnist_root), download=False, validation=0.1, mean=None, std=None, augment=[])
    train, held_out = dataset.load(seed=0)
    assert (len(train), len(held_out)) == (54000, 6000)
    # both parts together have the training split's counts, which differ from those of the test split
    counts = train.y.bincount() + held_out.y.bincount()
    assert counts.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
