"""Seeds trained together: each run is as by itself, and what cannot be trained so is trained one after the other."""

import json
import signal
from unittest import mock

import numpy as np
import pytest
import torch
from interrupted import Died, dying
from omegaconf import OmegaConf
from support import QUICK

from cl import signals
from cl.run import job, together
from cl.run.trainer import DivergedError, Trainer

WORDS = (*QUICK, "scenario=class2", "buffer.capacity=30", "log_interval=7", "steps=20")
CONV = ("backbone=mlp", "backbone._target_=small_conv.network", "~backbone.hidden", "~backbone.bias", "~backbone.init")
# Of results.json: what is measured by a clock, and where it lies.
MEASURED = {
    "train_seconds", "eval_seconds", "samples_per_second", "replay_wait_seconds", "peak_memory_bytes", "stage_costs",
    "files", "checksum", "versions",
}  # fmt: skip
COLUMNS = ("stage", "epoch", "step", "learning_rate", "buffer_records")  # of metrics.csv, that are equal to the bit


@pytest.fixture
def runs(compose_config, tmp_path):
    """A function from words to the folders of three seeds, trained together or one by one."""

    def make(*words: str, at_once: bool, seeds: int = 3) -> list:
        output = tmp_path / ("together" if at_once else "separate")
        config = compose_config(*WORDS, *words, f"output={output}", f"seeds={seeds}")
        with mock.patch.object(together, "run_together", wraps=together.run_together) as called:
            if at_once:
                folders = job.run_or_find_each(config, [])
            else:
                each = [OmegaConf.merge(config, {"seed": seed, "seeds": 1}) for seed in range(seeds)]
                folders = [job.run_or_find(own, []) for own in each]
        assert called.called is at_once
        return folders

    return make


def results_of(folder) -> dict:
    return json.loads((folder / "results.json").read_text())


def assert_alike(one, other) -> None:
    """Two runs in two outputs: the same files, numbers equal within rounding, and all that is counted equal."""
    assert one.parts[-3:] == other.parts[-3:]
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in other.iterdir())
    first, second = results_of(one), results_of(other)
    assert first.keys() == second.keys()
    for name in first.keys() - MEASURED - {"config"}:
        if isinstance(first[name], float) or name.endswith("matrix"):
            np.testing.assert_allclose(first[name], second[name], atol=0.02, err_msg=name)
        else:
            assert first[name] == second[name] or name in ("untrained", "evaluations"), name
    assert first["config"] | {"output": ""} == second["config"] | {"output": ""}
    for path in one.glob("task_*.pt"):
        mine, theirs = (torch.load(folder / path.name)["model"] for folder in (one, other))
        for name, weight in mine.items():
            torch.testing.assert_close(weight, theirs[name], rtol=1e-3, atol=1e-4)
        assert path.stat().st_size == (other / path.name).stat().st_size
    rows = [np.genfromtxt(folder / "metrics.csv", delimiter=",", names=True) for folder in (one, other)]
    for name in COLUMNS:
        np.testing.assert_array_equal(rows[0][name], rows[1][name])
    np.testing.assert_allclose(rows[0]["loss"], rows[1]["loss"], rtol=1e-3)


@pytest.mark.parametrize("words", [
    ["strategy=finetune", "optimizer.momentum=0.9", "optimizer_state=reset"],
    ["strategy=er", "strategy.weighting=by_task", "optimizer.momentum=0.9"],
    ["strategy=er", "strategy.filling=task_end", "eval_every=8"],
    ["strategy=der", "optimizer=adam", "schedule=cosine"],
    ["strategy=derpp", "optimizer=rmsprop", "model_state=reset"],
    ["strategy=derpp", "scenario=task5", "steps=6", "strategy.folded=true", "strategy.beta=null"],
    # Tasks of other sizes for each seed: epochs end at different steps.
    ["strategy=er", "steps=null", "epochs=2", "scenario.class_order=random", "optimizer=adam", "optimizer.lr=0.01"],
    ["strategy=er", "optimizer.lr=0.05", *CONV, "trust=[small_conv]"],
], ids=["finetune", "er by task", "er task end", "der", "derpp", "derpp folded", "ragged", "conv"])  # fmt: skip
def test_each_run_is_as_by_itself(runs, words):
    for one, other in zip(runs(*words, at_once=True), runs(*words, at_once=False), strict=True):
        assert_alike(one, other)


def test_finished_seeds_are_found_and_the_others_trained(runs, capsys):
    (first,) = runs("strategy=er", at_once=False, seeds=1)
    when = (first / "results.json").stat().st_mtime_ns
