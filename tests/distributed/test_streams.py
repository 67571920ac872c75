"""Dropout and augmentation of several ranks: each draws numbers of its own, and rank 0 those of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

from cl.distributed import environments as launchers

WORKER = Path(__file__).with_name("streams_worker.py")


def start(folder: Path, name: str, environment: dict) -> subprocess.Popen:
    line = [sys.executable, str(WORKER), str(folder / name)]
    return subprocess.Popen(line, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **environment})


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict:
    """By process, what it saw in the first step of each of two stages; of two ranks, and of one process alone."""
    folder = tmp_path_factory.mktemp("streams")
    with launchers.torchrun(2) as environments:
        named = [*zip(("rank 0", "rank 1"), environments), ("alone", {})]
        processes = [start(folder, name, environment) for name, environment in named]
        assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    return {name: json.loads((folder / name).read_text()) for name, _ in named}


@pytest.mark.parametrize("what", ["mask", "pictures"])
def test_ranks_draw_different_numbers_and_the_first_those_of_one_process(seen, what):
    first, second, alone = ([step[what] for step in seen[name]] for name in ("rank 0", "rank 1", "alone"))
    assert first == alone  # equal pictures, so whatever differs was drawn
    assert all(one != other for one, other in zip(first, second))  # 64 masks, 4 flips: equal once in 2^64 or 2^4 ...
    assert first[0] != first[1] and second[0] != second[1]  # ... and from stage to stage
