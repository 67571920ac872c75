"""Tests within tasks: when, of which samples, and that training, resume and its time are as without."""

import copy
import csv
import itertools
import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from interrupted import interrupted
from outcomes import assert_same, outcome
from PIL import Image
from support import QUICK

from cl.configuration.identity import words
from cl.reporting import metrics
from cl.reporting.loggers import told
from cl.reporting.loggers.base import Logger
from cl.reporting.loggers.several import Loggers
from cl.run.anytime import Anytime
from cl.run.evaluator import Evaluator
from cl.run.experiment import run
from cl.run.folder import plain
from cl.run.plan import make_plan
from cl.run.trainer import Trainer

TWO = (*QUICK, "scenario=class2", "log_interval=3", "steps=10", "buffer.capacity=30")
PICTURES = ("backbone=timm", "backbone.model=test_resnet", "batch_size=8", "dataset.augment=[flip]", "optimizer=sgd")
ADDED = ("anytime_accuracy", "evaluations", "group", "identity")


def results_of(folder) -> dict:
    return json.loads((folder / "results.json").read_text())


def rows_of(folder) -> list[list[float]]:
    with open(folder / "anytime.csv") as file:
        return [[float(value) for value in row.values()] for row in csv.DictReader(file)]


@pytest.mark.parametrize("every, before, steps, expected", [
    (4, 0, 10, [4, 8, 12]),
    (4, 10, 10, [2, 6, 10]),  # steps 12, 16, 20 of the run
    (100, 30, 10, [70]),
    (0.25, 0, 10, [3, 5, 8, 10]),
    (0.25, 17, 10, [3, 5, 8, 10]),  # of each stage
    (0.1, 0, 100, [*range(10, 101, 10)]),
    (0.3, 0, 2, [1, 2]),  # at most after each step
])  # fmt: skip
def test_when_the_network_is_tested(every, before, steps, expected):
    anytime, step, found = Anytime(every, None, [], None, None, None, None, False), 0, []
    while step < steps:
        step = anytime.next(SimpleNamespace(step=step, steps_done=before + step), steps)
        found.append(step)
    assert found == expected


def test_the_area_under_the_curve_by_hand():
    # 0.2 for 10 steps, 0.6 for 5, 0.9 for 15
    assert metrics.anytime_accuracy([[10, 0.2], [15, 0.6], [30, 0.9]], []) == pytest.approx((2 + 3 + 13.5) / 30)
    assert metrics.anytime_accuracy([[5, 0.1], [10, 0.3], [15, 0.8]], []) == pytest.approx(0.4)  # the mean
    found = metrics.measures(metrics.ERROR_METRICS, [[0.1]], None, [[0.1]], [0.5], [[10, 0.2], [30, 0.5]])
    assert found["anytime_error"] == pytest.approx((2 + 10) / 30)


@pytest.fixture
def seen(monkeypatch):
    """A copy of the network at each pause, with the number of steps, and what pauses."""
    found, pause = [], Trainer._pause

    def watched(self, stage):
        found.append((stage, self.steps_done, copy.deepcopy(self.strategy.model).eval(), self.pauses))
        pause(self, stage)

    monkeypatch.setattr(Trainer, "_pause", watched)
    return found


def right(network, pauses, task: int) -> torch.Tensor:
    """Whether each test sample of a task is classified right, with its label."""
    rows = pauses.evaluator.tasks.testing(task, torch.device("cpu"))
    with torch.no_grad():
        return network(pauses.evaluator.transform.test(rows.x)).argmax(1) == rows.y, rows.y


def test_the_mean_over_the_tasks_so_far_in_class_incremental(compose_config, seen):
    folder = run(compose_config(*TWO, "strategy=er", "eval_every=4"))
    content = results_of(folder)
    expected = [
        [stage, steps, np.mean([right(network, pauses, task)[0].float().mean() for task in range(stage + 1)])]
        for stage, steps, network, pauses in seen
    ]
    expected.insert(2, [0, 10, content["accuracy_so_far"][0]])
    expected.append([1, 20, content["accuracy_so_far"][1]])
    assert [row[:2] for row in expected] == [[0, 4], [0, 8], [0, 10], [1, 12], [1, 16], [1, 20]]
    assert np.allclose(rows_of(folder), expected, atol=1e-6)
    assert content["evaluations"] == [[row[1], pytest.approx(row[2])] for row in expected]
    assert content["anytime_accuracy"] == pytest.approx(np.dot([4, 4, 2, 2, 4, 4], np.array(expected)[:, 2]) / 20)


def test_the_task_aware_accuracy_where_tasks_are_known(compose_config):
    content = results_of(run(compose_config(*TWO, "scenario=task5", "strategy=finetune", "eval_every=10")))
    known = [np.mean(row[: task + 1]) for task, row in enumerate(content["task_accuracy_matrix"])]
    assert [value for _, value in content["evaluations"]] == pytest.approx(known)


def test_all_samples_of_the_classes_so_far_in_a_stream(compose_config, seen):
    options = ("scenario=blurry5", "scenario.num_tasks=2", "scenario.spread=0.02", "steps=6", "eval_every=0.5")
    folder = run(compose_config(*TWO, *options, "strategy=finetune"))
    ((stage, steps, network, pauses), _) = seen
    classes = set(pauses.evaluator.tasks.train_parts[0].labels.tolist())
    assert set(range(5)) < classes < set(range(10))  # those of the first task, and blurry ones of the second
    found = [torch.cat(parts) for parts in zip(*(right(network, pauses, task) for task in range(2)))]
    counted = torch.tensor([label in classes for label in found[1].tolist()])
    assert (stage, steps) == (0, 3)
    assert rows_of(folder)[0] == pytest.approx([0, 3, found[0][counted].float().mean().item()], abs=1e-6)


def test_columns_of_streams(compose_config):
    content = results_of(run(compose_config(*QUICK, "scenario=repetition20", "strategy=finetune")))
    assert {content[key] for key in metrics.OF_TASKS} == {None} and content["task_accuracy_matrix"] is None
    assert all(len(set(row)) == 1 and len(row) == 20 for row in content["accuracy_matrix"])
    assert content["accuracy_so_far"] == pytest.approx([row[0] for row in content["accuracy_matrix"]])
    assert content["task_classes"] is None and "anytime_accuracy" not in content
    content = results_of(run(compose_config(*QUICK, "scenario=gaussian10", "strategy=finetune")))
    assert None not in {content[key] for key in metrics.OF_TASKS} and content["one_pass"]


@pytest.mark.parametrize("more", [
    ("strategy=derpp", "ema=0.9"),
    ("strategy=er", "gradient_accumulation_steps=2", "optimizer_state=epoch", "steps=12"),
], ids="-".join)  # fmt: skip
def test_training_is_that_of_a_run_without(compose_config, more):
    """With batch-norm, whose statistics and modes a test could change, and flips drawn from a generator."""
    base = (*PICTURES, "scenario=class2", "steps=6", "progress=false", "pictures=[]", "log_interval=1", *more)
    options = (*base, "buffer.capacity=30", "dataset.validation=0.8")
    without, tested = (outcome(run(compose_config(*options, *extra))) for extra in ((), ("eval_every=3",)))
    assert tested["results"]["evaluations"] and tested["files"].count("anytime.csv") == 1
    tested["files"].remove("anytime.csv")
    for found in (without, tested):
        for key in ADDED:
            found["results"].pop(key, None)
    assert_same(without, tested)


def test_streamed_pictures_go_on_where_the_test_has_interrupted_them(compose_config, tmp_path):
    random = np.random.default_rng(0)
    for part, name, number in itertools.product(("train", "test"), "abcd", range(12)):
        folder = tmp_path / "data" / part / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    data = ("dataset=image_folder", f"dataset.root={tmp_path / 'data'}", "dataset.stream=true", "loader.workers=0")
    options = (*data, *QUICK, "scenario=class2", "strategy=finetune", "batch_size=4", "log_interval=1")
    losses = [
        outcome(run(compose_config(*options, *more, f"output={tmp_path / name}")))["rows"]
        for name, more in (("without", ()), ("tested", ("eval_every=1",)))
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 12


STREAM = ("scenario=gaussian10", "steps=null", "epochs=1")


@pytest.mark.parametrize("more", [(), STREAM, ("scenario=blurry5", "strategy=er_ace")], ids=["class", "stream", "ace"])
def test_a_run_that_died_within_a_stage_has_the_same_rows(compose_config, tmp_path, more):
    options = (*TWO, "strategy=er", "eval_every=2", *more)
    whole = run(compose_config(*options, f"output={tmp_path / 'whole'}"))
    again = interrupted(plain(compose_config(*options, f"output={tmp_path / 'died'}")))
    assert_same(outcome(whole), outcome(again))
    assert (whole / "anytime.csv").read_bytes() == (again / "anytime.csv").read_bytes()


def test_its_time_is_no_time_of_training(compose_config, monkeypatch):
    call = Evaluator.__call__
    monkeypatch.setattr(Evaluator, "__call__", lambda self, *rest: time.sleep(0.05) or call(self, *rest))
    folder = run(compose_config(*TWO, "strategy=finetune", "eval_every=1", "log_interval=10"))
    content = results_of(folder)
    assert content["eval_seconds"] > 20 * 0.05 > 10 * 0.05 > content["train_seconds"]
    with open(folder / "metrics.csv") as file:
        assert all(float(row["samples_per_second"]) > 100 / (10 * 0.05) for row in csv.DictReader(file))


class Told(Logger):
    """Notes what it is told of tests within tasks."""

    def __init__(self):
        self.found = []

    def log_training(self, step, values):
        self.found += [(step, name, value) for name, value in values.items() if name.startswith("anytime/")]


def test_loggers_are_told_at_once_and_of_a_finished_run(compose_config, monkeypatch):
    live, later, tell = Told(), Told(), Loggers.log_training
    monkeypatch.setattr(Loggers, "log_training", lambda self, *rest: tell(self, *rest) or live.log_training(*rest))
    folder = run(compose_config(*TWO, "strategy=finetune", "eval_every=0.5", "pictures=[png]"))
    told.replay(later, folder, results_of(folder))
    assert [row[:2] for row in live.found] == [(step, "anytime/accuracy") for step in (5, 10, 15, 20)]
    assert later.found == [(step, name, pytest.approx(value, abs=1e-6)) for step, name, value in live.found]
    assert (folder / "anytime_accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_tested_within_tasks_is_refused(compose_config):
    with pytest.raises(ValueError, match="eval_every=10 tests within tasks, and strategy=icarl has what it tests"):
        make_plan(plain(compose_config("strategy=icarl", "eval_every=10")))
    for strategy in ("scr", "lucir", "wa", "bic"):
        with pytest.raises(ValueError, match=f"eval_every=10 tests within tasks, and strategy={strategy} has what"):
            make_plan(plain(compose_config(f"strategy={strategy}", "eval_every=10")))
    make_plan(plain(compose_config("strategy=cls_er", "strategy.replay_from=2", "eval_every=10")))
    for wrong in (0, 1.5, -0.1):
        with pytest.raises(ValueError, match="eval_every must be"):
            plain(compose_config(f"eval_every={wrong}"))
    with pytest.raises(
        ValueError, match="eval_every=10 tests within tasks, and average=swa has no network of the task"
    ):
        run(compose_config(*TWO, "strategy=er", "average=swa", "eval_every=10"))


def test_it_is_part_of_the_identity_where_it_is_asked_for(compose_config):
    base, tested, once = (
        words(plain(compose_config(*more))) for more in ((), ("eval_every=0.1",), ("one_pass=true", "epochs=1"))
    )
    assert tested == base | {"eval_every": 0.1} and once == base | {"epochs": 1}
