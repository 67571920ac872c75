"""Jobs from Python, and what decides how many there are at a time."""

import subprocess
import sys

import pytest
from support import QUICK, ROOT

from cl.configuration.composing import composed
from cl.jobs import sizes
from cl.run import sweeping
from cl.run.folder import plain

SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import torch  # as in a notebook
from cl.jobs.sweep import Job, do
print("the script runs")
words = ("strategy=finetune", "scenario=class2", *{quick!r}, "output=out")
told = []
jobs = [Job("run", (*words, *own)) for own in (("seed=0",), ("seed=1", "optimizer.lr=1e20"), ("sed=1",))]
outcomes = do(jobs, 2, lambda place, outcome: told.append((place, outcome)))
assert sorted(told, key=lambda pair: pair[0]) == list(enumerate(outcomes))
good, diverged, mistaken = outcomes
assert good.error is None and (good.folders[0] / "results.json").is_file() and good.words == jobs[0].words
assert "the loss is nan" in diverged.error and diverged.folders == []
assert "did you mean seed" in mistaken.error and good.seconds > 0
print(do(jobs[:1], "auto")[0].folders == good.folders)
"""


def test_jobs_from_a_script_without_a_guard_run_nothing_of_it(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT.format(root=str(ROOT), quick=QUICK))
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.splitlines() == ["the script runs", "True"]


@pytest.mark.parametrize(
    "words, threads",
    [
        ([], 1),  # a small network has one
        (["threads=3"], 3),
        (["launcher=torchrun", "launcher.np=2"], 2),
        (["backbone=mlpnet", "backbone.hidden=[2000,2000]"], None),  # 4 million weights: as many as torch takes
        (["strategy.alpha=-1"], 1),  # a mistake that the job tells
    ],
)
def test_threads_of_a_job(words, threads):
    from cl.run.device import TORCH_THREADS

    config = plain(composed("run", ["device=cpu", *words]))
    assert sizes.largest([config]) == (TORCH_THREADS if threads is None else threads, [])
    assert sizes.largest([config], count=False) == (1, [])


DURATIONS = {0.84: "0.8 s", 9.94: "9.9 s", 9.96: "10 s", 99: "99 s", 100: "2 min", 5400: "90 min", 9000: "2.5 h"}


@pytest.mark.parametrize("seconds", DURATIONS)
def test_durations(seconds):
    assert sweeping.duration(seconds) == DURATIONS[seconds]
