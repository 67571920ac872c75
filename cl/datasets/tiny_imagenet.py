"""Tiny ImageNet (Le & Yang 2015) in the layout of its archive, decoded once and cached."""

from pathlib import Path

from cl.datasets.image_folder import ImageFolder, hidden, pictures_in
from cl.datasets.layouts import root_of, seen

FOLDER = "tiny-imagenet-200"
FETCH = "curl -LO http://cs231n.stanford.edu/tiny-imagenet-200.zip && unzip -q tiny-imagenet-200.zip -d"


class TinyImageNet(ImageFolder):
    """100,000 and 10,000 pictures of 200 classes, 3x64x64; labels are the WordNet ids in order.

    The pictures of the test folder have no labels, so the validation pictures are the test split, as is usual. Raises
    FileNotFoundError for a folder without them, ValueError for one that is not whole.
    """

    def __init__(
        self, root: str, cache: str | None, validation: float, mean: list | None, std: list | None, augment: list
    ):
        folder = str(root_of(Path(root).expanduser(), FOLDER) / FOLDER)
        super().__init__(folder, 64, 3, None, False, cache, validation, mean, std, augment)
        self.num_classes = 200

    def check(self) -> None:
        for path in (self.root / "train", self.root / "val" / "val_annotations.txt"):
            if not path.exists():
                raise FileNotFoundError(
                    f"no {path}: dataset.root needs the folder {FOLDER}; fetch it with `{FETCH} {self.root.parent}`"
                    + seen(self.root.parent, FOLDER)
                )
        found = len(self._ids())
        if found != self.num_classes:
            raise ValueError(f"{self.root / 'train'} has {found} class folders in place of {self.num_classes}")

    def _find_classes(self) -> list[str]:
        return []  # their number is known without looking

    def _ids(self) -> list[str]:
        return sorted(e.name for e in (self.root / "train").iterdir() if e.is_dir() and not hidden(e.name))

    def _files(self, part: str) -> tuple[list[str], list[int]]:
        labels = {name: label for label, name in enumerate(self._ids())}
        if part == "train":
            pairs = [
                (self.root / "train" / name / "images" / file, label)
                for name, label in labels.items()
                for file in pictures_in(self.root / "train" / name / "images", ".JPEG")
            ]
        else:
            lines = (self.root / "val" / "val_annotations.txt").read_text().splitlines()
            words = [line.split("\t") for line in lines if line]
            pairs = [(self.root / "val" / "images" / name, labels[identifier]) for name, identifier, *_ in words]
        missing = next((path for path, _ in pairs if not path.is_file()), None)
        if missing is not None or not pairs:
            raise ValueError(f"{self.root} is not whole: {missing or f'there are no pictures in {part}'}")
        return [str(path) for path, _ in pairs], [label for _, label in pairs]
