"""ImageNet and CORe50 in the layouts of their archives: labels, subsets, and what is said when something is gone."""

import shutil

import numpy as np
import pytest
from PIL import Image
from support import ROOT

from cl.build import build
from cl.datasets import imagenet
from cl.datasets.core50 import Core50
from cl.datasets.imagenet import ImageNet, read_class_list
from cl.run.folder import plain

IDS = ["n00000003", "n00000001", "n00000002"]  # in another order than they are numbered


def write(path, value: int, side: int = 24) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "JPEG" if path.suffix == ".JPEG" else "PNG"
    Image.fromarray(np.full((side, side + 4, 3), value, dtype=np.uint8)).save(path, kind)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(imagenet, "NUM_CLASSES", 3)
    for name in IDS:
        for number in range(3):
            write(tmp_path / "imagenet" / "train" / name / f"{name}_{number}.JPEG", 20 * int(name[-1]) + number)
        write(tmp_path / "imagenet" / "val" / name / f"ILSVRC2012_val_{int(name[1:]):08}.JPEG", 20 * int(name[-1]) + 9)
    return tmp_path


def dataset(root, **options) -> ImageNet:
    options = {"class_list": None, "per_class": None, "crop": None, "stream": False} | options
    return ImageNet(
        str(root), "imagenet", size=8, cache=str(root / "cache"), validation=0.0, mean=None, std=None, augment=[],
        **options,
    )  # fmt: skip


def shades(split) -> list[int]:
    return [round(value) for value in split.x.float().mean((1, 2, 3)).tolist()]


def test_labels_follow_the_ids(root):
    made = dataset(root)
    made.check()
    train, test = made.load(0)
    assert made.num_classes == 3 and made.sample_shape == (3, 8, 8)
    assert train.y.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2] and test.y.tolist() == [0, 1, 2]
    assert shades(train) == [20, 21, 22, 40, 41, 42, 60, 61, 62] and shades(test) == [29, 49, 69]


def test_a_list_says_which_classes_and_in_which_order(root):
    (root / "mine.txt").write_text("# mine\nn00000003 # the last\n\nn00000001\n")
    made = dataset(root, class_list=str(root / "mine.txt"), per_class=2)
    made.check()
    train, test = made.load(0)
    assert made.num_classes == 2 and shades(test) == [69, 29]
    assert [shade // 10 for shade in shades(train)] == [6, 6, 2, 2] and len(set(shades(train))) == 4
    assert train.y.tolist() == [0, 0, 1, 1] and test.y.tolist() == [0, 1]
    assert shades(dataset(root, class_list=str(root / "mine.txt"), per_class=2).load(1)[0]) == shades(train)


def test_the_pictures_of_a_class_are_drawn_and_not_the_first_by_name(root):
    firsts = [20, 40, 60]
    found = shades(dataset(root, per_class=1).load(0)[0])
    assert [shade // 10 * 10 for shade in found] == firsts and found != firsts


def test_root_may_be_the_folder_itself(root):
    made = dataset(root / "imagenet")
    made.check()
    assert made.root == root / "imagenet"


def test_the_network_is_given_a_crop(root):
    assert dataset(root, crop=6).input_shape == (3, 6, 6)
    with pytest.raises(ValueError, match="dataset.crop must be between 1 and dataset.size=8, got 9"):
        dataset(root, crop=9)


def test_what_is_missing_is_named(root):
    with pytest.raises(FileNotFoundError, match="(?s)elsewhere/imagenet/train: .*image-net.org") as error:
        dataset(root / "elsewhere").check()
    for remedy in ("ILSVRC2012_img_val.tar", "ImageNet('", "val_blurred.tar.gz"):
        assert remedy in str(error.value)
    (root / "mine.txt").write_text("n00000001\nn00000009\n")
    with pytest.raises(ValueError, match="train lacks 1 of 2 classes, the first is n00000009"):
        dataset(root, class_list=str(root / "mine.txt")).check()
    (root / "imagenet" / "val" / "n00000002").rename(root / "imagenet" / "val" / "n00000004")
    with pytest.raises(ValueError, match="val lacks 1 of 3 classes, the first is n00000002"):
        dataset(root).check()
    shutil.rmtree(root / "imagenet" / "train" / "n00000002")
    with pytest.raises(ValueError, match="2 classes, expected 3"):
        dataset(root).check()


@pytest.mark.parametrize("arranged", ["none", "some"])
def test_pictures_of_the_validation_archive_that_are_not_arranged_by_class(root, arranged):
    if arranged == "none":
        shutil.rmtree(root / "imagenet" / "val")
    write(root / "imagenet" / "val" / "ILSVRC2012_val_00000001.JPEG", 9)
    (root / "mine.txt").write_text("n00000001\n")
    with pytest.raises(ValueError, match="(?s)/val needs .*ILSVRC2012_val_00000001.JPEG.*move it away.*torchvision"):
        dataset(root, class_list=str(root / "mine.txt")).check()


@pytest.mark.parametrize("stream", [True, False])
def test_what_was_not_checked_is_read_as_well(root, stream):
    assert [len(split) for split in dataset(root, stream=stream).load(0)] == [9, 3]


@pytest.mark.parametrize(
    "name, classes, side", [("imagenet", 1000, 224), ("imagenet_blurred", 1000, 224), ("imagenet100", 100, 224),
                            ("imagenet100_small", 100, 64), ("core50", 50, 128)]
)  # fmt: skip
def test_the_options_that_are_shipped(compose_config, name, classes, side):
    made = build(plain(compose_config(f"dataset={name}", "backbone=resnet18"))["dataset"], "dataset")
    assert (made.num_classes, made.input_shape) == (classes, (3, side, side))


@pytest.mark.parametrize(
    "text, message", [("cat\n", "got 'cat'"), ("# none\n", "got nothing"), ("n00000001\nn00000001\n", "an id twice")]
)
def test_wrong_lists(tmp_path, text, message):
    (tmp_path / "wrong.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_class_list(str(tmp_path / "wrong.txt"))


def test_the_lists_that_are_shipped():
    from timm.data import ImageNetInfo

    known = set(ImageNetInfo().label_names())
    for path in (ROOT / "conf" / "class_lists").glob("*.txt"):
        assert set(read_class_list(path.name)) <= known
        assert len(read_class_list(path.name)) == 100
    with pytest.raises(FileNotFoundError, match="one of imagenet100.txt, imagenet_first100.txt"):
        read_class_list("imagenet101.txt")


@pytest.fixture(scope="module")
def core50(tmp_path_factory):
    root = tmp_path_factory.mktemp("core50")
    for session in range(1, 12):
        for number in range(1, 51):
            folder = root / "core50_128x128" / f"s{session}" / f"o{number}"
            write(folder / f"C_{session:02}_{number:02}_000.png", 4 * number + session % 4, side=4)
    return root


@pytest.mark.parametrize("labels", ["objects", "categories"])
def test_core50(core50, labels):
    made = Core50(str(core50), labels, 4, False, str(core50 / "cache"), 0.0, None, None, [])
    made.check()
    train, test = made.load(0)
    assert made.num_classes == (50 if labels == "objects" else 10)
    own = [number if labels == "objects" else number // 5 for number in range(50)]
    assert train.y.tolist() == own * 8 and test.y.tolist() == own * 3
    sessions = [value - 4 * (number % 50 + 1) for number, value in enumerate(shades(test))]
    assert sessions == [3] * 100 + [2] * 50  # 3, 7 and 10, by four


def test_core50_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="(?s)core50_128x128/s1/o1: .*curl"):
        Core50(str(tmp_path), "objects", 4, False, None, 0.0, None, None, []).check()
    with pytest.raises(ValueError, match="dataset.labels=faces"):
        Core50(str(tmp_path), "faces", 4, False, None, 0.0, None, None, [])
