"""A signal saves what is done and ends the run; the same command ends with the bits of one that was not stopped."""

import contextlib
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

from cl import signals
from cl.distributed import environments as launchers
from cl.distributed.failures import RanksFailed
from cl.run import cli

WORDS = (
    "strategy=er", "scenario=class2", "steps=200", "backbone.hidden=[16]", "log_interval=1", "buffer.capacity=30",
    "progress=false", "pictures=[]",
)  # fmt: skip
SAVED = r"saved after step \d+ of 200 of task 1 of 2, and the same command goes on from there: "


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
        "with signals.deferred('done'):\n    print('ready', flush=True); end = time.monotonic() + 1.6\n"
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


def test_a_second_signal_ends_a_rank_that_waits_in_c():
    code = (
        "import ctypes, os, time; from cl import signals; signals.listen()\n"
        "with signals.answered_by_a_thread(), signals.deferred('done'):\n"
        "    for pause in (1.1, 0):\n"  # signals in a forked process are not those of this one
        "        if not (child := os.fork()):\n"
        "            os.kill(os.getpid(), signals.SIGNALS[1]); os._exit(0)\n"
        "        os.waitpid(child, 0); time.sleep(pause)\n"
        "    library, lock = ctypes.CDLL(None), ctypes.create_string_buffer(128)\n"
        "    library.pthread_mutex_init(lock, None); library.pthread_mutex_lock(lock)\n"
        "    print('ready', flush=True); library.pthread_mutex_lock(lock)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)  # the same event
    time.sleep(1.1)
    assert process.poll() is None
    process.send_signal(signal.SIGUSR1)
    assert process.wait(10) == 128 + signal.SIGUSR1
    process.stdout.close()


@pytest.fixture
def own_signals(monkeypatch):
    """What `cli.launch` changes in this process is as before after the test."""
    monkeypatch.setattr(sys, "argv", ["run.py"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(os, "environ", os.environ.copy())


def test_a_signal_ends_a_rank_that_hangs_in_leaving_the_others(own_signals, monkeypatch):
    found = []
    monkeypatch.setattr(cli, "_is_rank", lambda: True)
    monkeypatch.setattr(cli, "leave", lambda status: found.append([signal.getsignal(n) for n in signals.SIGNALS]))
    with pytest.raises(SystemExit):
        cli.launch(lambda: None, "run")
    assert found == [[signal.SIG_DFL] * 3]
    assert [signal.getsignal(number) for number in signals.SIGNALS] == [signal.SIG_IGN] * 3


@pytest.mark.parametrize(
    "errors, status",
    [
        ([RanksFailed("rank 1 of 2 was killed", [], is_loss=True)], 75),
        ([RanksFailed("", [("", "no data", "")], is_loss=False)], 1),
        ([RanksFailed("rank 1 of 2 was killed", [], is_loss=True), ValueError("wrong option")], 1),
        ([], 0),
    ],
)
def test_the_status_tells_lost_ranks_from_mistakes(own_signals, errors, status):
    def main() -> None:
        for error in errors:
            cli._report(cli._failure(error, str(error), debug=False))

    with pytest.raises(SystemExit) as ended:
        cli.launch(main, "run")
    assert ended.value.code == status


@contextlib.contextmanager
def pair(*words):
    """Two ranks of torch.distributed, without a launcher."""
    with launchers.torchrun(2) as environments:
        ranks = [
            forkserver.start([ROOT / "run.py", *WORDS, *words], cwd=ROOT, env={**os.environ, **own})
            for own in environments
        ]
        yield ranks
        for rank in ranks:
            rank.wait(timeout=60)


def test_a_signal_for_one_rank_stops_all_after_the_same_step(tmp_path):
    with pair(f"output={tmp_path / 'stopped'}") as ranks:
        wait_for_steps(tmp_path, ranks[0])
        ranks[1].send_signal(signal.SIGTERM)
        errors = [rank.communicate(timeout=60)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [128 + signal.SIGTERM] * 2, errors
    said = [error for error in errors if "SIGTERM" in error]
    assert len(said) == 1 and re.search(rf"SIGTERM: {SAVED}\S+\n", said[0]), errors
    (folder,) = {path.parent for path in tmp_path.rglob("resume_00_*.pt")}
    for place in ("stopped", "whole"):
        with pair(f"output={tmp_path / place}") as ranks:
            assert [rank.communicate(timeout=60) and rank.returncode for rank in ranks] == [0, 0]
    (other,) = {path.parent for path in (tmp_path / "whole").rglob("results.json")}
    assert_same(outcome(other), outcome(folder))
