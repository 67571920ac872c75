"""A signal saves what is done and ends the run; the same command ends with the bits of one that was not stopped."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import forkserver
import pytest
from outcomes import assert_same, outcome
from support import ROOT, command

from cl.distributed import environments as launchers

WORDS = (
    "strategy=er", "scenario=class2", "steps=400", "backbone.hidden=[16]", "log_interval=1", "buffer.capacity=30",
    "progress=false", "pictures=[]",
)  # fmt: skip
SAVED = r"saved after step \d+ of 400 of task 1 of 2, and the same command goes on from there: "


def wait_for_steps(output: Path, process) -> None:
    """Until a run is in the middle of its first stage."""
    while not any(len(file.read_text().splitlines()) > 20 for file in output.rglob("metrics.csv")):
        assert process.poll() is None
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict:
    output = tmp_path_factory.mktemp("whole")
    assert command(*WORDS, f"output={output}").returncode == 0
    return outcome(next(output.rglob("results.json")).parent)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_and_the_same_command_goes_on(tmp_path, whole, number):
    process = forkserver.start([ROOT / "run.py", *WORDS, f"output={tmp_path}"], cwd=ROOT)
    wait_for_steps(tmp_path, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert re.fullmatch(rf"{number.name}: {SAVED}{tmp_path}/\S+\n", err.lstrip()), err
    (folder,) = {path.parent for path in tmp_path.rglob("resume_00_*.pt")}
    done = command(*WORDS, f"output={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert_same(whole, outcome(folder))


def test_a_signal_in_a_sweep_leaves_out_the_jobs_that_follow(tmp_path):
    line = [ROOT / "run.py", *WORDS, f"output={tmp_path}", "-m", "seed=0,1"]
    process = forkserver.start(line, cwd=ROOT)
    wait_for_steps(tmp_path, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and len(err.splitlines()) <= 2, err
    assert not list(tmp_path.rglob("seed1"))


@pytest.mark.parametrize("pause, status", [(0.1, None), (1.2, -signal.SIGUSR1)])
def test_a_second_signal_ends_at_once_unless_it_is_the_same_event(pause, status):
    code = (
        "import time; from cl import signals; signals.listen()\n"
        "with signals.deferred('done'):\n    print('ready', flush=True); end = time.monotonic() + 3\n"
        "    while time.monotonic() < end: time.sleep(0.01)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    time.sleep(pause)
    process.send_signal(signal.SIGUSR1)
    _, err = process.communicate(timeout=60)
    if status is None:
        assert process.returncode == 1 and "cl.signals.Stopped: done" in err, err
    else:
        assert process.returncode == status


def test_a_signal_for_one_rank_stops_all_after_the_same_step(tmp_path):
    words = [sys.executable, "run.py", *WORDS, f"output={tmp_path / 'stopped'}"]
    with launchers.torchrun(2) as environments:
        ranks = [
            subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=env)
            for env in ({**os.environ, **own} for own in environments)
        ]
        wait_for_steps(tmp_path, ranks[0])
        ranks[1].send_signal(signal.SIGTERM)
        errors = [rank.communicate(timeout=60)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [128 + signal.SIGTERM] * 2, errors
    assert re.fullmatch(rf"SIGTERM: {SAVED}\S+\n", errors[0].lstrip()) and not errors[1], errors
    (folder,) = {path.parent for path in tmp_path.rglob("resume_00_*.pt")}
    launched = ("launcher=torchrun", "launcher.np=2")
    for place in ("stopped", "whole"):
        assert command(*WORDS, *launched, f"output={tmp_path / place}").returncode == 0
    (other,) = {path.parent for path in (tmp_path / "whole").rglob("results.json")}
    assert_same(outcome(other), outcome(folder))
