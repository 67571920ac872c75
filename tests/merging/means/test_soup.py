"""Greedy soup and Model Stock: which models are taken, and how far from the start, worked out by hand."""

import math
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from merging.fusion import Models
from merging.means.soup import Soup
from merging.vectors.model_stock import ModelStock


def models(*rows, initial=None, **more) -> Models:
    """Models that are one row of weights."""
    states = [{"weight": torch.tensor([row])} for row in rows]
    start = None if initial is None else {"weight": torch.tensor([initial])}
    return Models(states, [1 / len(rows)] * len(rows), ["weight"], start, **more)


@dataclass
class Context:
    """The accuracy is a function of the weights."""

    accuracy: object
    network: nn.Module = field(default_factory=lambda: nn.Linear(2, 1, bias=False))
    asked: list = field(default_factory=list)
    recorded: dict = field(default_factory=dict)

    def labelled(self, tasks, per_task, trained=True):
        self.asked.append((list(tasks), per_task, trained))
        return SimpleNamespace()

    def recalibrate_batch_norm(self, network, tasks):
        pass

    def score(self, network, samples):
        return 0.0, self.accuracy(network.weight.detach()[0].tolist())

    def record(self, name, measure):
        self.recorded[name] = measure()


def near(x: float, y: float):
    """An accuracy that is 1 at a point and falls with the distance from it."""
    return lambda weights: 1 - math.dist(weights, (x, y)) / 100


def test_the_soup_takes_from_the_best_on_those_that_do_not_lower_its_accuracy():
    context = Context(near(0.0, 0.0))
    given = models([3.0, 0.0], [-1.0, 0.0], [0.0, 50.0], names=["a", "b", "c"])
    # from b (distance 1): with a the mean is (1, 0), as good; with c it would be (2/3, 50/3)
    assert Soup(samples_per_task=4)(given, context)["weight"].tolist() == [[1.0, 0.0]]
    assert context.asked == [([0, 1, 2], 4, False)]
    assert context.recorded["soup"] == {"ingredients": ["a", "b"], "accuracy": 0.99}
    assert given.carried == {"ingredients": 2.0}


def test_a_worse_model_is_left_out_and_a_soup_of_one_is_that_model():
    alone = Soup()(models([1.0, 0.0], [9.0, 0.0]), Context(near(0.0, 0.0)))
    assert alone["weight"].tolist() == [[1.0, 0.0]]
    assert Soup()(models([7.0, 2.0]), Context(near(0.0, 0.0)))["weight"].tolist() == [[7.0, 2.0]]


def test_a_running_soup_counts_as_often_as_models_are_in_it():
    context, carried = Context(near(0.0, 0.0)), {"ingredients": 3.0}
    given = models([1.0, 0.0], [-2.0, 0.0], merged=4, carried=carried)  # four were merged, one was left out
    assert Soup()(given, context)["weight"].tolist() == [[pytest.approx(0.25), 0.0]]
    assert carried == {"ingredients": 4.0}


def test_model_stock_goes_as_far_as_the_models_agree():
    start = [1.0, 1.0]
    # moved by (1, 0) and (1, 1): cos = 1 / sqrt(2), t = 2 cos / (1 + cos)
    cosine = 1 / math.sqrt(2)
    t = 2 * cosine / (1 + cosine)
    merged = ModelStock()(models([2.0, 1.0], [2.0, 2.0], initial=start))["weight"]
    assert torch.allclose(merged, torch.tensor([[1 + t, 1 + t / 2]]))
    # three: cosines 1 / sqrt(2) twice and 0
    cosine = 2 / math.sqrt(2) / 3
    t = 3 * cosine / (1 + 2 * cosine)
    merged = ModelStock()(models([2.0, 1.0], [2.0, 2.0], [1.0, 2.0], initial=start))["weight"]
    assert torch.allclose(merged, torch.tensor([[1 + t * 2 / 3, 1 + t * 2 / 3]]))


@pytest.mark.parametrize(
    "rows, expected",
    [
        ([[2.0, 5.0]], [2.0, 5.0]),  # one model is that model
        ([[2.0, 1.0], [3.0, 1.0]], [2.5, 1.0]),  # the same direction: the mean
        ([[2.0, 1.0], [1.0, 2.0]], [1.0, 1.0]),  # nothing in common: the start
        ([[2.0, 1.0], [0.5, 1.0]], [1.0, 1.0]),  # against each other
        ([[1.0, 1.0], [2.0, 1.0]], [1.0, 1.0]),  # one has not moved
    ],
)
def test_model_stock_at_the_ends_of_its_range(rows, expected):
    merged = ModelStock()(models(*rows, initial=[1.0, 1.0]))["weight"]
    assert torch.allclose(merged, torch.tensor([expected]))
    with pytest.raises(ValueError, match="fusion=model_stock needs models that were trained from a common init"):
        ModelStock()(models(*rows))
