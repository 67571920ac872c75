"""Tiny ImageNet (Le & Yang 2015) in the layout of its archive, decoded once and cached."""

from pathlib import Path

from cl.datasets.image_folder import ImageFolder, folders_in, pictures_below, pictures_in
from cl.datasets.layouts import root_of, seen

FOLDER = "tiny-imagenet-200"
FETCH = "curl -LO http://cs231n.stanford.edu/tiny-imagenet-200.zip && unzip -q tiny-imagenet-200.zip -d"


class TinyImageNet(ImageFolder):
    """100,000 training and 10,000 test pictures of 200 classes, 3x64x64; labels follow the order of the WordNet ids.

    The official test pictures have no labels, so the validation pictures are the test split, as usual. Raises
    FileNotFoundError for missing folders, ValueError for an incomplete one.
    """

    def __init__(
        self, root: str, cache: str | None, validation: float, mean: list | None, std: list | None, augment: list
    ):
        folder = str(root_of(Path(root).expanduser(), FOLDER) / FOLDER)
        super().__init__(folder, 64, 3, None, False, cache, validation, mean, std, augment)
        self.num_classes = 200

    def check(self) -> None:
        for path in (self.root / "train", self.root / "val" / "val_annotations.txt"):
            if not path.exists() and not (path.name != "train" and self._val_by_class()):
                raise FileNotFoundError(
                    f"no {path}: dataset.root needs the folder {FOLDER}; fetch it with `{FETCH} {self.root.parent}`"
                    + seen(self.root.parent, FOLDER)
                )
        found = len(self._ids())
        if found != self.num_classes:
            raise ValueError(
                f"{self.root / 'train'} has {found} class folders, expected {self.num_classes}: unpack the archive "
                "again"
            )

    def _find_classes(self) -> list[str]:
        return []  # the number of classes is known without reading the folder

    def _ids(self) -> list[str]:
        return folders_in(self.root / "train")

    def _val_by_class(self) -> bool:
        """Whether the validation pictures are in one folder per class, as many scripts arrange them."""
        folder = self.root / "val"
        if not folder.is_dir() or (folder / "images").is_dir() and pictures_in(folder / "images", ".JPEG"):
            return False
        return set(folders_in(folder)) - {"images"} == set(self._ids())

    def _files(self, part: str) -> tuple[list[str], list[int]]:
        labels = {name: label for label, name in enumerate(self._ids())}
        if part == "train":
            pairs = [
                (self.root / "train" / name / "images" / file, label)
                for name, label in labels.items()
                for file in pictures_in(self.root / "train" / name / "images", ".JPEG")
            ]
        elif self._val_by_class():
            pairs = [
                (Path(path), label)
                for name, label in labels.items()
                for path in pictures_below(self.root / "val" / name)
            ]
        else:
            lines = (self.root / "val" / "val_annotations.txt").read_text().splitlines()
            words = [line.split("\t") for line in lines if line]
            wrong = next((line for line in words if len(line) < 2 or line[1] not in labels), None)
            if wrong is not None:
                raise ValueError(
                    f"{self.root / 'val' / 'val_annotations.txt'} is damaged: expected a picture and the id of a class "
                    f"of train/, got {' '.join(wrong)!r}"
                )
            pairs = [(self.root / "val" / "images" / name, labels[identifier]) for name, identifier, *_ in words]
        missing = next((path for path, _ in pairs if not path.is_file()), None)
        if missing is not None or not pairs:
            raise ValueError(
                f"{self.root} is incomplete: {f'no {missing}' if missing else f'no pictures in {part}'}; unpack the "
                "archive again"
            )
        return [str(path) for path, _ in pairs], [label for _, label in pairs]
