"""What processes that were killed have left in a run's folder. Needs no torch."""

import re
from pathlib import Path

from cl.run import lock

# Files that are written under another name first: by `cl.atomic` and by the native replay memory.
UNDER_WAY = re.compile(r"\.[\w.-]+\.(json|csv|yaml|pt|png|pdf|svg)\.\d+\.tmp|\w+_rank_\d+\.pt\.part")
# What only an unfinished run or merge needs.
UNFINISHED = re.compile(r"resume(_\d+_\d+)?\.pt|\w+_rank_\d+\.pt|trained_\d+_\d+\.pt|\.training_\d+_\d+")


def remains(folder: Path, finished: bool) -> list[Path]:
    """The files and folders in a run's folder that nobody needs any more, if nobody is at work there."""
    return [
        path
        for path in folder.rglob("*")
        if UNDER_WAY.fullmatch(path.name) or finished and (UNFINISHED.fullmatch(path.name) or path.name == lock.NAME)
    ]


def sweep(folder: Path, finished: bool) -> None:
    """Remove what is left; only with the lock of the folder."""
    for path in sorted(remains(folder, finished), reverse=True):  # what is in a folder before the folder
        if path.is_dir():
            path.rmdir()
        elif path.name != lock.NAME:  # that goes with the lock
            path.unlink(missing_ok=True)
