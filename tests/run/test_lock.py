"""Two equal commands at once are one run and one line, and what a killed process has left goes."""

import csv
import errno
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import forkserver
import pytest
from omegaconf import OmegaConf
from support import QUICK, ROOT, run_killed

from cl.reporting.reading import read_results
from cl.run import experiment, lock
from cl.run.folder import alone, finished_run, plain, run_folder
from cl.run.lock import InUseError, locked
from cl.run.remains import remains
from merging import resume, training
from merging import run as merges
from merging.folder import merge_folder
from merging.study import run as study
from merging.study.configurations import Configurations
from merging.study.options import Options

HOLD = "import sys, time; from cl.run.lock import locked\nwith locked(__import__('pathlib').Path(sys.argv[1])):\n"
HOLD += " print('got it', flush=True)\n sys.stdin.read()"


@contextmanager
def holder(folder):
    """Another process that holds the lock of a folder."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, text=True, **pipes) as process:
        assert process.stdout.readline() == "got it\n"
        yield process
        process.communicate()


def test_the_holder_is_named_and_nothing_is_left_when_it_is_done(tmp_path):
    folder = tmp_path / "a" / "b"
    with holder(folder) as process:
        line = f"{folder} is in use by process {process.pid} on {socket.gethostname()} since 20"
        with pytest.raises(InUseError, match=f"^{re.escape(line)}.* UTC: wait until it ends, or end that process$"):
            with locked(folder):
                pass
        assert (folder / ".lock").is_file()
    assert list(tmp_path.iterdir()) == []  # folders that were empty are gone again
    with locked(folder), locked(folder):  # of one's own
        (folder / "results").touch()
    assert [path.name for path in folder.iterdir()] == ["results"]


def test_a_killed_holder_holds_nothing_and_its_file_is_taken_over(tmp_path):
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert str(process.pid) in (tmp_path / ".lock").read_text()
    with locked(tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / ".lock").read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_that_its_holder_removes_meanwhile_locks_nobody_else(tmp_path, monkeypatch):
    """The next process may have opened it already; locking that would lock nothing that others see."""
    flock, removed = lock.fcntl.flock, []

    def late(descriptor, how):
        if not removed:
            removed.append((tmp_path / ".lock").unlink())
        flock(descriptor, how)

    monkeypatch.setattr(lock.fcntl, "flock", late)
    with locked(tmp_path):
        with pytest.raises(InUseError):
            lock._taken(tmp_path / ".lock", tmp_path, "wait")
    assert removed == [None] and list(tmp_path.iterdir()) == []


def test_a_folder_that_goes_while_it_is_made_is_made_again(tmp_path, monkeypatch):
    """mkdir finds it there, and looks again when the holder before has removed it."""
    place, make, calls = tmp_path / "key", Path.mkdir, []

    def removed_meanwhile(self, *rest, **named):
        calls.append(self)
        if len(calls) == 1:
            raise FileExistsError(errno.EEXIST, "File exists", str(self))
        make(self, *rest, **named)

    monkeypatch.setattr(Path, "mkdir", removed_meanwhile)
    with locked(place):
        assert (place / ".lock").is_file()
    assert len(calls) == 2 and not place.exists()


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
    def without(*_):
        raise OSError(lock.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", without)
    with locked(tmp_path):
        pass
    assert "is on a file system without locks (No locks available): see to it" in capsys.readouterr().err


def races(tmp_path, count: int) -> list[tuple[int, int, int]]:
    """How often each of so many pairs of equal commands trained, was refused and found the run finished."""
    outcomes = []
    for number in range(count):
        words = (*QUICK, "strategy=er", "log_interval=1", f"seed={number}", f"output={tmp_path}")
        processes = [forkserver.start([ROOT / "run.py", *words], cwd=ROOT) for _ in range(2)]
        done = [(*process.communicate(timeout=600), process.returncode) for process in processes]
        (folder,) = tmp_path.glob(f"*/*/seed{number}")
        rows = list(csv.DictReader((folder / "metrics.csv").open()))
        steps = read_results(folder / "results.json")["gradient_steps"]
        assert [int(row["step"]) for row in rows] == list(range(1, steps + 1)), "rows of two runs"
        assert not list(folder.glob(".*"))
        refused = [said for _, said, status in done if status]
        line = rf"error: {re.escape(str(folder))} is in use by process \d+ on \S+ since \S+ \S+ UTC: wait .*\n"
        assert all(re.fullmatch(line, said) for said in refused) and {status for _, _, status in done} <= {0, 1}
        found = sum("finished before" in said for said, _, _ in done)
        outcomes.append((2 - len(refused) - found, len(refused), found))
    return outcomes


def test_two_equal_commands_at_once_are_one_run_and_one_line(tmp_path):
    assert all(trained == 1 for trained, _, _ in races(tmp_path, 2))


def test_nothing_is_removed_or_written_without_the_lock(compose_config, monkeypatch):
    config = compose_config(*QUICK, "strategy=finetune", "steps=2")
    folder = experiment.run(config)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    config.overwrite = True
    with holder(folder):
        with pytest.raises(InUseError, match="is in use by process"):
            experiment.run(config)
        assert {path: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"} == before
        config.overwrite = False
        assert finished_run(config) == folder  # which needs no lock
    merge = compose_config(*QUICK, "steps=2", "baselines=[]", name="merge")
    with holder(merge_folder(plain(merge))):
        monkeypatch.setattr(merges, "train", lambda *_: pytest.fail("trained for a merge that another process makes"))
        with pytest.raises(InUseError, match="is in use by process"):
            merges.run(merge)


def test_merges_that_share_a_run_wait_for_the_one_that_trains_it(compose_config, monkeypatch, capsys):
    """Also with overwrite=true: what the other command trains meanwhile is not trained, or removed, again."""
    words = (*QUICK, "scenario=class2", "steps=2", "baselines=[]")
    base = plain(compose_config(*words, name="merge"))
    networks = run_folder(merges.parts(base)[2])
    merges.run(compose_config(*words, name="merge"))
    times = {path: path.stat().st_mtime_ns for path in networks.iterdir()}
    said, real = capsys.readouterr(), lock.time.sleep
    for overwrite in (False, True):
        if not overwrite:
            (networks / "results.json").rename(networks / "kept")

        with holder(networks) as process:

            def trained(seconds):
                """The other command is done."""
                real(0.02)
                if seconds == lock.POLL and process.poll() is None:
                    if overwrite:
                        (networks / "task_01.pt").touch()
                    else:
                        (networks / "kept").rename(networks / "results.json")
                    process.communicate()

            with monkeypatch.context() as patch:
                patch.setattr(lock.time, "sleep", trained)
                patch.setattr(training.experiment, "run", lambda *_: pytest.fail("trained twice"))
                assert merges.train(merges.parts(base | {"overwrite": overwrite})[2]) == networks
        said = capsys.readouterr()
        assert len(said.err.splitlines()) == 1 and "finished before" in said.out
        assert f"{networks} is in use by process {process.pid} on " in said.err
        assert said.err.endswith("UTC: waiting until it ends\n")
    after = {path: path.stat().st_mtime_ns for path in networks.iterdir()}
    assert {path.name for path in times if times[path] != after.pop(path)} == {"task_01.pt"} and not after


def test_a_finished_merge_is_found_while_another_command_has_its_folder(compose_config, capsys):
    merge = compose_config(*QUICK, "scenario=class2", "steps=2", "baselines=[]", name="merge")
    folders = merges.run(merge)
    with holder(folders[-1]):
        assert merges.run(merge) == folders
    assert f"finished before: {folders[-1]}" in capsys.readouterr().out


def test_a_folder_that_cannot_be_made_is_an_error_soon():
    with pytest.raises(FileNotFoundError), locked(Path("/proc/no such process")):
        pass


def test_a_run_that_was_finished_meanwhile_is_found_once_the_lock_is_there(compose_config, monkeypatch, capsys):
    config = compose_config(*QUICK, "strategy=finetune", "steps=2")
    folder = experiment.run(config)
    before = (folder / "results.json").stat().st_mtime_ns
    assert experiment.run(config) == folder and "finished before" in capsys.readouterr().out
    assert (folder / "results.json").stat().st_mtime_ns == before


def test_two_studies_do_not_work_in_the_same_folders(tmp_path):
    configurations = Configurations((f"output={tmp_path}",))
    node = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "study" / "equal_budget.yaml"))
    of = study.Study(Options.read(node), configurations, configurations.of("merge", ()), [0], "")
    with holder(tmp_path / ".study"):
        with pytest.raises(InUseError, match="is in use by process .* until that study ends, or choose output=FOLDER"):
            study.asyncio.run(of.run())


LEFT = (
    ".results.json.12345.tmp", ".metrics.csv.1.tmp", ".task_01.pt.77.tmp", ".accuracy_matrix.png.3.tmp",
    "buffer_01_000000_rank_1.pt.part", "merged/.trained_02_00.pt.9.tmp",
)  # fmt: skip
UNFINISHED = (
    "resume.pt",
    "resume_04_000000.pt",
    "buffer_04_000000_rank_0.pt",
    "merged/trained_02_00.pt",
    ".training_02_01/resume_00_000002.pt",
)
OTHERS = (
    ".hidden", "notes.12.tmp", ".report.md.5.tmp", "best.pt", "movie.part", "rank_0.pt", "probe_rank_0.pt",
    "probe_01_000000_rank_0.pt.part", "trained_02_00.pt", "merged/resume_of_mine.pt",
    "mine/resume_04_000000.pt", "mine/buffer_04_000000_rank_0.pt", "mine/trained_02_00.pt", "merged/probe_rank_0.pt",
    "mine/.lock", "mine/.results.json.12345.tmp", "mine/merged/trained_02_00.pt",
)  # fmt: skip


@pytest.mark.parametrize("finished", [True, False])
def test_what_a_killed_run_has_left_goes_at_the_next_start_and_nothing_else_does(finished, compose_config):
    config = compose_config(*QUICK, "strategy=finetune", "scenario=class2", "steps=2")
    folder = run_folder(plain(config))
    experiment.run(config) if finished else run_killed(config, stage=1)
    (folder / "merged").mkdir()
    for name in (*LEFT, *OTHERS, *(UNFINISHED if finished else ()), ".lock"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    if finished:
        with holder(folder):  # a command that ends just now removes these itself
            assert finished_run(config) == folder and (folder / LEFT[0]).exists()
        assert finished_run(config) == folder
    else:
        experiment.run(config)
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert not there & {*LEFT, *UNFINISHED, ".lock", ".training_02_01"} and set(OTHERS) <= there
    assert {"results.json", "task_00.pt", "task_01.pt", "metrics.csv", "config.yaml"} <= there


def test_what_merges_keep_while_they_train_goes_from_their_folders_alone(tmp_path):
    names = ("trained_02_00.pt", "trained_of_mine.pt", ".training_02_00", ".training_of_mine")
    for name in names:
        (tmp_path / name).touch() if name.endswith(".pt") else (tmp_path / name).mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / names[0]).touch()
    for kind, gone in ((None, []), ("run", [".training_02_00"]), ("merge", [".training_02_00", "trained_02_00.pt"])):
        assert sorted(path.name for path in remains(tmp_path, kind)) == gone
    resume.clear(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["mine", names[1], names[3]])


class Rank:
    """A rank of two whose exchanges are told what rank 0 said."""

    size = 2

    def __init__(self, rank: int, said=None):
        self.rank, self.said, self.is_main = rank, said, rank == 0

    def broadcast(self, content):
        if self.is_main:
            self.said = content
        return self.said

    def gather(self, content):
        return [content] * 2


def test_all_ranks_learn_that_the_folder_is_in_use(tmp_path):
    first = Rank(0)
    with holder(tmp_path):
        with pytest.raises(InUseError) as refused:
            with alone(tmp_path, first):
                pass
        with pytest.raises(InUseError) as told:
            with alone(tmp_path / "disk of another host", Rank(1, first.said)):
                pass
    assert str(told.value) == str(refused.value) == first.said
    with alone(tmp_path, first), alone(tmp_path, Rank(1, first.said)):  # the other rank takes no lock
        pass
