"""The moving average of the weights: its formula, where it begins, what is tested and saved, and what stays raw."""

import csv
import json

import pytest
import torch
from interrupted import interrupted
from outcomes import assert_same, outcome
from support import QUICK, run_killed
from torch import nn

from cl.configuration.identity import words
from cl.distributed.comm import Comm
from cl.run.experiment import equip, make_evaluator, run
from cl.run.folder import plain
from cl.run.plan import make_plan
from cl.run.session import Session
from cl.run.training import Training
from cl.step.average import AverageContext, Ema
from merging import run as merging

DECAY = 0.9
TWO = (*QUICK, "scenario=class2", "log_interval=1", "steps=12")
PICTURES = ("backbone=timm", "backbone.model=test_resnet", "batch_size=8", "dataset.augment=[flip]")


def averaged(start: torch.Tensor, seen: list[torch.Tensor]) -> torch.Tensor:
    """Equation 6: each weight by the power of the decay that its age gives it."""
    total = DECAY ** len(seen) * start.double()
    for age, value in enumerate(reversed(seen)):
        total += (1 - DECAY) * DECAY**age * value.double()
    return total


def copied(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture
def raw(monkeypatch):
    """The trained network after each step of a run, and the starts of its average."""
    weights, update, begin = [], Ema.update, Ema.begin
    starts: list[tuple[int, dict]] = []

    def watched(self):
        weights.append(copied(self.model))
        update(self)

    def started(self):
        starts.append((len(weights), copied(self.model)))
        begin(self)

    monkeypatch.setattr(Ema, "update", watched)
    monkeypatch.setattr(Ema, "begin", started)
    return weights, starts


def test_weights_and_statistics_are_averaged_and_counters_are_those_of_the_network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).train()
    average, start, seen = Ema(DECAY), copied(model), []
    average.setup(AverageContext(model, Comm(), False, None, None, None))
    for _ in range(7):
        model(torch.randn(5, 3)).square().sum().backward()
        with torch.no_grad():
            for weight in model.parameters():
                weight -= 0.1 * weight.grad
        average.update()
        seen.append(copied(model))
    for name, value in average.network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert value == 7
        else:
            assert torch.allclose(value.double(), averaged(start[name], [each[name] for each in seen]), atol=1e-6)


CONTINUED = {"finetune": (), "er": (), "independent": ("strategy.init=previous",)}
RESTARTED = {
    "scratch": (), "gdumb": (), "independent": ("strategy.init=independent",),
    "derpp": ("model_state=reset", "clip_norm=0.5", "gradient_accumulation_steps=2"),
}  # fmt: skip
KINDS = [(name, more, False) for name, more in CONTINUED.items()] + [
    (name, more, True) for name, more in RESTARTED.items()
]


@pytest.mark.parametrize("strategy, more, restarts", KINDS)
def test_the_average_is_saved_and_begins_where_a_stage_does(compose_config, raw, strategy, more, restarts):
    weights, starts = raw
    options = (*TWO, f"strategy={strategy}", "buffer.capacity=30", *more)
    folder = run(compose_config(*options, f"ema={DECAY}"))
    assert len(weights) == 24 and [place for place, _ in starts] == [0] + [12] * restarts
    for stage in range(2):
        place, start = starts[min(stage, len(starts) - 1)]
        saved = torch.load(folder / f"task_{stage:02d}.pt")["model"]
        for name, value in saved.items():
            seen = [each[name] for each in weights[place : 12 * (stage + 1)]]
            assert torch.allclose(value.double(), averaged(start[name], seen), atol=1e-6), name
            assert not torch.equal(value, seen[-1])


@pytest.mark.parametrize("strategy", ["er", "ewc", "lwf"])
def test_training_is_that_of_a_run_without_an_average(compose_config, strategy):
    options = (*TWO, f"strategy={strategy}", "buffer.capacity=30")
    folders = [run(compose_config(*options, *more)) for more in ((), ("ema=0.99",))]
    losses = [
        [row["loss"] for row in csv.DictReader((folder / "metrics.csv").read_text().splitlines())] for folder in folders
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 24
    rows = [json.loads((folder / "results.json").read_text())["accuracy_matrix"] for folder in folders]
    assert rows[0] != rows[1]


def test_what_is_tested_is_what_is_saved_and_merged(compose_config):
    folder = run(compose_config(*TWO, "strategy=er", "buffer.capacity=30", "ema=0.9"))
    options = (f"run={folder}", "baselines=[]", "fusion=avg", "running=true")
    merged = merging.run(compose_config(*TWO, *options, name="merge"))[-1]
    trained, content = (json.loads((each / "results.json").read_text()) for each in (folder, merged))
    assert content["model_accuracy_matrix"] == trained["accuracy_matrix"]
    network = sum(value.nbytes for value in torch.load(folder / "task_01.pt")["model"].values())
    assert trained["persistent"]["networks"] == 2 * network  # the one that is trained, and its average
    states = [torch.load(folder / f"task_{stage:02d}.pt")["model"] for stage in range(2)]
    for name, value in torch.load(merged / "task_01.pt")["model"].items():
        assert torch.allclose(value, (states[0][name] + states[1][name]) / 2, atol=1e-7)


def test_a_run_with_batch_norm_that_died_within_a_stage_ends_with_the_same_average(compose_config, tmp_path):
    options = ("strategy=er", "scenario=class2", "steps=6", "buffer.capacity=30", "progress=false", "pictures=[]")
    config = plain(compose_config(*PICTURES, *options, "ema=0.9"))
    expected = outcome(run(compose_config(*PICTURES, *options, "ema=0.9", f"output={tmp_path / 'whole'}")))
    assert any(name.endswith("running_var") for name in expected["task_01.pt"])
    assert_same(expected, outcome(interrupted(config | {"output": str(tmp_path / "died")})))


def test_a_run_killed_between_two_stages_goes_on_with_the_same_average(compose_config, tmp_path):
    options = (*TWO, "strategy=er", "buffer.capacity=30", "ema=0.99")
    straight, again = (compose_config(*options, f"output={tmp_path / name}") for name in ("whole", "again"))
    run_killed(again, 1)
    states = [torch.load(run(config) / "task_01.pt")["model"] for config in (straight, again)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_it_is_refused_where_something_else_than_the_network_is_tested(compose_config):
    with pytest.raises(ValueError, match="ema=0.9 tests the network with averaged weights, and strategy=icarl .*null"):
        make_plan(plain(compose_config("strategy=icarl", "scenario=class5", "ema=0.9")))
    for wrong in (0, 1, -0.5):
        with pytest.raises(ValueError, match="ema must be a number above 0 and below 1 or null"):
            plain(compose_config(f"ema={wrong}"))


def test_it_is_part_of_the_identity_and_of_the_state_only_where_it_is_asked_for(compose_config):
    with_it, without = (plain(compose_config("strategy=er", *more)) for more in (("ema=0.9",), ()))
    assert words(with_it) == words(without) | {"ema": 0.9}
    for config, asked in ((with_it, True), (without, False)):
        with Session(make_plan(config)) as session:
            tasks, _ = session.load_tasks()
            buffer, capacity = session.make_buffer(100)
            equip(session, buffer, capacity)
            tree = Training(session, tasks, buffer, make_evaluator(session, tasks)).tree
            assert ("average" in tree.shared, "statistics of the average" in tree.own) == (asked, asked)
