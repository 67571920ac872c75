"""One's own pictures: <root>/train/<class>/*.jpg and <root>/test/<class>/*.png, decoded once and cached.

Decoding takes far longer than training a small network, so the decoded uint8 images are kept in the user's cache
folder, keyed by everything they depend on: the files (name, size, time of change), the size and the channels.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cl.atomic import atomic_write
from cl.datasets.base import Dataset, Split, split_of


class ImageFolder(Dataset):
    """Pictures in one folder per class, the shorter side scaled to `size` pixels and the centre square kept.

    Raises ValueError for a layout that does not fit (no train/ or test/, no class, other classes in test/) and for a
    picture that cannot be decoded, which it names.
    """

    def __init__(
        self,
        root: str,
        size: int,
        channels: int,
        cache: str | None,
        validation: float,
        mean: list | None,
        std: list | None,
        augment: list,
    ):
        super().__init__(validation, mean, std, augment)
        if channels not in (1, 3):
            raise ValueError(f"dataset.channels must be 1 (grey) or 3 (colour), got {channels}")
        if size < 1:
            raise ValueError(f"dataset.size must be at least 1 pixel, got {size}")
        self.root, self.size = Path(root).expanduser(), size
        self.mode = "L" if channels == 1 else "RGB"
        self.cache = Path(cache).expanduser() if cache else _user_cache()
        self.sample_shape = (channels, size, size)
        self.classes = self._find_classes()
        self.num_classes = len(self.classes)

    def check(self) -> None:
        """The folders were looked at when the object was made."""

    def read(self) -> tuple[Split, Split]:
        return self._split("train"), self._split("test")

    def _find_classes(self) -> list[str]:
        found = {}
        for part in ("train", "test"):
            folder = self.root / part
            if not folder.is_dir():
                raise FileNotFoundError(
                    f"no folder {folder}: dataset.root needs train/ and test/ with one folder per class"
                )
            found[part] = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
            if not found[part]:
                raise ValueError(f"{folder} has no class folders: expected one folder per class")
        unknown = sorted(set(found["test"]) - set(found["train"]))
        if unknown:
            raise ValueError(f"{self.root / 'test'} has classes that train/ has not: {', '.join(unknown)}")
        return found["train"]

    def _files(self, part: str) -> tuple[list[str], list[int]]:
        from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

        folder = self.root / part
        present = {name: label for label, name in enumerate(self.classes) if (folder / name).is_dir()}
        try:
            pairs = make_dataset(str(folder), present, extensions=IMG_EXTENSIONS)
        except FileNotFoundError as error:  # torchvision's word for a class folder without pictures
            raise ValueError(f"in {folder}: {' '.join(str(error).split())}") from error
        return [path for path, _ in pairs], [label for _, label in pairs]

    def _split(self, part: str) -> Split:
        paths, labels = self._files(part)
        cached = self.cache / f"{self.root.name}-{part}-{self._key(paths)}.npy"
        if cached.is_file():
            return split_of(np.load(cached), labels)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow frees the interpreter lock while it decodes
            images = np.stack(list(pool.map(self._decode, paths)))
        with atomic_write(cached) as file:
            np.save(file, images)
        return split_of(images, labels)

    def _decode(self, path: str) -> np.ndarray:
        from PIL import Image, ImageOps

        try:
            with Image.open(path) as image:
                if image.mode.startswith("I;16"):  # convert() would cut off what is above 255
                    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
                image = ImageOps.exif_transpose(image).convert(self.mode)
        except Exception as error:  # Pillow raises many types for a damaged file, SyntaxError among them
            raise ValueError(f"cannot decode the picture {path}: {error}") from error
        size = self.size
        scale = size / min(image.size)
        width, height = (max(size, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - size) // 2, (height - size) // 2
        return np.asarray(image.crop((left, top, left + size, top + size)))

    def _key(self, paths: list[str]) -> str:
        digest = hashlib.sha256(f"{self.mode} {self.size}".encode())
        for path in paths:
            status = os.stat(path)
            digest.update(f"\0{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}".encode())
        return digest.hexdigest()[:16]


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "remerge"
