"""Runs of strategies that take no gradient steps: one pass over the samples, whatever the options of training say."""

import csv
import json

import pytest
import torch

from cl.run import experiment
from cl.run.folder import plain
from cl.run.plan import make_plan

WORDS = ("scenario=class2", "batch_size=300", "log_interval=2", "backbone.hidden=[8]", "progress=false", "pictures=[]")
TRAINING = (
    "epochs=[3,2]",
    "steps=7",
    "optimizer=adam",
    "optimizer_state=epoch",
    "schedule=cosine",
    "lr_scaling=linear",
)


def test_options_of_training_change_nothing_and_the_run_says_so(compose_config, capsys):
    found = []
    for options in ((), TRAINING):
        folder = experiment.run(compose_config(*WORDS, "strategy=ncm", *options))
        found.append((folder, json.loads((folder / "results.json").read_text())))
    (folder, plainly), (other, trained) = found
    assert folder != other and plainly["accuracy_matrix"] == trained["accuracy_matrix"]
    assert plainly["average_accuracy"] > 0.4  # of random weights
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("strategy=ncm sees each sample once and takes no gradient steps: epochs, steps, optimizer") == 2
    assert " loss " not in said
    for folder, content in found:
        assert content["gradient_steps"] == content["backward_passes"] == content["optimizer_bytes"] == 0
        assert [stage["gradient_steps"] for stage in content["stage_costs"]] == [0, 0]
        assert content["forward_passes"] == content["labelled_samples"] == 1442
        rows = list(csv.DictReader((folder / "metrics.csv").open()))
        assert [(row["stage"], row["epoch"], row["step"]) for row in rows] == [
            ("0", "0", "2"), ("0", "0", "3"), ("1", "0", "5"), ("1", "0", "6"),
        ]  # fmt: skip
        assert {float(row[key]) for row in rows for key in ("loss", "learning_rate")} == {0.0}
        first, last = (torch.load(folder / f"task_0{stage}.pt")["model"] for stage in (0, 1))
        assert all(torch.equal(first[name], last[name]) for name in first)


@pytest.mark.parametrize("word, why", [
    ("scenario.concatenate=true", "strategy=ncm keeps what it has learned .* scenario.concatenate=false"),
    ("ema=0.9", "strategy=ncm tests something else than its network"),
    ("mixing.mixup=0.5", "strategy=ncm .* has others"),
])  # fmt: skip
def test_what_would_make_no_sense_is_refused(compose_config, word, why):
    with pytest.raises(ValueError, match=why):
        make_plan(plain(compose_config("strategy=ncm", word)))


def test_a_projection_that_is_trained_along_is_kept_by_the_tasks(compose_config):
    with pytest.raises(ValueError, match="strategy=scr starts each task from weights of the tasks before, and model_s"):
        make_plan(plain(compose_config("strategy=scr", "model_state=reset")))
