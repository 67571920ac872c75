"""Tiny ImageNet: the layout of its archive, labels of the validation pictures, and what is said when one is gone."""

import numpy as np
import pytest
from PIL import Image

from cl.datasets.tiny_imagenet import TinyImageNet

IDS = [f"n{number:08d}" for number in range(200)]


def shade(label: int) -> int:
    return 20 + label


def write(path, label: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.full((64, 64, 3), shade(label), dtype=np.uint8)).convert(mode)
    picture.save(path, "JPEG", quality=95)


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "tiny-imagenet-200"
    for label, name in enumerate(reversed(IDS)):  # written in another order than they are numbered
        write(folder / "train" / name / "images" / f"{name}_0.JPEG", 199 - label, "L" if label == 3 else "RGB")
    lines = []
    for number, label in enumerate((7, 199, 0, 7)):
        write(folder / "val" / "images" / f"val_{number}.JPEG", label)
        lines.append(f"val_{number}.JPEG\t{IDS[label]}\t0\t0\t62\t62")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def dataset(root) -> TinyImageNet:
    return TinyImageNet(str(root), str(root / "cache"), 0.0, None, None, [])


def test_pictures_and_labels_are_those_of_the_archive(root):
    made = dataset(root)
    made.check()
    train, test = made.load(seed=0)
    assert train.x.shape == (200, 3, 64, 64) and made.sample_shape == (3, 64, 64) and made.num_classes == 200
    assert train.y.tolist() == list(range(200)) and test.y.tolist() == [7, 199, 0, 7]
    for split in (train, test):  # JPEG may be off by one
        assert all(abs(int(x.float().mean().round()) - shade(int(y))) <= 1 for x, y in zip(split.x, split.y))
    assert len(list((root / "cache").iterdir())) == 2


def test_what_is_missing_is_named_with_the_command_that_fetches_it(root, tmp_path):
    with pytest.raises(FileNotFoundError, match="tiny-imagenet-200/train: .*fetch it with `curl"):
        dataset(tmp_path / "nowhere").check()
    (root / "tiny-imagenet-200" / "val" / "images" / "val_2.JPEG").unlink()
    with pytest.raises(ValueError, match="is incomplete: no .*val_2.JPEG"):
        dataset(root).load(seed=0)
    gone = root / "tiny-imagenet-200" / "train" / IDS[5]
    (gone / "images" / f"{IDS[5]}_0.JPEG").unlink()
    (gone / "images").rmdir()
    gone.rmdir()
    with pytest.raises(ValueError, match="199 class folders, expected 200"):
        dataset(root).check()


def test_root_may_be_the_folder_itself_and_its_archive_is_named(root, tmp_path):
    made = dataset(root / "tiny-imagenet-200")
    made.check()
    assert made.root == root / "tiny-imagenet-200"
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "tiny-imagenet-200.zip").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="the archive .*/own/tiny-imagenet-200.zip was found: unpack it there"):
        dataset(tmp_path / "own").check()
    with pytest.raises(FileNotFoundError, match="found one folder deeper: set dataset.root=.*/outer/deep"):
        (tmp_path / "outer" / "deep" / "tiny-imagenet-200").mkdir(parents=True)
        dataset(tmp_path / "outer").check()


@pytest.mark.parametrize("below", ["", "images"])
def test_validation_pictures_arranged_by_class_are_used(root, below):
    val = root / "tiny-imagenet-200" / "val"
    for path in (val / "images").iterdir():
        path.unlink()
    for label, name in enumerate(IDS):
        write(val / name / below / f"val_{199 - label}.JPEG", label)
    for annotated in (True, False):
        if not annotated:
            (val / "val_annotations.txt").unlink()
        made = dataset(root)
        made.check()
        test = made.load(seed=0)[1]
        assert test.y.tolist() == list(range(200))
        assert all(abs(int(x.float().mean().round()) - shade(int(y))) <= 1 for x, y in zip(test.x, test.y))


@pytest.mark.parametrize("line", ["val_9.JPEG", "val_9.JPEG\tn99999999\t0"])
def test_a_damaged_line_of_the_annotations_is_named(root, line):
    with open(root / "tiny-imagenet-200" / "val" / "val_annotations.txt", "a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match="val_annotations.txt is damaged: .* got 'val_9.JPEG"):
        dataset(root).load(seed=0)
