"""Sweeps that others steer: Optuna through Hydra's sweeper, and `wandb agent`; and plugins that are missing."""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml
from hydra.core.config_store import ConfigStore
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf
from support import QUICK, ROOT, command

from cl.configuration.composing import composed
from cl.run.mistakes import one_line

SEARCH = ["strategy=er", "scenario=class2", "hydra/sweeper=search", *QUICK, "-m"]


def test_optuna_finds_the_best_on_held_out_data_and_lists_what_failed(tmp_path):
    words = ["hydra.sweeper.n_trials=4", "dataset.validation=0.2", "optimizer.lr=choice(1e20,0.1)"]
    done = command(*SEARCH, *words, f"output={tmp_path}")
    results = [json.loads(path.read_text()) for path in tmp_path.rglob("results.json")]
    assert results and all(found["config"]["dataset"]["validation"] == 0.2 for found in results)
    best = max(results, key=lambda found: found["average_accuracy"])
    rate = best["config"]["optimizer"]["lr"]
    line = next(line for line in done.stdout.splitlines() if line.startswith("best: "))
    assert re.fullmatch(rf"best: optimizer.lr={rate}  accuracy {100 * best['average_accuracy']:.2f} %  .*/seed0", line)
    rates = re.findall(r"^run \d/4  optimizer.lr=(\S+)", done.stdout, re.MULTILINE)
    assert len(rates) == 4 and set(rates) == {"1e+20", "0.1"}
    failures = [line for line in done.stderr.splitlines() if line.startswith("  optimizer.lr=1e+20")]
    assert f"{rates.count('1e+20')} of 4 jobs failed:" in done.stderr and len(failures) == 1
    assert done.returncode == 1 and "study created" not in done.stderr and "float-castable" not in done.stderr


def test_a_search_on_the_test_data_is_named_and_one_for_the_worst_refused(tmp_path):
    words = ["hydra.sweeper.n_trials=1", "optimizer.lr=choice(0.1,0.2)", f"output={tmp_path}"]
    done = command(*SEARCH, *words)
    assert done.returncode == 0 and done.stderr.startswith("trials are compared on the test data")
    done = command(*SEARCH, *words, "hydra.sweeper.direction=minimize")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "hydra.sweeper.direction=maximize" in done.stderr and "run 1" not in done.stdout


@pytest.mark.parametrize(
    "group, name, extra, package",
    [
        ("launcher", "joblib", "joblib", "hydra-joblib-launcher"),
        ("launcher", "submitit_local", "submitit", "hydra-submitit-launcher"),
        ("launcher", "submitit_slurm", "submitit", "hydra-submitit-launcher"),
        ("sweeper", "optuna", "optuna", "hydra-optuna-sweeper"),
        ("sweeper", "search", "optuna", "hydra-optuna-sweeper"),
    ],
)
def test_a_plugin_that_is_not_installed_is_named_with_its_command(monkeypatch, group, name, extra, package):
    composed("run", [])  # the plugins that are installed are found
    store = ConfigStore.instance().repo["hydra"][group]
    monkeypatch.delitem(store, f"{'optuna' if name == 'search' else name}.yaml")
    with pytest.raises(MissingConfigException) as missing:
        composed("run", [f"hydra/{group}={name}"])
    line = one_line(missing.value, "run", [])
    assert f'pip install "remerge[{extra}]"' in line and package in line and "\n" not in line


@pytest.mark.parametrize(
    "words, parts",
    [
        (["hydra/launcher=jobib"], ("hydra/launcher=jobib does not exist", "did you mean joblib")),
        (["hydra/sweeper=optun"], ("hydra/sweeper=optun does not exist", "did you mean optuna")),
        (["hydra/launcher=joblib", "jobs=2"], ("jobs=2 and hydra/launcher=joblib both", "leave out one")),
        (["jobs=0"], ("jobs must be a whole number of at least 1 or auto", "got 0")),
    ],
)
def test_a_mistake_in_how_jobs_run_is_one_line(tmp_path, words, parts):
    done = command(*words, "seed=0,1", "-m", f"output={tmp_path / 'out'}", *QUICK)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert all(part in done.stderr for part in parts) and "run 1" not in done.stdout


def test_what_submitit_says_of_a_job_that_died_is_one_line():
    utils = pytest.importorskip("submitit.core.utils")
    error = utils.UncompletedJobError("Job 7 (task: 0) has not produced any output\nLook at stdout: FILE\nmore\n" * 9)
    line = "a process of the launcher has ended before its job was done (Job 7 (task: 0) has not produced any output)"
    assert one_line(error, "run", []) == line


@pytest.mark.parametrize("ranks", [[], ["launcher=torchrun", "launcher.np=2"]])
def test_the_agent_of_wandb_runs_our_command(tmp_path, ranks):
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    sweep = yaml.safe_load((ROOT / "examples" / "wandb_sweep.yaml").read_text())
    # What the agent is sent for one run: a value of each parameter.
    chosen = {
        name: {"value": spec["values"][0] if "values" in spec else spec["min"]}
        for name, spec in sweep["parameters"].items()
    }
    filled = utils.create_sweep_command_args({"args": chosen}) | {
        "env": ["/usr/bin/env"],
        "program": [sweep["program"]],
    }
    line = []
    for word in [*utils.create_sweep_command(sweep["command"]), *ranks]:  # as wandb.wandb_agent._command_run
        macro = re.fullmatch(r"\$\{(\w+)\}", word)
        line += filled[macro[1]] if macro else [word]
    assert line[:3] == ["/usr/bin/env", "python", "run.py"]
    quick = ["logger.mode=offline", "scenario=class2", f"output={tmp_path}", *QUICK]
    env = {**os.environ, "PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([*line, *quick], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.rglob("results.json")
    found = json.loads(path.read_text())
    assert sweep["metric"]["name"] in found and sweep["metric"]["goal"] == "maximize"
    for name, value in chosen.items():
        assert (
            OmegaConf.select(OmegaConf.create(found["config"]), "strategy.name" if name == "strategy" else name)
            == value["value"]
        )
    assert found["config"]["dataset"]["validation"] == 0.1 and found["world_size"] == (2 if ranks else 1)
    assert list(tmp_path.rglob("offline-run-*"))
