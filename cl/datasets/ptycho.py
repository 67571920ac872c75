"""Ptychography: diffraction patterns of scans, with the amplitude and phase of the object as targets."""

import re
from pathlib import Path

import numpy as np

from cl import seeding
from cl.datasets.base import Dataset, Split

PATTERNS, OBJECT = "cropped_exp_diffr_data.npy", "patched_psi.npy"
HOLD_OUT_SEED = 0  # for the test patches: they are the same for every seed of a run


class Reconstructed(Dataset):
    """A data set of scans: diffraction magnitudes `x` [N, 1, H, W], targets `amplitude` and `phase` of equal shape.

    The label of a sample is the number of its scan. `held_out`: fraction of each scan's patches in the test split.
    """

    dtype_name = "float32"

    def __init__(
        self, scans: int, size: int, held_out: float, validation: float, mean: list | None, std: list | None,
        augment: list,
    ):  # fmt: skip
        super().__init__(validation, mean, std, augment)
        if augment:
            raise ValueError(
                f"dataset.augment={augment}: a changed diffraction pattern belongs to another object; it must be []"
            )
        if scans < 1 or size < 1:
            raise ValueError(f"dataset.scans and dataset.size must be at least 1, got {scans} and {size}")
        if not 0 < held_out < 1:
            raise ValueError(f"dataset.held_out must be a fraction between 0 and 1, got {held_out}")
        self.num_classes, self.held_out = scans, held_out
        self.sample_shape = (1, size, size)
        self.target_shapes = {"amplitude": self.sample_shape, "phase": self.sample_shape}

    def scan(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """The diffraction magnitudes [n, H, W] and the complex object patches [n, H, W] of scan number `place`."""
        raise NotImplementedError

    def read(self) -> tuple[Split, Split]:
        parts: tuple[list, list] = ([], [])
        for place in range(self.num_classes):
            patterns, patches = self.scan(place)
            order = seeding.generator(HOLD_OUT_SEED, "held out", place).permutation(len(patterns))
            count = max(1, round(self.held_out * len(order)))
            if count >= len(order):
                raise ValueError(
                    f"scan {place} has {len(order)} patches, of which dataset.held_out={self.held_out} leaves none to "
                    "train on: lower it, or leave out the scan"
                )
            for part, chosen in zip(parts, (np.sort(order[count:]), np.sort(order[:count]))):
                part.append((*columns_of(patterns[chosen], patches[chosen]), np.full(len(chosen), place)))
        train, test = (_split(*(np.concatenate(column) for column in zip(*part))) for part in parts)
        return train, test


class Ptycho(Reconstructed):
    """Scans in folders with a number in their names, each with a file of patterns and a file of object patches.

    Uses the first `scans` folders by number. Patches whose mean square phase is below `void` show no object and are
    left out. Raises FileNotFoundError for missing files, ValueError for damaged ones.
    """

    def __init__(
        self, root: str, scans: int, size: int, void: float, held_out: float, validation: float, mean: list | None,
        std: list | None, augment: list,
    ):  # fmt: skip
        super().__init__(scans, size, held_out, validation, mean, std, augment)
        self.root, self.void = Path(root).expanduser(), void
        self.folders: list[Path] = []

    def check(self) -> None:
        found = [path for path in self.root.glob("*") if path.is_dir() and re.search(r"\d+", path.name)]
        found.sort(key=lambda path: (int(re.findall(r"\d+", path.name)[-1]), path.name))
        if len(found) < self.num_classes:
            if (self.root / PATTERNS).is_file():
                raise FileNotFoundError(
                    f"{self.root} is the folder of one scan: set dataset.root={self.root.parent}, the folder above it"
                )
            raise FileNotFoundError(
                f"{self.root} has {len(found)} folders of scans, expected dataset.scans={self.num_classes}: "
                f"dataset.root needs one numbered folder for each scan, with {PATTERNS} and {OBJECT}"
            )
        self.folders = found[: self.num_classes]
        for folder in self.folders:
            patterns, patches = (self._open(folder / name) for name in (PATTERNS, OBJECT))
            expected = (len(patterns), *self.sample_shape[1:])
            kinds = patterns.dtype.kind in "fiu" and patches.dtype.kind == "c"
            if patterns.shape != expected or patches.shape != expected or not kinds:
                raise ValueError(
                    f"{folder} has {patterns.dtype} patterns of shape {patterns.shape} and {patches.dtype} patches of "
                    f"{patches.shape}: both should be (patches, {expected[1]}, {expected[2]}), the patterns real and "
                    "the patches complex; see dataset.size"
                )

    def _open(self, path: Path) -> np.ndarray:
        if not path.is_file():
            raise FileNotFoundError(f"no {path}: the folder of a scan needs {PATTERNS} and {OBJECT}")
        try:
            array = np.load(path, mmap_mode="r")
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        if not isinstance(array, np.ndarray) or array.ndim == 0:
            raise ValueError(f"{path} cannot be read: it holds no array of patches, expected one of 3 dimensions")
        return array

    def scan(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        if not self.folders:
            self.check()
        folder = self.folders[place]
        patterns, patches = (np.array(self._open(folder / name)) for name in (PATTERNS, OBJECT))
        for name, array in ((PATTERNS, patterns), (OBJECT, patches)):
            if not np.isfinite(array).all():
                raise ValueError(f"{folder / name} is damaged: it has values that are not finite; replace it")
            if np.abs(array).max(initial=0) > np.finfo(np.float32).max:
                raise ValueError(f"{folder / name} has values beyond the range of float32: rescale them")
        kept = np.square(np.angle(patches)).mean((1, 2)) >= self.void
        if kept.sum() < 2:
            raise ValueError(
                f"{folder}: {kept.sum()} of {len(kept)} patches are above dataset.void={self.void}, expected at least "
                "2: lower it, or leave out the scan"
            )
        return patterns[kept], patches[kept]


def columns_of(patterns: np.ndarray, patches: np.ndarray) -> list[np.ndarray]:
    """The magnitudes, amplitudes and phases of one scan as contiguous float32 arrays in native byte order.

    Each scan is converted alone, so that wider types never take memory for all scans.
    """
    columns = (patterns, np.abs(patches), np.angle(patches))
    return [np.ascontiguousarray(column, dtype=np.float32) for column in columns]


def _split(magnitudes: np.ndarray, amplitude: np.ndarray, phase: np.ndarray, labels: np.ndarray) -> Split:
    import torch

    x, amplitude, phase = (torch.from_numpy(column).unsqueeze(1) for column in (magnitudes, amplitude, phase))
    return Split(x, torch.from_numpy(labels), {"amplitude": amplitude, "phase": phase})
