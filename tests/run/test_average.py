"""Averages of the weights: their formulas, what is tested and saved, where training goes on, resume, and mistakes."""

import csv
import json

import numpy as np
import pytest
import torch
from interrupted import interrupted
from omegaconf import OmegaConf
from outcomes import assert_same, outcome
from support import QUICK, ROOT
from torch import nn

from cl.configuration.identity import config_hash, words
from cl.configuration.settings import EMA
from cl.distributed.comm import Comm
from cl.run.experiment import run
from cl.run.folder import plain
from cl.run.plan import make_plan
from cl.step.average import AverageContext, Swa
from cl.step.task_average import FisherTaskMean, TaskMean
from cl.strategies.er import Er

TWO = (*QUICK, "scenario=class2", "log_interval=1", "steps=12", "strategy=er", "buffer.capacity=30")
FIVE = (*QUICK, "scenario=class5", "steps=4")
PICTURES = (
    "strategy=er", "backbone=timm", "backbone.model=test_resnet", "batch_size=8", "scenario=class2", "steps=6",
    "buffer.capacity=30", "progress=false", "pictures=[]",
)  # fmt: skip
KINDS = ("ema", "swa", "task", "fisher")


def copied(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().double().numpy().copy() for name, value in model.state_dict().items()}


def saved(folder, stage: int) -> dict[str, np.ndarray]:
    return {
        name: value.double().numpy() for name, value in torch.load(folder / f"task_{stage:02d}.pt")["model"].items()
    }


def content(folder) -> dict:
    return json.loads((folder / "results.json").read_text())


@pytest.fixture
def raw(monkeypatch):
    """The network after each step of a run with er."""
    seen, observe = [], Er.observe

    def watched(self, batch):
        loss = observe(self, batch)
        seen.append(copied(self.model))
        return loss

    monkeypatch.setattr(Er, "observe", watched)
    return seen


@pytest.fixture
def ends(monkeypatch):
    """Of each stage of a run with an average over tasks: the network as it starts, and at the end of its training."""
    seen, start, end = [], TaskMean.start_stage, TaskMean.end_stage

    def started(self, stage):
        start(self, stage)
        seen.append([copied(self.model)])

    def ended(self, stage, samples, training_set):
        seen[-1].append(copied(self.model))
        end(self, stage, samples, training_set)

    monkeypatch.setattr(TaskMean, "start_stage", started)
    monkeypatch.setattr(TaskMean, "end_stage", ended)
    return seen


@pytest.mark.parametrize("start, counted", [(0.75, 3), (0, 12), (0.99, 1)])
def test_swa_is_the_equal_mean_of_the_last_steps_of_each_task(compose_config, raw, start, counted):
    folder = run(compose_config(*TWO, "average=swa", f"average.start={start}"))
    for stage in range(2):
        last = raw[12 * stage : 12 * (stage + 1)][-counted:]
        for name, value in saved(folder, stage).items():
            assert np.allclose(value, np.mean([each[name] for each in last], axis=0), atol=1e-6), name
    assert content(folder)["persistent"]["networks"] == 2 * sum(v.size for v in saved(folder, 0).values()) * 4


def test_training_with_swa_is_that_without(compose_config):
    folders = [run(compose_config(*TWO, *more)) for more in ((), ("average=swa",))]
    losses = [[row["loss"] for row in csv.DictReader(open(folder / "metrics.csv"))] for folder in folders]
    assert losses[0] == losses[1] and len(losses[0]) == 24
    assert content(folders[0])["accuracy_matrix"] != content(folders[1])["accuracy_matrix"]


class Shown:
    """Batches that are given, in place of those of a run; notes for what they were asked."""

    def __init__(self, *batches):
        self.given, self.asked = batches, []

    def __call__(self, stage, rows):
        self.asked.append((stage, rows))
        return iter(self.given)


def test_the_statistics_of_swa_are_computed_anew_from_what_the_task_was_trained_on():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 2)).train()
    shown = Shown(torch.randn(6, 3), 3 + torch.randn(6, 3))
    average = Swa(0.0)
    average.setup(AverageContext(model, Comm(), False, None, shown, None))
    average.start_stage(0)
    done = 0
    update = average.each_step(lambda: done, 2)
    for done in (1, 2):
        model(torch.randn(5, 3))
        with torch.no_grad():
            model[0].weight += 1
        update()
    average.end_stage(4, None, lambda: "rows")
    assert shown.asked == [(4, "rows")]
    network = average.network
    entering = [network[0](x).detach().double().numpy() for x in shown.given]
    statistics = network[2].running_mean.numpy(), network[2].running_var.numpy()
    assert np.allclose(statistics[0], np.mean([x.mean(0) for x in entering], axis=0), atol=1e-5)
    assert np.allclose(statistics[1], np.mean([x.var(0, ddof=1) for x in entering], axis=0), atol=1e-5)
    assert network[2].num_batches_tracked == model[2].num_batches_tracked == 2
    assert network[2].momentum == 0.1 and network.training and network[2].training


@pytest.mark.parametrize("strategy, chosen, from_data", [
    ("finetune", None, True), ("er", None, False), ("er", "data", True), ("finetune", "steps", False),
])  # fmt: skip
def test_a_pass_over_the_data_is_counted_where_it_is_made(compose_config, strategy, chosen, from_data):
    options = (*PICTURES, f"strategy={strategy}", "steps=2", "eval_batch_size=100")
    option = () if chosen is None else (f"average.batch_norm={chosen}",)
    plain, swa = (content(run(compose_config(*options, *more))) for more in ((), ("average=swa", *option)))
    count = sum(swa["stage_counts"][stage]["forward_passes"] for stage in range(2))
    without = sum(plain["stage_counts"][stage]["forward_passes"] for stage in range(2))
    images = 1442  # training samples of the digits
    assert count - without == (images if from_data else 0)
    assert swa["backward_passes"] == plain["backward_passes"]


def averaged(ends: list, labels: list[list[int]], share) -> list[dict[str, np.ndarray]]:
    """The averages after each stage, by hand; `share` of the new value from the stage and the name."""
    found = [ends[0][1]]
    for stage in range(1, len(ends)):
        new = {}
        for name, value in ends[stage][1].items():
            part = share(stage, name)
            new[name] = (1 - part) * found[-1][name] + part * value
            if name.startswith("fc2."):
                new[name][labels[stage]] = value[labels[stage]]
        found.append(new)
    return found


PAIRS = [[2 * number, 2 * number + 1] for number in range(5)]


@pytest.mark.parametrize("weight, share", [("1/t", lambda t: 1 / (t + 1)), ("0.3", lambda t: 0.3)])
def test_the_average_over_tasks_takes_the_place_of_the_network(compose_config, ends, weight, share):
    folder = run(compose_config(*FIVE, "strategy=finetune", "average=task", f"average.weight={weight}"))
    expected = averaged(ends, PAIRS, lambda stage, name: share(stage))
    assert len(ends) == 5
    for stage in range(5):
        for name, value in saved(folder, stage).items():
            assert np.allclose(value, expected[stage][name], atol=1e-6), (stage, name)
            if stage < 4:  # the next task starts from it
                assert np.array_equal(value, ends[stage + 1][0][name])
    networks = sum(value.size for value in saved(folder, 0).values()) * 4
    assert content(folder)["persistent"] == {"networks": networks, "start": 0, "samples": 0, "statistics": 0}


def fisher_by_hand(state: dict[str, np.ndarray], x: torch.Tensor, y: torch.Tensor) -> dict[str, np.ndarray]:
    """The mean of the squared gradients of log p(y | x), one sample after the other, of the network of QUICK."""
    weights = {name: torch.tensor(value, dtype=torch.float32, requires_grad=True) for name, value in state.items()}
    total = {name: 0.0 for name in weights}
    for sample, label in zip(x, y):
        hidden = torch.relu(weights["fc1.weight"] @ sample + weights["fc1.bias"])
        loss = torch.log_softmax(weights["fc2.weight"] @ hidden + weights["fc2.bias"], 0)[label]
        for name, gradient in zip(weights, torch.autograd.grad(loss, list(weights.values()))):
            total[name] = total[name] + gradient.double().numpy() ** 2 / len(x)
    return total


def test_the_fisher_information_of_both_tasks_weighs_the_mean(compose_config, ends, monkeypatch):
    given, end = [], TaskMean.end_stage

    def watched(self, stage, samples, training_set):
        given.append((samples, self.context.batches))
        end(self, stage, samples, training_set)

    monkeypatch.setattr(TaskMean, "end_stage", watched)
    options = ("dataset.validation=0.9", "average=fisher", "average.weight=0.4")
    folder = run(compose_config(*FIVE, "strategy=finetune", *options))
    fishers = []
    for (_, after), (samples, _) in zip(ends, given):
        fishers.append(fisher_by_hand(after, samples.x.flatten(1).float() / 255, samples.y))

    def share(stage, name):
        old, new = 0.6 * fishers[stage - 1][name], 0.4 * fishers[stage][name]
        return np.where(old + new > 0, new / np.maximum(old + new, 1e-300), 0.4)

    expected = averaged(ends, PAIRS, share)
    for stage in range(5):
        for name, value in saved(folder, stage).items():
            assert np.allclose(value, expected[stage][name], atol=1e-4), (stage, name)
    networks = sum(value.size for value in saved(folder, 0).values()) * 4
    results = content(folder)
    assert results["persistent"]["statistics"] == results["persistent"]["networks"] == networks
    seen = sum(len(samples) for samples, _ in given)
    assert results["forward_passes"] == results["backward_passes"] == results["labelled_samples"] + seen


def test_numbers_without_information_are_averaged_as_if_all_had_the_same():
    model = nn.Linear(1, 2)
    average = FisherTaskMean(0.25)
    found = [[torch.tensor([[0.0], [2.0]]), torch.zeros(2)], [torch.tensor([[0.0], [6.0]]), torch.ones(2)]]
    average.setup(AverageContext(model, Comm(), False, None, None, lambda stage, *rest: found[stage]))
    for stage in range(2):
        average.start_stage(stage)
        nn.init.constant_(model.weight, 8.0 * stage)
        nn.init.constant_(model.bias, 8.0 * stage)
        average.end_stage(stage, None, None)
    # 0.25 of 8; 0.25 * 6 / (0.75 * 2 + 0.25 * 6) of 8; all of 8
    assert model.weight.flatten().tolist() == [2.0, 4.0] and model.bias.tolist() == [8.0, 8.0]


@pytest.mark.parametrize("average", [
    ("average=swa", "average.start=0.4", "average.batch_norm=data"), ("average=swa", "average.start=0.4"),
    ("average=task",), ("average=fisher", "average.fisher_samples=20", "average.fisher_labels=sampled"),
])  # fmt: skip
def test_a_run_that_died_within_a_stage_ends_with_the_same_bits(compose_config, tmp_path, average):
    config = plain(compose_config(*PICTURES, *average, "dataset.validation=0.5"))
    expected = outcome(run(OmegaConf.create(config | {"output": str(tmp_path / "whole")})))
    assert_same(expected, outcome(interrupted(config | {"output": str(tmp_path / "died")})))


def test_strategies_see_the_average_over_tasks_at_the_end_of_a_task(compose_config):
    folder = run(compose_config(*QUICK, "scenario=class2", "steps=4", "strategy=icarl", "average=task"))
    assert np.isfinite(content(folder)["accuracy_matrix"]).all()


REFUSED = [
    ("strategy=icarl average=swa", "average=swa tests the network .* strategy=icarl .*set average=none"),
    ("strategy=gdumb average=task", "average=task starts each task from the average .*, and strategy=gdumb"),
    ("strategy=er model_state=reset average=fisher", "average=fisher starts .*, and model_state=reset"),
    ("strategy=independent average=task", "strategy=independent from other weights"),
    ("strategy=finetune dataset=ptycho_synthetic backbone=ptychonn scenario=reconstruction average=fisher",
     "average=fisher is defined by labels"),
]  # fmt: skip


@pytest.mark.parametrize("given, said", REFUSED)
def test_what_makes_no_sense_is_refused_in_a_line(compose_config, given, said):
    with pytest.raises(ValueError, match=said):
        make_plan(plain(compose_config(*given.split())))


@pytest.mark.parametrize("given, said", [
    ("ema=0.9 average=swa", "ema=0.9 is short for average=ema, and average=swa is another"),
    ("ema=0.9 average=ema", "ema=0.9 and average=ema average.decay=0.99 are two decays"),
    ("average=ema average.decay=1", "average.decay must be a number above 0 and below 1"),
])  # fmt: skip
def test_one_average_at_a_time(compose_config, given, said):
    with pytest.raises(ValueError, match=said):
        plain(compose_config(*given.split()))


@pytest.mark.parametrize(
    "given", ["average=swa average.start=1", "average=task average.weight=2", "average=task average.weight=t"]
)
def test_options_are_checked(compose_config, given):
    with pytest.raises(ValueError, match="average.(start|weight) must be a number"):
        make_plan(plain(compose_config(*given.split())))


def test_the_short_form_of_ema_is_the_same_run(compose_config):
    short, long = (plain(compose_config(*given)) for given in (("ema=0.9",), ("average=ema", "average.decay=0.9")))
    assert short == long and config_hash(short) == config_hash(long)
    assert words(short) == words(plain(compose_config())) | {"ema": 0.9}
    assert EMA | {"decay": 0.99} == OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "average" / "ema.yaml"))


def test_averages_are_part_of_the_identity(compose_config):
    none = words(plain(compose_config()))
    assert "average" not in none
    for kind in ("swa", "task", "fisher"):
        assert words(plain(compose_config(f"average={kind}"))) == none | {"average": kind}
    assert words(plain(compose_config("average=swa", "average.start=0.5"))) == none | {
        "average": "swa", "average.start": 0.5,
    }  # fmt: skip
