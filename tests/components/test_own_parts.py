"""Every worked example does what it says; the right value comes from a formula, a count, or numpy."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from support import QUICK

import remerge
from cl.buffers.base import Field
from cl.build import build
from cl.distributed.comm import Comm
from cl.networks import weights
from cl.reporting.reading import read_results
from cl.run import experiment
from cl.run.folder import plain
from cl.run.plan import make_plan
from cl.run.session import Session
from merging import run as merging

FIELDS = [Field("y", (), torch.int64), Field("number", (), torch.int64)]
SHORT = ("scenario=class2", "steps=1", *QUICK[1:])


@pytest.fixture
def buffer_of(own):
    def make(*words: str):
        config = plain(own("buffer=fifo", "trust=[my_policies]", "strategy=er", *words))
        make_plan(config)
        given = {"fields": FIELDS, "num_classes": 4, "seed": 0, "device": torch.device("cpu")}
        return build(config["buffer"], "buffer", **given, comm=Comm(), timeout=1.0)

    return make


def offer(buffer, numbers, label=0) -> None:
    numbers = torch.tensor(numbers)
    buffer.add({"y": torch.full_like(numbers, label), "number": numbers})


def drawn(buffer, n: int, field: str = "number") -> list[int]:
    buffer.request(n)
    return buffer.receive()[field].tolist()


def test_a_buffer_by_itself_takes_the_class_of_a_policy(own):
    own()
    policy = importlib.import_module("my_policies").Fifo
    buffer = remerge.ReplayBuffer(4, policy, kind="reference", every=2)
    for number in range(0, 30, 3):
        buffer.add(y=torch.zeros(3, dtype=torch.int64), number=torch.arange(number, number + 3))
    assert sorted(buffer.sample(4)["number"].tolist()) == [22, 24, 26, 28]
    with pytest.raises(ValueError, match="buffer.insertion=my_policies.Fifo is written in Python, and buffer=native"):
        remerge.ReplayBuffer(4, policy, every=2)


@pytest.mark.parametrize("every, batch", [(1, 5), (3, 5), (7, 4)])
def test_fifo_keeps_exactly_the_newest(buffer_of, every, batch, tmp_path):
    buffer = buffer_of("buffer.capacity=12", f"buffer.every={every}")
    for first in range(0, 200, batch):
        offer(buffer, range(first, first + batch))
        assert sorted(drawn(buffer, 12)) == list(range(0, first + batch, every))[-12:]
    buffer.save(tmp_path / "saved")
    other = buffer_of("buffer.capacity=12", f"buffer.every={every}")
    other.load(tmp_path / "saved")
    for each in (buffer, other):
        offer(each, range(200, 210))
    assert drawn(buffer, 6) == drawn(other, 6)


def test_rare_classes_are_replayed_first(buffer_of):
    buffer = buffer_of("buffer.capacity=100", "buffer.sampling=my_policies.RareFirst")
    for label, numbers in ((1, range(4)), (2, range(10, 46)), (3, range(50, 60))):
        offer(buffer, numbers, label)
    assert sorted(drawn(buffer, 4, "y")) == [1, 1, 1, 1]
    assert sorted(drawn(buffer, 6, "y")) == [1, 1, 1, 1, 3, 3]
    assert sorted(drawn(buffer, 20, "y")) == [1] * 4 + [2] * 6 + [3] * 10
    firsts = {tuple(sorted(drawn(buffer, 6))) for _ in range(50)}
    assert len(firsts) > 20  # of the 45 pairs within class 3


def test_the_brightest_column_of_a_picture_is_its_class(own):
    dataset = make_plan(
        plain(own("dataset=columns", "dataset.per_class=30", "scenario=class2", "trust=[my_data]"))
    ).dataset
    train, test = dataset.load(seed=0)
    assert (len(train), len(test)) == (240, 48)
    for split in (train, test):
        brightest = split.x.numpy()[:, 0].astype(int).sum(1).argmax(1)
        assert (brightest == split.y.numpy()).all() and np.bincount(brightest).tolist() == [len(split) // 8] * 8


def test_a_run_learns_the_columns(own):
    words = ("dataset=columns", "scenario=class2", "strategy=joint", "epochs=10", "trust=[my_data]")
    content = read_results(experiment.run(own(*words, *QUICK[2:])) / "results.json")
    assert content["average_accuracy"] > 0.95 and content["labelled_samples"] == 10 * 8 * 50


def test_the_pictures_of_each_task_are_darker(own):
    plan = make_plan(
        plain(own("scenario=dimming5", "scenario.num_tasks=3", "scenario.factor=0.5", "trust=[my_scenario]"))
    )
    train, test = plan.dataset.load(seed=0)
    tasks = plan.scenario.split(train, test, seed=0)
    assert len(tasks) == 3 and plan.scenario.num_outputs == 10 and plan.config["scenario"]["name"] == "dimming3"
    for task in range(3):
        for rows, split in ((tasks.training([task]), train), (tasks.testing(task, torch.device("cpu")), test)):
            assert (rows.x.numpy() == split.x.numpy() // 2**task).all() and torch.equal(rows.y, split.y)


def test_a_network_has_the_weights_of_its_formula_and_the_recipe_of_any_network(own):
    words = ("backbone=one_conv", "backbone.width=5", "trust=[my_network]", "strategy=finetune", "scenario=class2")
    folder = experiment.run(own(*words, "steps=1", *QUICK[2:]))
    state, _ = weights.read(folder / "task_01.pt")
    assert sum(value.numel() for value in state.values()) == (9 + 1) * 5 + (5 * 16 + 1) * 10
    config = read_results(folder / "results.json")["config"]
    assert (config["optimizer"]["name"], config["schedule"]["name"]) == ("sgd", "constant")


def test_a_step_of_sign_sgd_moves_each_weight_by_the_learning_rate(own):
    config = own("optimizer=sign_sgd", "optimizer.lr=0.125", "trust=[my_optimizer]", "strategy=finetune", *SHORT)
    folder = experiment.run(config)
    with Session(make_plan(plain(config))) as session:
        before = session.initial_weights()
    after, _ = weights.read(folder / "task_00.pt")
    moved = torch.cat([(after[name] - before[name].cpu()).abs().flatten() for name in after])
    assert set(torch.round(moved, decimals=5).tolist()) == {0.0, 0.125}
    assert (moved[moved > 0.1] - 0.125).abs().max() < 1e-6


def test_the_schedule_is_its_formula(own):
    schedule = build(plain(own("schedule=inverse_root", "trust=[my_schedule]"))["schedule"], "schedule")
    assert [schedule.factor(at) for at in (0.0, 0.5, 1.0)] == pytest.approx([1, 1 / 50.5**0.5, 0.1])


@pytest.mark.parametrize("pull", [0.0, 1.0])
def test_the_median_is_that_of_numpy_and_the_init_where_it_is_pulled_there(own, pull):
    words = ("fusion=median", f"fusion.pull={pull}", "trust=[my_fusion]", "baselines=[]", "scenario=class5", "steps=3")
    config = own(*words, *QUICK[1:], command="merge")
    *_, folder = merging.run(config)
    (first,) = Path(config.output).rglob("independent*/*/task_00.pt")
    networks = [weights.read(first.with_name(f"task_0{number}.pt"))[0] for number in range(5)]
    merged, _ = weights.read(folder / "task_04.pt")
    with Session(make_plan(merging.parts(plain(config))[2])) as session:
        init = session.initial_weights()
    for name, value in merged.items():
        expected = np.median([network[name].numpy() for network in networks], axis=0) if pull == 0 else init[name].cpu()
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-6, atol=1e-7)
