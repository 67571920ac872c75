"""ImageNet (Russakovsky et al. 2015) and its subsets, in the layout that torchvision and the usual scripts make."""

import os
import re
from pathlib import Path

from cl.datasets.image_folder import ImageFolder

NUM_CLASSES = 1000
IDENTIFIER = re.compile(r"n\d{8}")
LISTS = Path(__file__).resolve().parent.parent.parent / "conf" / "class_lists"
FETCH = (
    "ImageNet is given to those who register at https://image-net.org; of its archives, "
    "torchvision.datasets.ImageNet(PATH, split) with split train and val makes this layout"
)


class ImageNet(ImageFolder):
    """<root>/<folder>/train/<WordNet id>/*.JPEG and val/ alike; labels follow the ids, or the list of classes.

    `class_list`: the classes that are used, null for all 1000: a file with one id per line, by its name where it lies
    in conf/class_lists/. `per_class`: how many training pictures of each, the first by name; null: all. The validation
    pictures are the test split, as is usual: those of the test have no labels. Raises FileNotFoundError for what is not
    there, ValueError for a layout or a list that does not fit.
    """

    def __init__(
        self, root: str, folder: str, class_list: str | None, per_class: int | None, size: int, crop: int | None,
        stream: bool | str, cache: str | None, validation: float, mean: list | None, std: list | None, augment: list,
    ):  # fmt: skip
        if per_class is not None and per_class < 1:
            raise ValueError(f"dataset.per_class must be at least 1 or null, got {per_class}")
        self.per_class = per_class
        self.listed = None if class_list is None else read_class_list(class_list)
        place = str(Path(root).expanduser() / folder)
        super().__init__(place, size, 3, crop, stream, cache, validation, mean, std, augment)
        self.num_classes = NUM_CLASSES if self.listed is None else len(self.listed)

    def check(self) -> None:
        for part in ("train", "val"):
            folder = self.root / part
            if not folder.is_dir():
                raise FileNotFoundError(
                    f"no {folder}: dataset.root and dataset.folder name the folder of train/ and val/; {FETCH}"
                )
            found = _identifiers(folder)
            if not found:
                raise ValueError(f"{folder} has no folder for each class (n01440764 and so on): {FETCH}")
            missing = sorted(set(self.listed or []) - set(found))
            if missing:
                raise ValueError(f"{folder} lacks {len(missing)} of {self.num_classes} classes, {missing[0]} first")
            if self.listed is None and len(found) != NUM_CLASSES:
                raise ValueError(
                    f"{folder} has {len(found)} classes in place of {NUM_CLASSES}; for a part of them name it with "
                    "dataset.class_list"
                )
        self.classes = self.listed or _identifiers(self.root / "train")

    def _find_classes(self) -> list[str]:
        return []  # their number is known without looking

    def _files(self, part: str) -> tuple[list[str], list[int]]:
        folder = self.root / ("train" if part == "train" else "val")
        paths: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(self.classes):
            with os.scandir(folder / name) as entries:
                names = sorted(entry.name for entry in entries if entry.name.endswith(".JPEG"))
            if not names:
                raise ValueError(f"{folder / name} has no pictures (*.JPEG)")
            names = names[: self.per_class] if part == "train" else names
            paths += [f"{folder}/{name}/{file}" for file in names]
            labels += [label] * len(names)
        return paths, labels


def read_class_list(name: str) -> list[str]:
    """The ids in a file, one to a line, # begins a comment; FileNotFoundError, and ValueError for other lines."""
    path = LISTS / name if os.sep not in name else Path(name).expanduser()
    if not path.is_file():
        known = ", ".join(sorted(file.name for file in LISTS.glob("*.txt")))
        raise FileNotFoundError(f"dataset.class_list={name}: no file {path}; give a path, or one of {known}")
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    found = [line for line in lines if line]
    wrong = [line for line in found if not IDENTIFIER.fullmatch(line)]
    if wrong or not found or len(set(found)) != len(found):
        what = f"{wrong[0]!r}" if wrong else "nothing" if not found else "an id twice"
        raise ValueError(f"{path} should have WordNet ids such as n01440764, one to a line, and has {what}")
    return found


def _identifiers(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if IDENTIFIER.fullmatch(entry.name))
