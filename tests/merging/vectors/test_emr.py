"""EMR: what is elected, masked and rescaled, worked out by hand, and that tests use the mask of each task."""

import json
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn
from torch.func import functional_call

from cl.configuration.settings import MERGE_KEYS
from cl.run.folder import plain
from cl.run.plan import make_plan
from cl.run.session import Session
from merging import run
from merging.fusion import Models
from merging.vectors.emr import Emr, elect, factor, pack, unpack


def test_the_elected_vector_has_the_sign_of_the_sum_and_the_largest_entry_with_it():
    rows = [[1.0, -5.0, 2.0, 0.0, 0.0], [3.0, 3.0, -2.0, 0.0, 4.0], [-2.0, 1.0, 0.5, 0.0, 1.0]]
    assert elect([torch.tensor(row) for row in rows]).tolist() == [3.0, -5.0, 2.0, 0.0, 4.0]
    assert elect([torch.tensor([1.0]), torch.tensor([-1.0])]).tolist() == [0.0]


def test_the_factor_gives_the_masked_vector_the_length_of_the_models_own():
    vector, elected = torch.tensor([1.0, -5.0, 2.0]), torch.tensor([3.0, -5.0, -8.0])
    assert factor(vector, elected, vector * elected > 0) == pytest.approx(8 / 8)
    assert factor(-vector, elected, -vector * elected > 0) == pytest.approx(8 / 8)
    assert factor(vector / 4, elected, vector * elected > 0) == pytest.approx(2 / 8)
    assert factor(vector, elected, torch.zeros(3, dtype=torch.bool)) == 1.0


@pytest.mark.parametrize("count", [1, 7, 8, 9, 1001])
def test_a_mask_takes_a_bit_for_each_entry(count):
    mask = torch.rand(count, generator=torch.Generator().manual_seed(count)) < 0.5
    packed = pack(mask)
    assert packed.dtype == torch.uint8 and len(packed) == -(-count // 8)
    assert torch.equal(unpack(packed, count), mask)
    assert pack(torch.tensor([True, False, True])).tolist() == [5]


@dataclass
class Context:
    network: nn.Module
    kept: list = field(default_factory=list)

    def keep(self, statistics):
        self.kept.append(statistics)


class Net(nn.Sequential):
    def __init__(self, seed: int):
        torch.manual_seed(seed)
        super().__init__(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4))
        self(torch.randn(9, 1, 4, 4) + seed)
        self.eval()


def models(**more) -> Models:
    states = [Net(seed).state_dict() for seed in (1, 2, 3)]
    names = [name for name, _ in Net(0).named_parameters()]
    return Models(states, [1 / 3] * 3, names, Net(99).state_dict(), **more)


def by_hand(given: Models, number: int) -> dict:
    """The state of a task, with the sums of all tensors together."""
    start, own, left, weights = given.initial, 0.0, 0.0, {}
    for name in given.parameters:
        moved = torch.stack([state[name] - start[name] for state in given.states])
        positive = moved.sum(0) > 0
        tau = torch.where(positive, moved.clamp(min=0).max(0).values, moved.clamp(max=0).min(0).values)
        weights[name] = torch.where(torch.sign(moved[number]) == torch.sign(tau), tau, 0.0)
        own, left = own + moved[number].abs().sum(), left + weights[name].abs().sum()
    return given.states[number] | {name: start[name] + own / left * value for name, value in weights.items()}


@torch.no_grad()
def test_each_task_has_its_mask_its_factor_and_the_statistics_of_its_model():
    given, context, x = models(tasks=[[0, 3], [1], [2]]), Context(Net(0)), torch.randn(6, 1, 4, 4)
    merged = Emr().network(given, context).eval()
    for task, number in ((0, 0), (3, 0), (1, 1), (2, 2)):
        expected = functional_call(Net(0), by_hand(given, number), (x,))
        assert torch.allclose(merged.for_task(task)(x), expected, atol=1e-5)
    whole = merged(x)
    assert not torch.allclose(whole, merged.for_task(0)(x), atol=1e-2)
    assert torch.equal(merged.for_task(7)(x), whole)  # a task of no model
    weights = sum(value.numel() for value in given.initial.values() if value.is_floating_point()) - 6
    (kept,) = context.kept[0]
    assert sum(value.nbytes for value in kept.values()) == 3 * -(-weights // 8) + 3 * 4
    again = Emr().network(given, context)
    again.load_state_dict(merged.state_dict())
    assert torch.equal(again.eval().for_task(1)(x), merged.for_task(1)(x))


def test_a_run_is_tested_with_the_mask_of_each_task(compose_config):
    words = ("scenario=task5", "backbone.hidden=[8]", "steps=5", "fusion=emr", "baselines=[]", "progress=false")
    config = compose_config(*words, "pictures=[]", name="merge")
    folder = run.run(config)[-1]
    results, state = json.loads((folder / "results.json").read_text()), torch.load(folder / "task_04.pt")["model"]
    assert results["persistent"]["statistics"] == 5 * 77 + 5 * 4  # 610 weights
    names, done = ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"), 0
    base = {key: value for key, value in plain(config).items() if key not in MERGE_KEYS}
    with Session(make_plan(base)) as session:
        tasks, _ = session.load_tasks()
        for task in range(5):
            moved, done, weights = state["elected"] * unpack(state[f"mask{task}"], 610) * state["factors"][task], 0, []
            for name in names:
                start = state[f"network.{name}"]
                weights.append(start + moved[done : done + start.numel()].view_as(start))
                done += start.numel()
            samples = tasks.testing(task, session.device)
            hidden = torch.relu(samples.x.flatten(1).float() / 255 @ weights[0].T + weights[1])
            right = (hidden @ weights[2].T + weights[3])[:, 2 * task : 2 * task + 2].argmax(1) + 2 * task == samples.y
            assert results["task_accuracy_matrix"][-1][task] == pytest.approx(right.double().mean().item(), abs=1e-9)


def test_a_scenario_that_does_not_tell_the_task_is_an_error(compose_config):
    words = ("scenario=class5", "backbone.hidden=[8]", "fusion=emr", "baselines=[]", "progress=false", "pictures=[]")
    with pytest.raises(ValueError, match="fusion=emr .* but scenario=class5 does not tell it: set scenario=task5"):
        run.run(compose_config(*words, name="merge"))
