"""A whole study through its command: its page, its failures, and that it goes on wherever it was killed."""

import csv
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import wandb_files
from support import ROOT, command

from cl.atomic import write_json
from cl.reporting import report
from cl.reporting.page import page

SMALL = (
    "study=equal_budget", "study.budgets=[30]", "study.passes=1", "study.strategies=[er]", "study.fusions=[avg]",
    "study.inits=[shared]", "study.orders=[end]", "study.finetune=[true]", "study.both=[]", "study.bounds=[finetune]",
    "study.controls=false", "study.search.factors=[1,3]", "scenario=class2", "backbone.hidden=[8]", "progress=false",
    "logger=[csv,tensorboard]", "seed=0,1", "-m",
)  # fmt: skip
# Of a run: how long it took, and what that was at its most.
CLOCK = (
    "train_seconds",
    "merge_seconds",
    "eval_seconds",
    "samples_per_second",
    "replay_wait_seconds",
    "peak_memory_bytes",
)


def folder_of(output: Path) -> Path:
    (found,) = output.glob("*/equal_budget_*")
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """The page's files, made again from results without the times that they took."""
    for file in folder.parent.rglob("results.json"):
        found = json.loads(file.read_text())
        write_json(file, found | dict.fromkeys(CLOCK, 1.0))
        os.utime(file, (0, 0))
    page.write(folder, json.loads((folder / "study.json").read_text()))
    return {file.name: file.read_bytes() for file in (folder / "report").iterdir() if file.suffix != ".png"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a study that was not disturbed, and what it printed."""
    cwd = tmp_path_factory.mktemp("whole")
    done = command(*SMALL, script="merge.py", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return cwd, done.stdout


def test_a_study_writes_its_page_from_ordinary_runs(whole):
    cwd, printed = whole
    folder = folder_of(cwd / "multirun")
    assert "written: " in printed and "report/index.html" in printed
    begun, first = printed.split("\n\n")[0].splitlines()
    answer = printed.split("\n\n")[1]
    place = folder.relative_to(cwd)
    assert begun == "study equal_budget"
    assert first == f"study equal_budget on class2 of digits, seeds 0, 1, network mlp -> {place}"
    assert answer.startswith("At 30 samples, ")
    study = json.loads((folder / "study.json").read_text())
    assert [row["name"] for row in study["rows"]] == ["finetune", "er", "avg + fine-tuning"]
    own = [word for word in SMALL if word.startswith("study")]
    others = [word for word in SMALL[:-2] if not word.startswith("study")]
    assert shlex.split(study["command"]) == ["python", "merge.py", *others, *own, "-m", "seed=0,1"]
    for row in study["rows"]:
        assert len(row["runs"]) == 2 and not row["failed"]
        for place, seed in zip(row["runs"], (0, 1)):
            results = json.loads((folder / place).read_text())
            assert results["seed"] == seed and results["config"]["optimizer"]["lr"] == row["rate"]


def test_a_study_has_event_files_of_its_own_and_of_its_rows_alone(whole, monkeypatch, capsys):
    """Its short runs tell no logger; wandb is sent the table and the pictures later, once."""
    output = whole[0] / "multirun"
    folder = folder_of(output)
    with_files = {path.parent.parent for path in output.rglob("tensorboard/*.remerge")}
    assert with_files == {path.parent for path in output.glob("*/*/seed*/results.json")} | {folder}
    assert len(list((output / ".study").rglob("results.json"))) > 3
    table = list(csv.reader((folder / "report" / "report.csv").open()))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(sys, "argv", ["cl.report", str(folder), "--page", "--wandb"])
    for times in ("1 sent", "0 sent, 1 had been sent before"):
        report.main()
        assert capsys.readouterr().out.endswith(f"wandb: {times}\n")
    (told,) = wandb_files.offline(folder)
    (sent,) = folder.glob("wandb/offline-run-*/files/media/table/study_*.json")
    sent = json.loads(sent.read_text())
    assert told.run.job_type == "study" and told.status == 0
    assert sent["columns"] == table[0] and [row[:2] for row in sent["data"]] == [row[:2] for row in table[1:]]
    pictures = {path.name for path in (folder / "report").glob("*.png")}
    assert pictures and len(list(folder.glob("wandb/offline-run-*/files/media/images/pictures/*.png"))) == len(pictures)


def test_the_command_of_a_row_finds_its_runs(whole):
    """It is the same run under the same name: nothing is trained again."""
    cwd, _ = whole
    study = json.loads((folder_of(cwd / "multirun") / "study.json").read_text())
    for row in study["rows"]:
        python, script, *words = shlex.split(row["command"])
        again = command(*words, script=script, cwd=cwd)
        assert again.returncode == 0 and again.stdout.count("finished before") == 2, again.stderr + again.stdout


def test_a_study_that_is_finished_trains_nothing(whole):
    cwd, _ = whole
    before = {file: file.stat().st_mtime_ns for file in cwd.rglob("results.json")}
    again = command(*SMALL, script="merge.py", cwd=cwd)
    assert again.returncode == 0
    assert {file: file.stat().st_mtime_ns for file in cwd.rglob("results.json")} == before


def test_a_study_killed_again_and_again_ends_with_the_same_page(whole, tmp_path):
    draw = random.Random(0)
    for _ in range(3):
        study = subprocess.Popen([sys.executable, ROOT / "merge.py", *SMALL], cwd=tmp_path, stdout=subprocess.DEVNULL)
        time.sleep(draw.uniform(1, 5))  # of about 6
        study.send_signal(signal.SIGKILL)
        study.wait()
    last = command(*SMALL, script="merge.py", cwd=tmp_path)
    assert last.returncode == 0, last.stderr
    assert contents(folder_of(tmp_path / "multirun")) == contents(folder_of(whole[0] / "multirun"))


def test_failures_are_listed_at_the_end_and_the_page_is_made_of_the_rest(whole, tmp_path):
    words = [word for word in SMALL if not word.startswith("study.search")]
    words += ["study.search=null", "optimizer.lr=1e30"]  # diverges
    failed = command(*words[:-4], *words[-2:], *words[-4:-2], script="merge.py", cwd=tmp_path)
    assert failed.returncode == 1
    assert "failed (seed 0, 1) er, 30 samples: the loss is" in failed.stderr
    assert "runs of this study failed" in failed.stderr.splitlines()[-1]
    assert (folder_of(tmp_path / "multirun") / "report" / "index.html").is_file()
