"""A sweep under every launcher: the same runs, the same lines about them, the same end."""

import json
import os
import re
import signal
import subprocess
import sys

import fake_slurm
import forkserver
import pytest
import torch
from support import QUICK, ROOT, command

MEASURED = re.compile(r"seconds|per_second|peak_memory|^checksum$|^files$|^config$|^stage_costs$")
TIMES = re.compile(r" +\d+\.\d ± \d+\.\d$| +\d+\.\d$", re.MULTILINE)  # the last column of a table


def runs(folder) -> dict:
    """Numbers and weights of all runs below a folder, by the path of the run."""
    found = {}
    for path in folder.rglob("results.json"):
        content = {key: value for key, value in json.loads(path.read_text()).items() if not MEASURED.search(key)}
        weights = {
            file.name: {name: value.tolist() for name, value in torch.load(file)["model"].items()}
            for file in path.parent.glob("task_*.pt")
        }
        found[str(path.parent.relative_to(folder))] = content, weights
    return found


def table(stdout: str) -> list[list[str]]:
    """The words of each row of the final table, without the times in its last column."""
    text = TIMES.sub("", stdout[stdout.index("\nscenario ") :].strip().partition("\n\n")[0])
    return [line.split() for line in text.splitlines()[3:]]


def remains(folder) -> list:
    """Records that a sweep has left."""
    return list((folder / ".hydra").glob("sweep-*"))


WORDS = ["strategy=er,derpp", "scenario=class2", "seed=0,1", "-m", *QUICK]


def test_jobs_beside_each_other_have_the_numbers_of_one_process_and_need_no_torch_here(tmp_path):
    alone = command(*WORDS, f"output={tmp_path / 'alone'}")
    code = (
        "import atexit, runpy, sys; sys.argv = sys.argv[1:]; sys.path.insert(0, '.')\n"
        "atexit.register(lambda: print('torch' in sys.modules, 'matplotlib' in sys.modules))\n"
        "runpy.run_path('run.py', run_name='__main__')"
    )
    line = [sys.executable, "-c", code, "run.py", *WORDS, "jobs=2", f"output={tmp_path / 'beside'}"]
    beside = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert alone.returncode == beside.returncode == 0, beside.stderr
    assert runs(tmp_path / "alone") == runs(tmp_path / "beside") and len(runs(tmp_path / "alone")) == 4
    *lines, loaded = beside.stdout.splitlines()
    assert loaded == "False False"  # torch and matplotlib
    assert table(alone.stdout) == table(beside.stdout) and [row[:2] for row in table(beside.stdout)] == [
        ["er", "2"],
        ["derpp", "2"],
    ]
    counted = [line.split()[1] for line in lines if line.startswith("run ")]
    assert counted == ["1/4", "2/4", "3/4", "4/4"] and beside.stderr == ""
    before = [line.split("  ")[:2] for line in alone.stdout.splitlines() if line.startswith("run ")]
    assert before == [
        ["run 1/4", "strategy=er seed=0"],
        ["run 2/4", "strategy=er seed=1"],
        ["run 3/4", "strategy=derpp seed=0"],
        ["run 4/4", "strategy=derpp seed=1"],
    ]
    assert not remains(tmp_path / "alone") and not remains(tmp_path / "beside")


LAUNCHERS = {
    "basic": [],
    "jobs": ["jobs=2"],
    "joblib": ["hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra.launcher.timeout_min=10"],
    "submitit_slurm": ["hydra.launcher.timeout_min=10", "hydra.launcher.mem_gb=1"],
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_counts_the_jobs_lists_failures_and_ends_with_the_table(tmp_path, launcher):
    words = [
        "strategy=finetune",
        "optimizer.lr=0.1,1e20",
        "scenario=class2",
        "-m",
        *QUICK,
        f"output={tmp_path / 'out'}",
    ]
    env = dict(os.environ)
    if launcher == "submitit_slurm":
        env["PATH"] = f"{fake_slurm.install(tmp_path / 'bin')}{os.pathsep}{env['PATH']}"
    done = command(f"hydra/launcher={launcher}", *LAUNCHERS[launcher], *words, env=env)
    assert done.returncode == 1, done.stderr
    lines = [line.split("  ") for line in done.stdout.splitlines() if line.startswith("run ")]
    assert sorted(words for _, words, *_ in lines) == ["optimizer.lr=0.1", "optimizer.lr=1e+20"]
    assert [count for count, *_ in lines] == ["run 1/2", "run 2/2"]
    assert [row[:2] for row in table(done.stdout)] == [["finetune", "1"]]
    first, empty, listed, failure = done.stderr.splitlines()
    assert first.startswith("error: job optimizer.lr=1e+20: the loss is nan") and empty == ""
    assert listed == "1 of 2 jobs failed:" and failure.startswith("  optimizer.lr=1e+20: the loss is nan")
    assert len(runs(tmp_path / "out")) == 1 and not remains(tmp_path / "out")
    if launcher == "submitit_slurm":
        asked = (tmp_path / "bin" / "submitted").read_text()
        assert "--array=0-1%" in asked and "--mem=1GB" in asked and "--time=10" in asked


DYING = """
import os, signal
from cl.run.callbacks import Callback
class Dies(Callback):
    def on_run_start(self, context):
        if context.config["seed"] == 1:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_job_whose_process_dies_is_named_and_the_others_go_on(tmp_path):
    (tmp_path / "dying.py").write_text(DYING)  # as the system does where memory is short
    words = ["strategy=finetune", "scenario=class2", "seed=0,1,2", "-m", "jobs=2", *QUICK]
    own = ["+callbacks.dies._target_=dying.Dies", "trust=[dying]", "output=out"]
    done = command(*words, *own, cwd=tmp_path)
    line = "its process was killed twice, perhaps for want of memory"
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"error: job seed=1: {line}", "", "1 of 3 jobs failed:", f"  seed=1: {line}"]
    assert [row[:2] for row in table(done.stdout)] == [["finetune", "2"]] and not remains(tmp_path / "out")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_all_jobs_and_the_same_command_goes_on(tmp_path, number):
    words = ["strategy=derpp", "seed=0,1", "epochs=4", "pictures=[]", "jobs=2", "-m"]
    process = forkserver.start([ROOT / "run.py", *words, f"output={tmp_path / 'out'}"], cwd=ROOT)
    seen = set()
    while len(seen) < 2:  # both are under way
        line = process.stdout.readline()
        assert line, process.communicate()
        seen |= {line.partition("  task")[0]} if "  task  1/5" in line else set()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert said.strip().splitlines()[-1] == f"{number.name}: the same command goes on from what is saved"
    assert len(list((tmp_path / "out").rglob("seed*/resume_*.pt"))) >= 2 and not remains(tmp_path / "out")
    assert not list((tmp_path / "out").rglob(".lock"))
    if number == signal.SIGTERM:
        again = command(*words, f"output={tmp_path / 'out'}")
        assert again.returncode == 0 and again.stdout.count("task  1/5") == 0
        command(*words, f"output={tmp_path / 'whole'}")
        assert runs(tmp_path / "out") == runs(tmp_path / "whole")


def test_ranks_within_jobs_beside_each_other(tmp_path):
    words = ["strategy=finetune", "scenario=class2", "launcher=torchrun", "launcher.np=2", *QUICK]
    done = command(*words, "seed=0,1", "-m", "jobs=2", f"output={tmp_path / 'beside'}")
    assert done.returncode == 0, done.stderr
    command(*words, "seed=1", f"output={tmp_path / 'alone'}")
    (path,) = runs(tmp_path / "alone")
    assert runs(tmp_path / "beside")[path] == runs(tmp_path / "alone")[path] and len(runs(tmp_path / "beside")) == 2


def test_merges_beside_each_other(tmp_path):
    words = ["scenario=class2", "baselines=[]", *QUICK, "-m"]
    done = command(*words, "fusion=avg,ties", "jobs=2", f"output={tmp_path / 'out'}", script="merge.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run ") == 2 and "fusion=ties" in done.stdout
    assert {"avg", "ties"} <= {row[0] for row in table(done.stdout)}
