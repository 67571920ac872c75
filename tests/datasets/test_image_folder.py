"""One's own pictures: labels, centre crop and scaling, colour modes, the cache of decoded pictures, clear errors."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cl.datasets import image_folder
from cl.datasets.image_folder import ImageFolder


def put(path: Path, picture, **options) -> Path:
    """Write a picture (an array, or one of Pillow's) in the format that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(path, **options)
    return path


def colour(*rgb: int, width: int = 12, height: int = 9) -> Image.Image:
    return Image.new("RGB", (width, height), rgb)


def make(root: Path, size: int = 8, channels: int = 3, cache: Path | None = None) -> ImageFolder:
    return ImageFolder(
        root=str(root),
        size=size,
        channels=channels,
        crop=None,
        stream=False,
        cache=str(cache or root.parent / "cache"),
        validation=0.0,
        mean=None,
        std=None,
        augment=[],
    )


def only(tmp_path: Path, picture, size: int, channels: int = 3, name: str = "a.png", **options) -> np.ndarray:
    """What the one picture of a data set becomes, [C, size, size]."""
    root = tmp_path / "pictures"
    for part in ("train", "test"):
        put(root / part / "some" / name, picture, **options)
    train, test = make(root, size, channels).load(seed=0)
    assert torch.equal(train.x, test.x) and train.x.shape == (1, channels, size, size)
    return train.x[0].numpy()


@pytest.fixture
def pets(tmp_path) -> Path:
    """Three classes in pictures of several formats, sizes and modes; each class has a colour of its own."""
    root = tmp_path / "pets"
    put(root / "train" / "cat" / "b.png", colour(250, 0, 0), compress_level=0)
    put(root / "train" / "cat" / "a.jpg", colour(250, 0, 0, width=30, height=70), quality=95)
    put(root / "train" / "Zebra" / "x.png", colour(0, 0, 250, width=3, height=5).convert("RGBA"))
    put(root / "train" / "dog" / "deep" / "c.JPEG", colour(0, 250, 0, width=64, height=16), quality=95)
    put(root / "train" / "dog" / "d.png", colour(0, 250, 0).convert("P", palette=Image.Palette.ADAPTIVE))
    put(root / "test" / "dog" / "e.png", colour(0, 250, 0))
    put(root / "test" / "Zebra" / "f.png", colour(0, 0, 250))
    (root / "train" / "dog" / "notes.txt").write_text("not a picture")
    (root / "train" / "readme.md").write_text("not a class")
    return root


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The names of all pictures that are decoded, as it happens."""
    names = []
    decode = ImageFolder._decode

    def counting(self, path):
        names.append(Path(path).name)
        return decode(self, path)

    monkeypatch.setattr(ImageFolder, "_decode", counting)
    return names


def cached_files(root: Path) -> list[Path]:
    """All files below the cache folder, temporary ones too."""
    cache = root.parent / "cache"
    return sorted(path for path in cache.rglob("*") if path.is_file()) if cache.exists() else []


# What is loaded


def test_labels_are_the_places_of_the_class_names_in_sorted_order(pets):
    dataset = make(pets)
    assert dataset.classes == ["Zebra", "cat", "dog"] and dataset.num_classes == 3
    assert dataset.sample_shape == (3, 8, 8)
    train, test = dataset.load(seed=0)
    assert train.y.tolist() == [0, 1, 1, 2, 2]
    assert test.y.tolist() == [0, 2]  # of the classes of train/, though test/ has no cat
    for split in (train, test):
        assert split.x.dtype == torch.uint8 and split.x.is_contiguous()
        # blue, red, green: the label belongs to the picture; a JPEG is off by some levels
        brightest = split.x.float().mean((2, 3)).argmax(1)
        assert [{2: 0, 0: 1, 1: 2}[channel] for channel in brightest.tolist()] == split.y.tolist()


@pytest.mark.parametrize(
    "height, width, top, left",
    [(6, 6, 0, 0), (6, 16, 0, 5), (16, 6, 5, 0), (6, 7, 0, 0), (6, 9, 0, 1), (9, 6, 1, 0)],
)
def test_a_picture_whose_shorter_side_fits_is_cropped_at_its_centre_and_not_changed(tmp_path, height, width, top, left):
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = picture[top : top + 6, left : left + 6].transpose(2, 0, 1)
    assert np.array_equal(only(tmp_path, picture, size=6), expected)


@pytest.mark.parametrize("portrait", [False, True], ids=["landscape", "portrait"])
def test_the_centre_square_of_a_larger_picture_is_scaled(tmp_path, portrait):
    # A ramp of two levels per pixel along the longer side; of its 64 pixels the square keeps 16..47, a fourth as many
    # when scaled. Pixel j is the mean over a neighbourhood symmetric about 16 + 4j + 1.5, and the mean of a ramp is its
    # value there: 8j + 35. At the border the neighbourhood is cut off.
    ramp = np.repeat(np.arange(0, 128, 2, dtype=np.uint8)[None, :, None], 32, axis=0).repeat(3, axis=2)
    expected = np.broadcast_to(8 * np.arange(1, 7) + 35, (8, 6))
    if portrait:
        ramp, expected = ramp.transpose(1, 0, 2), expected.T
    got = only(tmp_path, np.ascontiguousarray(ramp), size=8)
    inside = got[:, 1:-1] if portrait else got[:, :, 1:-1]
    assert all(np.array_equal(channel, expected) for channel in inside)


def test_scaling_down_averages_and_does_not_pick_pixels(tmp_path):
    # a checkerboard of single pixels is grey when seen from afar; picking pixels leaves black or white
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    assert np.abs(only(tmp_path, board, size=8, channels=1).astype(int) - 127.5).max() < 10


def test_a_smaller_picture_is_scaled_up(tmp_path):
    picture = np.zeros((2, 4, 3), dtype=np.uint8)
    picture[:, 1] = (10, 20, 30)  # the centre square is columns 1 and 2
    picture[:, 2] = (200, 100, 50)
    got = only(tmp_path, picture, size=16)
    # in the middle of each of the two pixels stands its own colour
    assert got[:, 8, 4].tolist() == pytest.approx([10, 20, 30], abs=12)
    assert got[:, 8, 11].tolist() == pytest.approx([200, 100, 50], abs=12)


@pytest.mark.parametrize("width, height", [(1, 50), (50, 1), (1, 1), (333, 7), (37, 41)])
def test_every_shape_of_picture_becomes_the_same_square(tmp_path, width, height):
    got = only(tmp_path, colour(90, 60, 30, width=width, height=height), size=5)
    assert np.array_equal(got, np.broadcast_to(np.array([90, 60, 30])[:, None, None], (3, 5, 5)))


PALETTE = Image.new("P", (8, 8), 3)
PALETTE.putpalette([value for i in range(4) for value in (i, 50 * i, 60 * i)])


@pytest.mark.parametrize(
    "picture, name, rgb, grey",
    [
        (Image.new("RGB", (8, 8), (200, 100, 50)), "a.png", (200, 100, 50), 124),
        (Image.new("RGBA", (8, 8), (200, 100, 50, 0)), "a.png", (200, 100, 50), 124),  # the alpha channel is dropped
        (PALETTE, "a.png", (3, 150, 180), 109),
        (Image.new("L", (8, 8), 77), "a.png", (77, 77, 77), 77),
        (Image.new("LA", (8, 8), (77, 9)), "a.png", (77, 77, 77), 77),
        (Image.new("1", (8, 8), 1), "a.png", (255, 255, 255), 255),
        (Image.new("L", (8, 8), 77), "a.jpg", (77, 77, 77), 77),
        (Image.new("RGB", (8, 8), (200, 100, 50)), "a.bmp", (200, 100, 50), 124),
        (Image.new("RGB", (8, 8), (200, 100, 50)), "a.JPG", (200, 100, 50), 124),
        (Image.new("RGB", (8, 8), (200, 100, 50)), "a.webp", (200, 100, 50), 124),
    ],
    ids=["RGB", "RGBA", "palette", "grey", "grey_alpha", "bilevel", "grey_jpeg", "bmp", "jpeg", "webp"],
)
@pytest.mark.parametrize("channels", [3, 1])
def test_every_mode_becomes_colour_or_grey(tmp_path, picture, name, rgb, grey, channels):
    # grey is ITU-R 601 luma: .299 R + .587 G + .114 B
    expected = rgb if channels == 3 else (grey,)
    lossy = not name.endswith(("png", "bmp"))
    got = only(tmp_path, picture, size=8, channels=channels, name=name)
    assert np.abs(got.astype(int) - np.array(expected)[:, None, None]).max() <= (4 if lossy else 0)


def test_a_picture_of_sixteen_bits_keeps_its_levels(tmp_path):
    levels = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4369  # 0 to 65535
    got = only(tmp_path, levels, size=4, channels=1)
    assert np.abs(got[0].astype(int) - np.arange(16).reshape(4, 4) * 17).max() <= 1


# The cache


def assert_same(first, second) -> None:
    for a, b in zip(first, second):
        assert torch.equal(a.x, b.x) and torch.equal(a.y, b.y)


def test_the_second_load_decodes_nothing_and_is_bit_equal(pets, decoded):
    first = make(pets).load(seed=0)
    assert sorted(decoded) == ["a.jpg", "b.png", "c.JPEG", "d.png", "e.png", "f.png", "x.png"]
    assert len(cached_files(pets)) == 2
    decoded.clear()
    second = make(pets).load(seed=0)
    assert decoded == []
    assert_same(first, second)
    for split in second:
        assert split.x.is_contiguous() and split.x.dtype == torch.uint8


def test_a_changed_picture_is_decoded_anew(pets, decoded):
    make(pets).load(seed=0)
    path = pets / "train" / "cat" / "b.png"
    before = path.stat()
    put(path, colour(1, 2, 3), compress_level=0)
    assert path.stat().st_size == before.st_size  # only the time tells
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1000))
    decoded.clear()
    train, _ = make(pets).load(seed=0)
    assert "b.png" in decoded and "e.png" not in decoded  # the other split is as it was
    assert train.x[2, :, 0, 0].tolist() == [1, 2, 3]


def test_a_picture_of_other_length_is_decoded_anew_though_its_time_is_the_same(pets, decoded):
    make(pets).load(seed=0)
    path = pets / "train" / "cat" / "b.png"
    before = path.stat()
    put(path, colour(1, 2, 3, width=90))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size != before.st_size
    assert make(pets).load(seed=0)[0].x[2, :, 0, 0].tolist() == [1, 2, 3]


def _add(root):
    put(root / "train" / "cat" / "new.png", colour(9, 9, 9))


def _remove(root):
    (root / "train" / "cat" / "b.png").unlink()


def _rename(root):
    (root / "train" / "cat" / "b.png").rename(root / "train" / "cat" / "0.png")


def _move_to_another_class(root):
    (root / "train" / "cat" / "b.png").rename(root / "train" / "dog" / "b.png")


def _add_a_class_before_all_others(root):
    put(root / "train" / "Ape" / "a.png", colour(9, 9, 9))


@pytest.mark.parametrize(
    "change",
    [_add, _remove, _rename, _move_to_another_class, _add_a_class_before_all_others],
    ids=lambda change: change.__name__.strip("_"),
)
def test_after_a_change_of_the_folder_the_cache_gives_what_a_fresh_one_gives(pets, tmp_path, change):
    make(pets).load(seed=0)
    change(pets)
    assert_same(make(pets).load(seed=0), make(pets, cache=tmp_path / "fresh").load(seed=0))


@pytest.mark.parametrize("size, channels", [(9, 3), (8, 1)], ids=["size", "channels"])
def test_another_size_or_number_of_channels_is_decoded_anew_and_kept_beside(pets, decoded, size, channels):
    first = make(pets).load(seed=0)
    decoded.clear()
    train, _ = make(pets, size, channels).load(seed=0)
    assert len(decoded) == 7 and train.x.shape == (5, channels, size, size)
    decoded.clear()
    assert_same(first, make(pets).load(seed=0))
    assert decoded == [] and len(cached_files(pets)) == 4


def test_two_folders_of_one_name_have_caches_of_their_own(tmp_path):
    for place, rgb in (("a", (1, 1, 1)), ("b", (2, 2, 2))):
        for part in ("train", "test"):
            path = put(tmp_path / place / "set" / part / "some" / "x.png", colour(*rgb), compress_level=0)
            os.utime(path, ns=(0, 0))  # equal in name, size and time, and different all the same
    levels = [
        make(tmp_path / place / "set", cache=tmp_path / "cache").load(seed=0)[0].x.unique().tolist() for place in "ab"
    ]
    assert levels == [[1], [2]]


def test_the_cache_is_in_the_users_cache_folder_by_default(pets, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    ImageFolder(str(pets), 8, 3, None, False, None, 0.0, None, None, []).load(seed=0)
    assert len(list((tmp_path / "home" / "remerge").glob("pets-*.npy"))) == 2
    assert not list(pets.rglob("*.npy"))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _cut_to_ten_bytes(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:10])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _replace_by_text(path: Path) -> None:
    path.write_text("<html>404 Not Found</html>")


@pytest.mark.parametrize("name", ["cat/a.jpg", "cat/b.png", "dog/deep/c.JPEG"])
@pytest.mark.parametrize(
    "damage", [_truncate, _cut_to_ten_bytes, _empty, _replace_by_text], ids=lambda damage: damage.__name__.strip("_")
)
def test_a_damaged_picture_is_named_and_leaves_nothing_in_the_cache(pets, name, damage):
    path = pets / "train" / name
    damage(path)
    with pytest.raises(ValueError) as error:
        make(pets).load(seed=0)
    assert str(path) in str(error.value)
    assert cached_files(pets) == []


def test_a_damaged_test_picture_leaves_the_whole_training_split_in_the_cache_and_nothing_else(pets, decoded):
    _truncate(pets / "test" / "dog" / "e.png")
    with pytest.raises(ValueError, match="e.png"):
        make(pets).load(seed=0)
    assert [path.suffix for path in cached_files(pets)] == [".npy"]
    put(pets / "test" / "dog" / "e.png", colour(0, 250, 0))
    decoded.clear()
    make(pets).load(seed=0)
    assert sorted(decoded) == ["e.png", "f.png"]


def test_a_cache_that_cannot_be_written_to_its_end_leaves_no_file(pets, monkeypatch, decoded):
    def disk_full(file, array):
        file.write(array.tobytes()[:20])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(image_folder.np, "save", disk_full)
        with pytest.raises(OSError, match="No space left"):
            make(pets).load(seed=0)
    assert cached_files(pets) == []
    decoded.clear()
    assert len(make(pets).load(seed=0)[0]) == 5 and len(decoded) == 7


# What cannot be


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_missing_part_is_named_with_what_is_expected(pets, part):
    shutil.rmtree(pets / part)
    with pytest.raises(FileNotFoundError) as error:
        make(pets)
    assert str(pets / part) in str(error.value) and "one folder per class" in str(error.value)


def test_a_training_folder_without_classes_is_named(pets):
    shutil.rmtree(pets / "train")
    (pets / "train").mkdir()
    with pytest.raises(ValueError) as error:
        make(pets)
    assert str(pets / "train") in str(error.value) and "one folder per class" in str(error.value)


def test_a_test_folder_without_classes_is_named(pets):
    shutil.rmtree(pets / "test")
    (pets / "test").mkdir()
    with pytest.raises(ValueError) as error:
        make(pets).load(seed=0)
    assert str(pets / "test") in str(error.value)


def test_a_class_of_the_test_split_that_is_not_trained_is_named(pets):
    put(pets / "test" / "yak" / "y.png", colour(1, 1, 1))
    with pytest.raises(ValueError) as error:
        make(pets)
    assert "yak" in str(error.value) and str(pets / "test") in str(error.value)


@pytest.mark.parametrize("part, name", [("train", "dog"), ("test", "dog"), ("train", "gnu")])
def test_a_class_folder_without_pictures_is_named(pets, part, name):
    folder = pets / part / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "notes.txt").write_text("not a picture")
    with pytest.raises(ValueError) as error:
        make(pets).load(seed=0)
    assert name in str(error.value)
    assert str(pets / part) in str(error.value)  # there are two folders of this name


@pytest.mark.parametrize("option, value", [("channels", 2), ("channels", 4), ("size", 0), ("size", -1)])
def test_an_impossible_size_or_number_of_channels_is_rejected(pets, option, value):
    with pytest.raises(ValueError, match=f"dataset.{option}"):
        make(pets, **{option: value})


@pytest.mark.parametrize(
    "name",
    [".ipynb_checkpoints/b-checkpoint.png", "._b.png", ".b.png", "__MACOSX/b.png", "deep/.thumbs/b.png"],
)
def test_what_programs_leave_in_a_class_folder_is_no_sample(pets, tmp_path, name):
    expected = make(pets, cache=tmp_path / "fresh").load(seed=0)
    put(pets / "train" / "cat" / name, colour(1, 1, 1))
    put(pets / "train" / ".cache" / "c.png", colour(1, 1, 1))
    put(pets / "train" / "__MACOSX" / "c.png", colour(1, 1, 1))
    (pets / "train" / "cat" / "folder.png").mkdir()
    assert make(pets).classes == ["Zebra", "cat", "dog"]
    assert_same(make(pets).load(seed=0), expected)


def _renamed(name: str):
    def change(root: Path) -> Path:
        (root / "test").rename(root / name)
        return root

    return change


def _with_a_test_folder_and(name: str):
    def change(root: Path) -> Path:
        put(root / name / "cat" / "z.png", colour(9, 9, 9))
        return root

    return change


FORMS = {
    "as it is": lambda root: root,
    "val": _renamed("val"),
    "valid": _renamed("valid"),
    "validation": _renamed("validation"),
    "val beside test": _with_a_test_folder_and("val"),
    "root is train": lambda root: root / "train",
    "root is test": lambda root: root / "test",
    "root is the folder above": lambda root: shutil.move(root, root.parent / "own" / root.name) and root.parent / "own",
}


@pytest.mark.parametrize("form", FORMS)
def test_folders_in_another_form_give_the_same_pictures(pets, tmp_path, form):
    expected = make(pets, cache=tmp_path / "a").load(seed=0)
    found = make(FORMS[form](pets), cache=tmp_path / "b").load(seed=0)
    for one, other in zip(expected, found):
        assert torch.equal(one.x, other.x) and torch.equal(one.y, other.y)


def _empty_test(root: Path) -> None:
    (root / "test").rename(root / "val")
    put(root / "test" / "1.png", colour(1, 2, 3))


def _several(root: Path) -> None:
    (root / "test").rename(root / "val")
    put(root / "validation" / "cat" / "1.png", colour(1, 2, 3))


def _nested(root: Path) -> None:
    shutil.move(root / "train", root / "inner")
    (root / "train").mkdir()
    shutil.move(root / "inner", root / "train" / "images")
    shutil.rmtree(root / "test")
    put(root / "test" / "images" / "cat" / "1.png", colour(1, 2, 3))


@pytest.mark.parametrize("change, message", [
    (_empty_test, "test has no class folders: .*; val beside it may have some: rename the test split to test"),
    (_several, "has val and validation: rename the test split to test"),
    (_nested, "train/images is the only class, and has no pictures but 3 folders: if they are the classes"),
    (lambda root: shutil.rmtree(root / "test"), "no folder .*/test: .*; it has train"),
    (lambda root: (root / "train").rename(root / "training"), "no folder .*/train: .*; it has test, training"),
    (shutil.rmtree, "no folder .*/train: .*; there is no "),
])  # fmt: skip
def test_folders_that_could_be_meant_in_several_ways_are_named(pets, change, message):
    change(pets)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        make(pets)
    assert "\n" not in str(error.value)


def test_a_damaged_cache_is_named(pets, tmp_path):
    cache = tmp_path / "cache"
    make(pets, cache=cache).load(seed=0)
    whole = next(cache.glob("*train*")).read_bytes()
    changed = [bytes([*whole[:place], whole[place] ^ 1, *whole[len(whole) + place + 1 :]]) for place in (-1, -5, -100)]
    for content in (b"", b"nothing", next(cache.glob("*test*")).read_bytes(), whole[:-1], whole[:-4], *changed):
        next(cache.glob("*train*")).write_bytes(content)
        with pytest.raises(ValueError, match="the cached pictures in .* (cannot be read|are) .*: delete the file"):
            make(pets, cache=cache).load(seed=0)
