"""Epochs that are no whole numbers: steps, samples and rows of metrics.csv, counted by hand."""

import csv
import json
from collections import Counter

import pytest
from support import QUICK

from cl.configuration.identity import words
from cl.run.experiment import run
from cl.run.folder import plain
from merging import run as merging

# Two tasks of 723 and 719 digits in batches of 10: epochs of 73 and 72 steps.
TWO = (*QUICK, "scenario=class2", "log_interval=1")


@pytest.fixture
def trained(compose_config):
    def make(*options):
        folder = run(compose_config("strategy=finetune", *TWO, *options))
        with open(folder / "metrics.csv") as file:
            return json.loads((folder / "results.json").read_text()), list(csv.DictReader(file))

    return make


def test_the_last_epoch_may_be_a_part_of_one(trained):
    content, rows = trained("epochs=2.5")  # 182.5 steps are 182, and 180
    assert content["gradient_steps"] == 182 + 180
    assert content["labelled_samples"] == 2 * 723 + 36 * 10 + 2 * 719 + 36 * 10
    epochs = Counter((row["stage"], row["epoch"]) for row in rows)
    assert epochs == {
        ("0", "0"): 73, ("0", "1"): 73, ("0", "2"): 36, ("1", "0"): 72, ("1", "1"): 72, ("1", "2"): 36,
    }  # fmt: skip


def test_each_task_has_a_number_of_its_own_and_a_step_at_least(trained):
    content, rows = trained("epochs=[0.001,0.5]", "optimizer_state=epoch")
    assert content["gradient_steps"] == 1 + 36 and {row["epoch"] for row in rows} == {"0"}


def test_the_schedule_ends_with_the_last_step(trained):
    _, rows = trained("epochs=1.5", "schedule=cosine", "optimizer.lr=1")
    rates = [float(row["learning_rate"]) for row in rows if row["stage"] == "1"]
    assert len(rates) == 108 and rates[53] > 0.5 > rates[54] and 0 < rates[-1] < 1e-3


@pytest.mark.parametrize("key", ["epochs", "finetune_epochs", "fusion.epochs"])
def test_whole_numbers_are_one_run_in_every_spelling(compose_config, key):
    def identity(value):
        return words(plain(compose_config("fusion=curve", f"{key}={value}", name="merge")))

    assert identity("2") == identity("2.0") == identity("'2'") != identity("2.5")
    assert identity("2.5")[key] == 2.5


def test_curves_and_merged_networks_are_trained_for_parts_of_epochs(compose_config):
    options = ("fusion=curve", "fusion.epochs=0.5", "fusion.points=0", "fusion.plane=0", "baselines=[]")
    tuned = ("finetune_samples=60", "finetune_epochs=2.5")
    folder = merging.run(compose_config(*TWO, *options, *tuned, name="merge"))[-1]
    content = json.loads((folder / "results.json").read_text())
    assert content["merge_gradient_steps"] == 72 + 15  # half of 145, and two and a half of 6
    assert content["merge_labelled_samples"] == 720 + 150
