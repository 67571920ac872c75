"""Seeds trained together: each run is as by itself, and what cannot be trained so is trained one after the other."""

import json
import signal
from unittest import mock

import numpy as np
import pytest
import torch
from interrupted import Died, dying
from omegaconf import OmegaConf
from support import QUICK, command

from cl import signals
from cl.run import job, together
from cl.run.trainer import DivergedError, Trainer
from merging.command import merge

WORDS = (*QUICK, "scenario=class2", "buffer.capacity=30", "log_interval=7", "steps=20")
CONV = ("backbone=mlp", "backbone._target_=small_conv.network", "~backbone.hidden", "~backbone.bias", "~backbone.init")
# Of results.json: what is measured by a clock, and where it lies.
MEASURED = {
    "train_seconds", "eval_seconds", "samples_per_second", "replay_wait_seconds", "peak_memory_bytes", "stage_costs",
    "files", "checksum", "versions",
}  # fmt: skip
COLUMNS = ("stage", "epoch", "step", "learning_rate", "buffer_records")  # of metrics.csv, that are equal to the bit


class Both:
    """Calls of the suite for the seeds of one configuration, in a folder for each way."""

    def __init__(self, compose, folder):
        self.compose, self.folder, self.output = compose, folder, folder / "together"

    def __call__(self, *words: str, at_once: bool | None, seeds: int = 3) -> list:
        """The folders of the runs; `at_once` False: of single commands, None: of one that trains one by one."""
        output = self.folder / "separate" if at_once is False else self.output
        config = self.compose(*WORDS, *words, f"output={output}", f"seeds={seeds}")
        if at_once is False:
            each = [OmegaConf.merge(config, {"seed": seed, "seeds": 1}) for seed in range(seeds)]
            return [job.run_or_find(own, []) for own in each]
        with mock.patch.object(together, "run_together", wraps=together.run_together) as called:
            try:
                return job.run_or_find_each(config, [])
            finally:
                assert called.called is bool(at_once)


@pytest.fixture
def runs(compose_config, tmp_path) -> Both:
    return Both(compose_config, tmp_path)


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
    ["strategy=der", "optimizer=adam", "schedule=cosine", "buffer=reference"],
    ["strategy=derpp", "optimizer=rmsprop", "model_state=reset"],
    ["strategy=derpp", "scenario=task5", "steps=6", "strategy.folded=true", "strategy.beta=null"],
    # Tasks of other sizes for each seed: epochs end at different steps.
    ["strategy=er", "steps=null", "epochs=2", "scenario.class_order=random", "optimizer=adam", "optimizer.lr=0.01"],
    ["strategy=er", "optimizer.lr=0.05", *CONV, "trust=[small_conv]"],
], ids=["finetune", "er by task", "er task end", "der", "derpp", "derpp folded", "ragged", "conv"])  # fmt: skip
def test_each_run_is_as_by_itself(runs, words):
    for one, other in zip(runs(*words, at_once=True), runs(*words, at_once=False), strict=True):
        assert_alike(one, other)


def test_finished_seeds_are_found_and_the_others_trained(runs, compose_config):
    runs("strategy=er", at_once=True)
    output = runs.output
    before = {path: path.stat().st_mtime_ns for path in output.rglob("results.json")}
    config = compose_config(*WORDS, "strategy=er", f"output={output}", "seeds=5")
    folders = job.run_or_find_each(config, [])
    assert [folder.name for folder in folders] == [f"seed{seed}" for seed in range(5)]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert all((folder / "results.json").is_file() for folder in folders)


def test_runs_that_were_stopped_anywhere_go_on(runs, compose_config):
    """One by itself within the first task, the others together within the second."""
    words = ("strategy=derpp", "optimizer=adam", "checkpoint.every=3")
    output = runs.output
    config = compose_config(*WORDS, *words, f"output={output}", "seeds=3")
    with dying(lambda stage, step: (stage, step) == (0, 8)), pytest.raises(Died):
        job.run_or_find(OmegaConf.merge(config, {"seed": 1, "seeds": 1}), [])
    with dying(lambda stage, step: (stage, step) == (1, 8)), pytest.raises(Died):
        job.run_or_find_each(config, [])
    at = {file.parent.name: torch.load(file)["step"] for file in sorted(output.rglob("resume_01_*.pt"))}
    assert at == {"seed0": 6, "seed1": 6, "seed2": 6}
    for one, other in zip(runs(*words, at_once=True), runs(*words, at_once=False), strict=True):
        assert_alike(one, other)


def test_a_signal_saves_all_of_them(runs, compose_config):
    output = runs.output
    config = compose_config(*WORDS, "strategy=er", f"output={output}", "seeds=3")

    def ask(step: int, loss: torch.Tensor) -> None:
        if step == 5:
            signals._take(signal.SIGTERM, None)

    start = Trainer.start

    def started(self, *arguments):
        start(self, *arguments)
        self.on_step = ask if self.seed == 1 else None

    with mock.patch.object(Trainer, "start", started), signals.listening(), pytest.raises(signals.Stopped):
        job.run_or_find_each(config, [])
    saved = {file.parent.name: torch.load(file)["step"] for file in output.rglob("resume_*.pt")}
    assert saved.keys() == {"seed0", "seed1", "seed2"} and set(saved.values()) <= {5, 6}
    with signals.listening():
        resumed, whole = runs("strategy=er", at_once=True), runs("strategy=er", at_once=False)
    for one, other in zip(resumed, whole, strict=True):
        assert_alike(one, other)


def test_one_that_fails_does_not_stop_the_others(runs):
    def poisoned(self, stage, epoch, samples, log=Trainer._log):
        if self.seed == 1 and stage == 1:
            raise DivergedError("the loss is nan")
        return log(self, stage, epoch, samples)

    with mock.patch.object(Trainer, "_log", poisoned), pytest.raises(job.SeedsFailed) as failed:
        runs("strategy=er", at_once=True)
    assert str(failed.value) == "1 of 3 seeds failed: seed 1: the loss is nan"
    separate = runs("strategy=er", at_once=False)
    assert [folder.name for folder in failed.value.folders] == ["seed0", "seed2"]
    for one, other in zip(failed.value.folders, [separate[0], separate[2]], strict=True):
        assert_alike(one, other)


@pytest.mark.parametrize("words, reason", [
    (["strategy=ewc"], "strategy=ewc has no step for several networks"),
    (["strategy=er_ace"], "strategy=er_ace has no step for several networks"),
    (["precision=bf16"], "precision=bf16 is for one network at a time"),
    (["clip_norm=1"], "clip_norm=1.0 is for one network at a time"),
    (["gradient_accumulation_steps=2"], "gradient_accumulation_steps=2 is for one network at a time"),
    (["ema=0.9"], "average=ema is for one network at a time"),
    (["optimizer_state=epoch"], "optimizer_state=epoch is for one network at a time"),
    (["dataset.augment=[crop]"], "augmentation draws random numbers"),
    (["strategy=er", "mixing.mixup=1"], "augmentation draws random numbers"),
    (["logger=wandb"], "logger=wandb follows one run at a time"),
    (["backbone.freeze=true"], "backbone.freeze and backbone.lora train a part of the network"),
    ([*CONV, "+backbone.dropout=0.5", "trust=[small_conv]"], "backbone=mlp draws random numbers in training"),
    (["backbone=timm", "backbone.model=test_resnet"], "backbone=test_resnet has statistics, such as those of"),
], ids=lambda value: value[-1] if isinstance(value, list) else None)  # fmt: skip
def test_what_is_trained_one_after_the_other(compose_config, words, reason):
    other_network = any(word.startswith("backbone=") for word in words)
    small = [word for word in WORDS if not (other_network and word.startswith("backbone."))]
    assert together.why_not(compose_config(*small, *words)).startswith(reason)


def test_an_optimizer_that_is_not_known_trains_one_network(compose_config, monkeypatch):
    monkeypatch.setattr(together, "OPTIMIZERS", (torch.optim.Adam,))
    assert together.why_not(compose_config(*WORDS)).startswith("optimizer=sgd may treat the weights of several")


def test_it_is_said_why_they_are_trained_one_after_the_other(runs, capsys):
    folders = runs("strategy=agem", at_once=None, seeds=2)
    assert [folder.name for folder in folders] == ["seed0", "seed1"]
    line = "seeds=2 are trained one after the other: strategy=agem has no step for several networks"
    assert line in capsys.readouterr().out.splitlines()


def test_ranks_have_one_run(compose_config, monkeypatch):
    monkeypatch.setattr(job.ranks, "started", lambda: (0, 0, 2))
    with pytest.raises(ValueError, match="^seeds=3 are several runs, and these are ranks of one: "):
        job.run_or_find_each(compose_config(*WORDS, "seeds=3"), [])


def test_a_sweep_has_all_seeds_of_each_method_in_one_job(tmp_path):
    done = command(*WORDS, "strategy=er,agem", "seeds=2", f"output={tmp_path}", "-m")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "seeds=2 are trained one after the other: strategy=agem has no step for several networks" in lines
    assert [line.split()[:2] for line in lines if line.startswith("run ")] == [["run", "1/2"], ["run", "2/2"]]
    rows = [line.split()[:2] for line in lines if line.startswith(("er  ", "agem  "))]
    assert sorted(rows) == [["agem", "2"], ["er", "2"]], done.stdout
    assert {path.parent.name for path in tmp_path.rglob("results.json")} == {"seed0", "seed1"}


def test_merging_has_one_seed(compose_config):
    with pytest.raises(ValueError, match="^seeds=2 is for run.py: a sweep merges several seeds, -m seed=0,1,2$"):
        merge(compose_config("seeds=2", name="merge"))
