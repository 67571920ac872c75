"""A merge that is interrupted goes on after the last curve or network that it has trained, with the same results."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support import QUICK

from cl.run.folder import run_folder
from cl.run.saving import Saver
from cl.run.trainer import Trainer
from merging import run
from merging.context import MergeContext
from merging.curve import landscape

WORDS = (
    *QUICK, "scenario=class5", "baselines=[]", "fusion=curve", "fusion.epochs=0.3", "fusion.samples_per_task=20",
    "fusion.points=3", "fusion.plane=2", "log_interval=1", "optimizer.momentum=0.9",
)  # fmt: skip
TUNED = ("running=true", "finetune_samples=20", "fusion.at=best")
SECONDS = ("seconds", "per_second", "peak_memory", "versions", "config", "checksum", "files")


@pytest.fixture
def config_of(compose_config, tmp_path):
    def make(where: str, *options):
        return compose_config(*WORDS, *options, f"output={tmp_path / where}", name="merge")

    return make


@pytest.fixture
def trainings(monkeypatch):
    """The numbers of the trainings of a merge; `stop_at` one of them raises before it begins."""
    calls, train = {"made": [], "stop_at": None}, Trainer.train

    def watched(self, samples, stage, steps):
        if stage >= 1000:
            if stage - 1000 == calls["stop_at"]:
                raise KeyboardInterrupt
            calls["made"].append(stage - 1000)
        return train(self, samples, stage, steps)

    monkeypatch.setattr(Trainer, "train", watched)
    return calls


def results_of(config) -> tuple[dict, Path]:
    folder = run.run(config)[-1]
    return json.loads((folder / "results.json").read_text()), folder


def same(one: dict, other: dict) -> None:
    for key in one.keys() | other.keys():
        if not any(word in key for word in SECONDS):
            assert one[key] == other[key], key


def interrupted(config) -> Path:
    with pytest.raises(KeyboardInterrupt):
        run.run(config)
    (file, *_) = sorted(Path(config.output).rglob("trained_*.pt"))
    return file


@pytest.mark.parametrize("options, count", [((), 4), (TUNED, 9), (("sequential=true",), 10)])
@pytest.mark.parametrize("at", [2, None])
def test_it_ends_with_the_results_of_one_that_was_not(config_of, monkeypatch, trainings, options, count, at):
    """`at`: the training before which it is stopped; None: while the last curve is measured, and no other is."""

    def stop(*_):
        raise KeyboardInterrupt

    expected, whole = results_of(config_of("whole", *options))
    assert trainings["made"] == list(range(count))
    trainings["made"].clear()
    config = config_of("stopped", *options)
    with monkeypatch.context() as patch:
        if at is None:
            patch.setattr(landscape, "plane", stop)
        trainings["stop_at"] = at
        interrupted(config)
        trainings["stop_at"] = None
    before = list(trainings["made"])
    assert before == list(range(count if at is None else at))
    found, folder = results_of(config)
    assert trainings["made"] == list(range(count))  # each was made once
    same(found, expected)
    assert not list(folder.glob("trained_*"))
    lines = [(place / "metrics.csv").read_text().splitlines() for place in (folder, whole)]
    assert [[row.split(",")[:4] for row in each] for each in lines][0] == [row.split(",")[:4] for row in lines[1]]
    for file in whole.glob("task_*.pt"):
        one, other = torch.load(file)["model"], torch.load(folder / file.name)["model"]
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_curves_at_the_start_of_tasks_are_not_trained_again_either(config_of, trainings):
    options = ("strategy.init=merged", "running=true", "finetune_samples=20")
    expected, _ = results_of(config_of("whole", *options))
    config, made = config_of("stopped", *options), len(trainings["made"])
    trainings["made"].clear()
    trainings["stop_at"] = 1  # fine-tuning of the second start, after its curve
    interrupted(config)
    trainings["stop_at"] = None
    found, _ = results_of(config)
    same(found, expected)
    assert len(trainings["made"]) == made and not list(Path(config.output).rglob("trained_*"))


def test_what_is_damaged_or_of_other_networks_is_an_error_and_overwriting_begins_again(config_of, trainings):
    config = config_of("stopped")
    trainings["stop_at"] = 1
    file = interrupted(config)
    whole, content = file.read_bytes(), torch.load(file)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"{file} is damaged .*: remove it"):
        run.run(config)
    for wrong, words in (
        (content | {"networks": "0" * 64}, "is of other networks than those that are merged now: remove it"),
        ({"networks": content["networks"]}, "was written by another version of remerge: remove it"),
    ):
        torch.save(wrong, file)
        with pytest.raises(ValueError, match=words):
            run.run(config)
    trainings["made"].clear()
    trainings["stop_at"] = None
    results_of(config_of("stopped", "overwrite=true"))
    assert trainings["made"] == [0, 1, 2, 3] and not file.exists()


@pytest.mark.parametrize("options, at", [((), 2), (TUNED, 5)])
def test_it_goes_on_within_a_training(config_of, monkeypatch, trainings, options, at):
    class Died(Exception):
        pass

    within = Saver.within

    def doomed(self, stage, steps, name):
        after_step = within(self, stage, steps, name)

        def die(step: int) -> None:
            after_step(step)
            if name == f"training {at + 1} of the merge" and step == 2:
                raise Died

        return die

    expected, whole = results_of(config_of("whole", *options))
    config = config_of("stopped", *options, "checkpoint.every=1")
    with monkeypatch.context() as patch:
        patch.setattr(Saver, "within", doomed)
        with pytest.raises(Died):
            run.run(config)
    assert "resume_00_000002.pt" in {file.name for file in Path(config.output).rglob("resume_*.pt")}
    trainings["made"].clear()
    found, folder = results_of(config)
    assert trainings["made"][0] == at
    same(expected, found)
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in whole.iterdir())
    for file in whole.glob("*.pt"):
        theirs, ours = (torch.load(place / file.name)["model"] for place in (folder, whole))
        assert all(torch.equal(theirs[name], value) for name, value in ours.items())


def test_a_merge_that_is_overwritten_has_no_results_until_it_is_finished(compose_config, monkeypatch):
    words = (*QUICK, "scenario=class2", "steps=2", "baselines=[]")
    folder = run.run(compose_config(*words, name="merge"))[-1]
    assert (folder / "results.json").is_file()

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run.checkpoint, "save_task", stop)
    monkeypatch.setattr(run, "train", lambda base, *_: run_folder(base))
    with pytest.raises(KeyboardInterrupt):
        run.run(compose_config(*words, "overwrite=true", name="merge"))
    assert not (folder / "results.json").exists() and not list(folder.glob("task_*.pt"))


def test_a_merge_of_an_earlier_version_that_was_interrupted_is_named(tmp_path):
    context = SimpleNamespace(folder=tmp_path, optimizer_bytes=0)
    with pytest.raises(ValueError, match="written by another version of remerge: overwrite=true merges again"):
        MergeContext.load_state_dict(context, {"optimizer_bytes": 3})
