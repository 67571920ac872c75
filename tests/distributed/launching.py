"""Starting ranks of `launched.py` and looking at what becomes of them; the fixture `start` is in conftest.py."""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import ROOT

from cl.distributed.failures import RanksFailed

SCRIPT = ROOT / "tests" / "distributed" / "launched.py"
OPTIONS = {"name": "torchrun", "np": 2, "hosts": None, "hostfile": None, "retries": 0}


def notes(folder: Path) -> dict[str, dict]:
    """What each rank has noted, by `RANK_ATTEMPT`."""
    return {file.stem: json.loads(file.read_text()) for file in folder.glob("[0-9]*.json")}


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def all_gone(folder: Path, seconds: float = 5) -> bool:
    pids = [note[key] for note in notes(folder).values() for key in ("pid", "child") if note.get(key)]
    deadline = time.monotonic() + seconds
    while not all(map(gone, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(pids) and all(map(gone, pids))


def wait_for_ranks(folder: Path, number: int = 2) -> None:
    deadline = time.monotonic() + 20
    while len(notes(folder)) < number and time.monotonic() < deadline:
        time.sleep(0.02)


def forget(folder: Path) -> None:
    """Take away the notes, so that the next ranks are at their first attempt."""
    for file in folder.glob("[0-9]*.json"):
        file.unlink()


def later(folder: Path, act: Callable) -> None:
    """Do something once two ranks are there."""
    threading.Thread(target=lambda: (wait_for_ranks(folder), act())).start()


def send_later(folder: Path, *signals: int, apart: float = 0.0) -> None:
    """Send this process signals once two ranks are there."""

    def send() -> None:
        for number in signals:
            os.kill(os.getpid(), number)
            time.sleep(apart)

    later(folder, send)


def failure(start, *words, **options) -> RanksFailed:
    with pytest.raises(RanksFailed) as caught:
        start(*words, **options)
    return caught.value
