"""What processes that were killed have left in a run's folder, by the names that remerge writes. Needs no torch.

Users keep files of their own there, so no other name is touched and no other folder is looked into.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from cl.run import lock

MERGED = "merged"  # the folder of the merges that a run makes while it trains
TRAINING = re.compile(r"\.training_\d{2,}_\d{2,}")  # checkpoints within a training of a merge
_BUFFER = r"buffer_\d{2,}_\d{6,}_rank_\d+\.pt"
# Files that are written under another name first: by `cl.atomic` and by the native replay memory.
UNDER_WAY = re.compile(rf"\.[\w.-]+\.(json|csv|yaml|pt|png|pdf|svg)\.\d+\.tmp|{_BUFFER}\.part")
# What only an unfinished run needs, and what only an unfinished merge does.
OF_RUN = re.compile(rf"resume(_\d{{2,}}_\d{{6,}})?\.pt|{_BUFFER}")
OF_MERGE = re.compile(r"trained_\d{2,}_\d{2,}\.pt")


def remains(folder: Path, finished: str | None) -> list[Path]:
    """The files and folders in a run's folder that nobody needs any more, if nobody is at work there.

    `finished`: the kind of the results that are there, run or merge; None without results.
    """
    return list(_remains(folder, finished, finished == "merge"))


def _remains(folder: Path, finished: str | None, is_merge: bool) -> Iterator[Path]:
    """Folders come after what is in them."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir():
            training = TRAINING.fullmatch(path.name)
            if path.name == MERGED or training:
                yield from _remains(path, finished, path.name == MERGED)
            if finished and training:
                yield path
        elif UNDER_WAY.fullmatch(path.name):
            yield path
        elif finished and (
            OF_RUN.fullmatch(path.name) or is_merge and OF_MERGE.fullmatch(path.name) or path.name == lock.NAME
        ):
            yield path


def sweep(folder: Path, finished: str | None) -> None:
    """Remove what is left; only with the lock of the folder."""
    for path in remains(folder, finished):
        if path.is_dir():
            path.rmdir()
        elif path.name != lock.NAME:  # that goes with the lock
            path.unlink(missing_ok=True)
