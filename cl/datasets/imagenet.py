"""ImageNet (Russakovsky et al. 2015) and its subsets, in the layout that torchvision and the usual scripts create."""

import os
import re
from pathlib import Path

from cl import seeding
from cl.datasets.image_folder import ImageFolder, hidden, pictures_in
from cl.datasets.layouts import root_of

NUM_CLASSES = 1000
IDENTIFIER = re.compile(r"n\d{8}")
PER_CLASS_SEED = 0  # for the pictures that `per_class` draws: they are the same for every seed of a run
LISTS = Path(__file__).resolve().parent.parent.parent / "conf" / "class_lists"


class ImageNet(ImageFolder):
    """<root>/<folder>/train/<WordNet id>/*.JPEG and the same below val/; labels follow the order of ids or of the list.

    `class_list`: a file with one WordNet id per line, as a path or as a name in conf/class_lists/; null: all 1000
    classes. `per_class`: number of training pictures per class, the same ones for every seed of a run; null: all. The
    validation pictures are the test split, as usual, because the official test pictures have no labels. Raises
    FileNotFoundError for missing folders or files, ValueError for a wrong layout or list.
    """

    def __init__(
        self, root: str, folder: str, class_list: str | None, per_class: int | None, size: int, crop: int | None,
        stream: bool | str, cache: str | None, validation: float, mean: list | None, std: list | None, augment: list,
    ):  # fmt: skip
        if per_class is not None and per_class < 1:
            raise ValueError(f"dataset.per_class must be at least 1 or null, got {per_class}")
        self.per_class = per_class
        self.listed = None if class_list is None else read_class_list(class_list)
        place = str(root_of(Path(root).expanduser(), folder) / folder)
        super().__init__(place, size, 3, crop, stream, cache, validation, mean, std, augment)
        self.num_classes = NUM_CLASSES if self.listed is None else len(self.listed)

    def check(self) -> None:
        expected = self.listed
        for part in ("train", "val"):
            folder = self.root / part
            if not folder.is_dir():
                raise FileNotFoundError(
                    f"no {folder}: dataset.root/dataset.folder must hold train/ and val/. {self._remedy()}"
                )
            found, loose = _entries(folder)
            if part == "val" and loose or not found:
                what = f"has pictures outside of them ({loose})" if loose else "has none"
                raise ValueError(
                    f"{folder} needs a folder for each class (n01440764 and so on) but {what}: move it away and create "
                    f"it again. {self._remedy()}"
                )
            if self.listed is None and len(found) != NUM_CLASSES:
                raise ValueError(
                    f"{folder} has {len(found)} classes, expected {NUM_CLASSES}; to use a subset, set "
                    "dataset.class_list=FILE"
                )
            expected = expected or found
            missing = sorted(set(expected) - set(found))
            if missing:
                raise ValueError(
                    f"{folder} lacks {len(missing)} of {self.num_classes} classes, the first is {missing[0]}: add them "
                    "or set dataset.class_list to the classes that are there"
                )
        self.classes = expected

    def _remedy(self) -> str:
        make = (
            f"from torchvision.datasets import ImageNet; [ImageNet('{self.root}', part) for part in ('train', 'val')]"
        )
        return (
            "Register at https://image-net.org to download ImageNet, put ILSVRC2012_img_train.tar, "
            f'ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz into {self.root} and run `python -c "{make}"`; '
            "with blurred faces, unpack train_blurred.tar.gz and val_blurred.tar.gz there and rename the folders to "
            "train and val"
        )

    def _find_classes(self) -> list[str]:
        return []  # the number of classes is known without reading the folder

    def _files(self, part: str) -> tuple[list[str], list[int]]:
        if not self.classes:
            self.check()
        folder = self.root / ("train" if part == "train" else "val")
        paths: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(self.classes):
            names = pictures_in(folder / name, ".JPEG")
            if not names:
                raise ValueError(f"{folder / name} has no pictures, expected *.JPEG: unpack the archive again")
            if part == "train" and self.per_class is not None:
                random = seeding.generator(PER_CLASS_SEED, f"per class {name}")
                names = sorted(random.permutation(names)[: self.per_class].tolist())
            paths += [f"{folder}/{name}/{file}" for file in names]
            labels += [label] * len(names)
        return paths, labels


def read_class_list(name: str) -> list[str]:
    """The WordNet ids in a file, one per line; # begins a comment.

    Raises FileNotFoundError for a missing file, ValueError for other lines, for an id twice and for an empty list.
    """
    path = LISTS / name if os.sep not in name else Path(name).expanduser()
    if not path.is_file():
        known = ", ".join(sorted(file.name for file in LISTS.glob("*.txt")))
        raise FileNotFoundError(f"dataset.class_list={name}: no file {path}; give a path, or one of {known}")
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    found = [line for line in lines if line]
    wrong = [line for line in found if not IDENTIFIER.fullmatch(line)]
    if wrong or not found or len(set(found)) != len(found):
        what = f"{wrong[0]!r}" if wrong else "nothing" if not found else "an id twice"
        raise ValueError(f"{path} must have different WordNet ids such as n01440764, one per line, got {what}")
    return found


def _entries(folder: Path) -> tuple[list[str], str | None]:
    """The ids of the class folders, sorted, and a picture outside of them (as in the archive of val/) or None."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    loose = min((name for name in names if name.endswith(".JPEG") and not hidden(name)), default=None)
    return sorted(name for name in names if IDENTIFIER.fullmatch(name)), loose
