"""CORe50 (Lomonaco & Maltoni 2017, CORe50: a New Dataset and Benchmark for Continuous Object Recognition)."""

from pathlib import Path

from cl.datasets.image_folder import ImageFolder, pictures_in
from cl.datasets.layouts import root_of, seen

FOLDER = "core50_128x128"
SESSIONS = range(1, 12)
TEST_SESSIONS = (3, 7, 10)  # section 3
OBJECTS, OF_A_CATEGORY = 50, 5
LABELS = ("objects", "categories")
FETCH = "curl -LO http://bias.csr.unibo.it/maltoni/download/core50/core50_128x128.zip && unzip -q core50_128x128.zip -d"


class Core50(ImageFolder):
    """About 165,000 frames of 50 objects in 10 categories, filmed in 11 sessions: <root>/core50_128x128/s1/o1/*.png.

    Sessions 3, 7 and 10 are the test split. `labels`: "objects" (50) or "categories" (10, five objects of each, in
    order). Raises FileNotFoundError for missing folders and ValueError for one without pictures.
    """

    def __init__(
        self, root: str, labels: str, size: int, stream: bool | str, cache: str | None, validation: float,
        mean: list | None, std: list | None, augment: list,
    ):  # fmt: skip
        if labels not in LABELS:
            raise ValueError(f"dataset.labels={labels} does not exist; valid: {', '.join(LABELS)}")
        self.labels = labels
        place = str(root_of(Path(root).expanduser(), FOLDER) / FOLDER)
        super().__init__(place, size, 3, None, stream, cache, validation, mean, std, augment)
        self.num_classes = OBJECTS if labels == "objects" else OBJECTS // OF_A_CATEGORY

    def check(self) -> None:
        for session in SESSIONS:
            for number in range(1, OBJECTS + 1):
                folder = self.root / f"s{session}" / f"o{number}"
                if not folder.is_dir():
                    raise FileNotFoundError(
                        f"no {folder}: dataset.root needs the folder {FOLDER}; fetch it with `{FETCH} "
                        f"{self.root.parent}`" + seen(self.root.parent, FOLDER)
                    )

    def _find_classes(self) -> list[str]:
        return []  # the number of classes is known without reading the folder

    def _files(self, part: str) -> tuple[list[str], list[int]]:
        paths: list[str] = []
        labels: list[int] = []
        for session in SESSIONS:
            if (session in TEST_SESSIONS) != (part == "test"):
                continue
            for number in range(OBJECTS):
                folder = self.root / f"s{session}" / f"o{number + 1}"
                names = pictures_in(folder, ".png")
                if not names:
                    raise ValueError(f"{folder} has no pictures, expected *.png: unpack the archive again")
                paths += [f"{folder}/{name}" for name in names]
                labels += [number if self.labels == "objects" else number // OF_A_CATEGORY] * len(names)
        return paths, labels
