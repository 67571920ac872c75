"""A run goes on with another number of ranks than it began with: in the same folder, and under a name of its own."""

import json
import os
import signal
import time
from pathlib import Path

import forkserver
from support import QUICK, ROOT, command

from cl.configuration.identity import words
from cl.distributed import environments as launchers
from cl.run.folder import begun_elsewhere, plain, run_folder

WORDS = ("strategy=er", "scenario=class2", "buffer.capacity=40", *QUICK, "epochs=[1,20]")


def test_two_ranks_begin_and_one_goes_on(tmp_path):
    with launchers.torchrun(2) as environments:
        line = [ROOT / "run.py", *WORDS, f"output={tmp_path}"]
        ranks = [forkserver.start(line, cwd=ROOT, env={**os.environ, **own}) for own in environments]
        while not list(tmp_path.rglob("task_00.pt")):
            assert ranks[0].poll() is None, ranks[0].communicate()
            time.sleep(0.02)
        ranks[0].send_signal(signal.SIGTERM)
        ends = [(rank.communicate(timeout=60), rank.returncode)[1] for rank in ranks]
    assert ends == [128 + signal.SIGTERM] * 2
    (folder,) = {path.parent for path in tmp_path.rglob("resume_01_*.pt")}
    assert len(list(folder.glob("buffer_01_*_rank_*.pt"))) >= 2
    resumed = command(*WORDS, f"output={tmp_path}", "checkpoint.ranks=2")
    assert resumed.returncode == 0, resumed.stderr
    assert "stands where 2 ranks have left it and goes on with 1: its numbers differ from now on" in resumed.stdout
    assert "task  1/2" not in resumed.stdout and "task  2/2" in resumed.stdout
    content = json.loads((folder / "results.json").read_text())
    assert (
        content["world_size"] == 1
        and "checkpoint.ranks=2" in content["identity"]
        and content["group"] not in str(folder)
    )
    # 37 steps of two ranks in the first task; 720 of them in the second, or 1440 of one rank alone
    assert 37 + 720 < content["gradient_steps"] <= 37 + 1440


def test_the_name_is_that_of_the_ranks_that_began_and_of_reports_its_own(compose_config, tmp_path, monkeypatch):
    def config(*more) -> dict:
        return plain(compose_config(*WORDS, f"output={tmp_path}", *more))

    launched = ("launcher=torchrun", "launcher.np=4")
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert run_folder(config("checkpoint.ranks=4")) == run_folder(config(*launched)) != run_folder(config())
    assert words(config("checkpoint.ranks=4"), 1)["checkpoint.ranks"] == 4
    assert words(config("checkpoint.ranks=4"), 4) == words(config(), 4)
    assert begun_elsewhere(config()) is None
    folder: Path = run_folder(config(*launched))
    folder.mkdir(parents=True)
    (folder / "resume_01_000100.pt").touch()
    assert (
        begun_elsewhere(config())
        == f"{folder} has an unfinished run that 4 ranks began: checkpoint.ranks=4 goes on with it"
    )
    assert begun_elsewhere(config(*launched)) is None
    (folder / "results.json").touch()
    assert begun_elsewhere(config()) is None


def test_ranks_that_began_nothing_are_refused(tmp_path):
    done = command(*WORDS, f"output={tmp_path}", "checkpoint.ranks=3")
    assert done.returncode == 1 and "has no unfinished run that 3 ranks have begun: leave it out" in done.stderr
    assert done.stderr.count("\n") == 1
