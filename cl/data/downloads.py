"""Downloads that are whole or not there: fetched aside, checked, moved into place, by one process at a time."""

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ASIDE = ".download-"  # how the names of unfinished downloads begin


def fetch(root: Path, folder: str, download: Callable[[Path], None], damaged: Callable[[Path], list[Path]]) -> None:
    """Have `folder` below `root` whole, whatever other processes and ranks that share it do at the same time.

    `download` fetches it below the folder that it is given; `damaged` names the files below one that are missing or
    damaged. Where there are none nothing is fetched. Raises ValueError where what was fetched is damaged too.
    """
    root.mkdir(parents=True, exist_ok=True)
    name = folder.split("/")[0]
    with locked(root / f".{name}.lock"):
        if not damaged(root):
            return
        # By a process that was killed: whoever holds the lock is alone with these, other data sets have their own.
        for left in root.glob(f"{ASIDE}{name}.*"):
            shutil.rmtree(left)
        aside = Path(tempfile.mkdtemp(prefix=f"{ASIDE}{name}.", dir=root))
        try:
            download(aside)
            wrong = damaged(aside)
            if wrong:
                names = ", ".join(path.name for path in wrong)
                raise ValueError(f"what was downloaded is damaged: {names}; try again, or fetch it by hand")
            _replace(aside / folder, root / folder, aside / "old")
        finally:
            shutil.rmtree(aside)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Within it no other process of any host holds the lock on a file; one that is killed gives it back."""
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
