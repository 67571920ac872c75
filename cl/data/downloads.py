"""Atomic downloads: fetched into a temporary folder, checked and moved into place, by one process at a time."""

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cl.atomic import sync_folder

ASIDE = ".download-"  # prefix of the folders of unfinished downloads


def fetch(root: Path, folder: str, download: Callable[[Path], None], damaged: Callable[[Path], list[Path]]) -> None:
    """Make `folder` below `root` complete, safely even if other processes and ranks do the same.

    `download` fetches the files below a given folder; `damaged` lists the files below a folder that are missing or
    damaged. If there are none, nothing is fetched. Raises ValueError if the download is damaged too.
    """
    root.mkdir(parents=True, exist_ok=True)
    name = folder.split("/")[0]
    with locked(root / f".{name}.lock"):
        if not damaged(root):
            return
        # Left by a killed process. The lock makes sure that no other process uses them.
        for old in root.glob(f"{ASIDE}{name}.*"):
            shutil.rmtree(old)
        aside = Path(tempfile.mkdtemp(prefix=f"{ASIDE}{name}.", dir=root))
        try:
            download(aside)
            wrong = damaged(aside)
            if wrong:
                names = ", ".join(path.name for path in wrong)
                raise ValueError(f"the downloaded files {names} are damaged: try again, or fetch them by hand")
            _replace(aside / folder, root / folder, aside / "old")
        finally:
            shutil.rmtree(aside)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the exclusive lock on a file inside this block, also against other hosts; a killed process releases it."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that has locked {path}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _replace(new: Path, place: Path, old: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        os.rename(place, old)
    os.rename(new, place)
    sync_folder(place.parent)
