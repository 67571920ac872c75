"""Your own pictures: <root>/train/<class>/*.jpg and <root>/test/<class>/*.png, in memory or streamed from the files.

Decoding takes far longer than training a small network, so pictures that fit into memory are decoded once. The uint8
images are kept in the user's cache folder under a key of everything they depend on: the files (name, size, time of
change), the size in pixels and the channels. Pictures that do not fit are streamed: each epoch decodes them again.
"""

import hashlib
import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cl.atomic import atomic_write
from cl.datasets.base import Dataset, Split, split_of

if TYPE_CHECKING:
    from cl.data.decoding import Decoder

IN_MEMORY = 2 * 2**30  # bytes of decoded pictures of one split up to which stream=auto keeps them in memory
CACHE_VERSION = 4  # raised when decoding gives other pixels, or the files have another form
TESTS = ("test", "val", "valid", "validation")  # names for the folder of the test split; the first one found is used
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class ImageFolder(Dataset):
    """Pictures in one folder per class; the centre square of each is scaled to `size` pixels.

    Without test/, the test split is val/, valid/ or validation/. `root` may also be the folder above, if that has no
    other folder, or train/ itself.

    `stream`: whether to stream the pictures from their files; "auto": if a split takes more than 2 GiB decoded. `crop`:
    side of the square that the network takes, None for the whole picture. Raises FileNotFoundError without train/ or
    test/, ValueError for a folder without classes, for test classes that are not in train/, and for a picture that
    cannot be decoded, which it names.
    """

    def __init__(
        self,
        root: str,
        size: int,
        channels: int,
        crop: int | None,
        stream: bool | str,
        cache: str | None,
        validation: float,
        mean: list | None,
        std: list | None,
        augment: list,
    ):
        super().__init__(validation, mean, std, augment, crop)
        if channels not in (1, 3):
            raise ValueError(f"dataset.channels must be 1 (grey) or 3 (colour), got {channels}")
        if size < 1:
            raise ValueError(f"dataset.size must be at least 1 pixel, got {size}")
        if crop is not None and not 1 <= crop <= size:
            raise ValueError(f"dataset.crop must be between 1 and dataset.size={size}, got {crop}")
        if stream not in (True, False, "auto"):
            raise ValueError(f"dataset.stream must be true, false or auto, got {stream}")
        self.root, self.stream = Path(root).expanduser(), stream
        self.cache = Path(cache).expanduser() if cache else _user_cache()
        self.sample_shape = (channels, size, size)
        self.classes = self._find_classes()
        self.num_classes = len(self.classes)

    @property
    def decoder(self) -> "Decoder":
        """The decoder from a file to its pixels."""
        from cl.data.decoding import Decoder

        return Decoder(*self.sample_shape[:2])

    def check(self) -> None:
        """Nothing to do: the constructor has checked the folders."""

    def read(self) -> tuple[Split, Split]:
        return self._split("train"), self._split("test")

    def _find_classes(self) -> list[str]:
        self.root, self.folders = _arranged(self.root)
        found = {}
        for part, folder in self.folders.items():
            found[part] = folders_in(folder)
            if not found[part]:
                others = [name for name in TESTS if name != folder.name and (self.root / name).is_dir()]
                also = (
                    f"; {' and '.join(others)} beside it may have some: rename the test split to test" if others else ""
                )
                raise ValueError(f"{folder} has no class folders: expected one folder per class{also}")
        unknown = sorted(set(found["test"]) - set(found["train"]))
        if unknown:
            raise ValueError(
                f"{self.folders['test']} has classes that train/ does not have: {', '.join(unknown)}; expected the "
                "same classes in both"
            )
        single = self.folders["train"] / found["train"][0]
        if len(found["train"]) == 1 and len(folders_in(single)) > 1 and not _has_pictures(single):
            raise ValueError(
                f"{single} is the only class, and has no pictures but {len(folders_in(single))} folders: "
                f"if they are the classes, move them to {self.folders['train']}"
            )
        return found["train"]

    def _files(self, part: str) -> tuple[list[str], list[int]]:
        folder = self.folders[part]
        paths: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(self.classes):
            if not (folder / name).is_dir():
                continue
            found = pictures_below(folder / name)
            if not found:
                raise ValueError(f"{folder / name} has no pictures; valid endings: {', '.join(ENDINGS)}")
            paths += found
            labels += [label] * len(found)
        return paths, labels

    def _split(self, part: str) -> Split:
        from concurrent.futures import ThreadPoolExecutor

        import torch

        from cl.data.streaming import FileImages
        from cl.processors import processors

        paths, labels = self._files(part)
        if self.stream is True or self.stream == "auto" and len(paths) * np.prod(self.sample_shape) > IN_MEMORY:
            names = np.array([os.fsencode(path) for path in paths])
            return Split(FileImages(names, self.decoder, self.loader), torch.tensor(labels))
        cached = self.cache / f"{self.root.name}-{part}-{self._key(paths)}.npy"
        if cached.is_file():
            return split_of(self._cached(cached, len(labels)), labels)
        with ThreadPoolExecutor(processors()) as pool:  # decoding frees the interpreter lock
            images = np.ascontiguousarray(np.stack(list(pool.map(self._decode, paths))))
        with atomic_write(cached) as file:
            np.save(file, images)
            file.write(_checksum(images))
        return split_of(images, labels)

    def _cached(self, path: Path, count: int) -> np.ndarray:
        channels, height, width = self.sample_shape
        try:
            with open(path, "rb") as file:
                images, checksum = np.load(file), file.read()
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"the cached pictures in {path} cannot be read ({error}): delete the file") from error
        if images.shape != (count, height, width, channels) or images.dtype != np.uint8:
            raise ValueError(
                f"the cached pictures in {path} are {images.dtype} of shape {images.shape}, expected uint8 of shape "
                f"{(count, height, width, channels)}: delete the file"
            )
        if checksum != _checksum(images):
            raise ValueError(f"the cached pictures in {path} are not those that were written: delete the file")
        return images

    def _decode(self, path: str) -> np.ndarray:
        return self.decoder(path).permute(1, 2, 0).numpy()

    def _key(self, paths: list[str]) -> str:
        digest = hashlib.sha256(f"{self.decoder} {CACHE_VERSION}".encode())
        for path in paths:
            status = os.stat(path)
            digest.update(f"\0{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}".encode())
        return digest.hexdigest()[:16]


def _checksum(images: np.ndarray) -> bytes:
    """What follows the pictures in a file of the cache."""
    return zlib.crc32(images).to_bytes(4, "little")


def _arranged(root: Path) -> tuple[Path, dict[str, Path]]:
    """The folder that holds train/ and a test split, and both folders by split; FileNotFoundError if there is none."""
    places = [root]
    if root.is_dir() and not (root / "train").is_dir():
        below = folders_in(root)
        places += [root / below[0]] if len(below) == 1 else []
        places += [root.parent] if root.name in ("train", *TESTS) else []
    for place in places:
        tests = [name for name in TESTS if (place / name).is_dir()]
        if (place / "train").is_dir() and tests:
            if "test" not in tests and len(tests) > 1:
                raise ValueError(f"{place} has {' and '.join(tests)}: rename the test split to test")
            return place, {"train": place / "train", "test": place / tests[0]}
    missing = root / ("test" if (root / "train").is_dir() else "train")
    has = f"it has {', '.join(folders_in(root)[:5]) or 'no folders'}" if root.is_dir() else f"there is no {root}"
    raise FileNotFoundError(
        f"no folder {missing}: dataset.root needs train/ and test/ with one folder per class; {has}"
    )


def folders_in(folder: Path) -> list[str]:
    """The names of the folders directly in a folder, sorted, without hidden ones."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not hidden(entry.name))


def _has_pictures(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.name.lower().endswith(ENDINGS) and not hidden(entry.name) for entry in entries)


def hidden(name: str) -> bool:
    """Whether a program, not the user, made a file or folder (.ipynb_checkpoints, ._a.jpg, __MACOSX)."""
    return name[0] == "." or name == "__MACOSX"


def pictures_below(folder: Path) -> list[str]:
    """The paths of all pictures below a folder, sorted folder by folder."""
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not hidden(name)]
        found.append((place, sorted(n for n in names if n.lower().endswith(ENDINGS) and not hidden(n))))
    return [f"{place}/{name}" for place, names in sorted(found) for name in names]


def pictures_in(folder: Path, ending: str) -> list[str]:
    """The names of the pictures directly in a folder, sorted, without hidden ones."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.name.endswith(ending) and not hidden(e.name) and not e.is_dir())


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "remerge"
