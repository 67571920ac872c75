"""CLS-ER: the loss by hand, and the averages against their formula and their own stream of random numbers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from toys import NEW, batch, cross_entropy, linear, ready, records

from cl import seeding
from cl.distributed.comm import Comm
from cl.step.passes import Passes
from cl.strategies.cls_er import ClsEr


def begun(strategy, model=None, **more):
    strategy = ready(strategy, model, **more)
    strategy.before_task(0, None)
    strategy.start_task(0)
    return strategy


def set_to(network: nn.Module, weight) -> None:
    network[1].weight.data = torch.tensor(weight)


def test_the_average_that_knows_the_class_better_gives_the_target():
    passes = Passes()
    model = linear()
    passes.watch(model)
    strategy = begun(ClsEr(2, lambda_=0.7), model, passes=passes)
    set_to(strategy.plastic, [[3.0, 0.0], [0.0, 1.0]])
    set_to(strategy.stable, [[2.0, 0.0], [0.0, 5.0]])
    old = records([[255, 0], [0, 255]], [0, 1])
    targets = [(3, 0), (0, 5)]  # of the first record plastic is the surer, of the second stable
    logits = [(1, 0), (0, 1)]
    squares = [(a - b) ** 2 for ours, theirs in zip(logits, targets) for a, b in zip(ours, theirs)]
    labelled = [((1, 0), 0), ((0, 1), 0), ((1, 0), 0), ((0, 1), 1)]
    expected = sum(cross_entropy(*pair) for pair in labelled) / 4 + 0.7 * sum(squares) / 4
    loss = strategy.loss(NEW, [old])
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert list(passes.take(Comm()).values())[:2] == [2 + 2 + 2 * 2, 2 + 2]
    loss.backward()
    assert all(weight.grad is None for net in (strategy.plastic, strategy.stable) for weight in net.parameters())
    swapped = records([[255, 0], [0, 255]], [1, 0])  # of the other class they are less sure the other way round
    squares = [(1 - 2) ** 2, 0, 0, (1 - 1) ** 2]
    labelled[2:] = [((1, 0), 1), ((0, 1), 0)]
    expected = sum(cross_entropy(*pair) for pair in labelled) / 4 + 0.7 * sum(squares) / 4
    assert strategy.loss(NEW, [swapped]).item() == pytest.approx(expected, abs=1e-6)


def test_the_averages_follow_the_weights_as_the_stream_of_the_seed_decides():
    strategy = begun(ClsEr(1, 0.5, 0.8, 0.7, 0.3, 0.9), lr=0.5, capacity=4, seed=11)
    chances = seeding.generator(11, "cls_er").random(2 * 12).reshape(12, 2)
    expected = [strategy.model[1].weight.detach().numpy().copy() for _ in range(2)]
    updates = np.zeros(2, dtype=int)
    for step in range(1, 13):
        strategy.observe(batch([[255, 10 * step], [step, 255]], [0, 1]))
        weight = strategy.model[1].weight.detach().numpy()
        for place, (rate, decay) in enumerate([(0.8, 0.7), (0.3, 0.9)]):
            if chances[step - 1, place] < rate:
                a = min(1 - 1 / (step + 1), decay)
                expected[place] = a * expected[place] + (1 - a) * weight
                updates[place] += 1
    assert 0 < updates[1] < updates[0] < 12
    assert np.allclose(strategy.plastic[1].weight.detach(), expected[0], atol=1e-6)
    assert np.allclose(strategy.stable[1].weight.detach(), expected[1], atol=1e-6)
    assert not np.allclose(expected[0], expected[1], atol=1e-4)
    assert strategy.classifier() is strategy.stable


def test_statistics_of_batch_norm_are_averaged_over_ranks_and_steps():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(2), nn.Linear(2, 2))
    strategy = begun(ClsEr(2, 0.5, stable_rate=0.0), model, capacity=4)
    assert not strategy.plastic.training and model.training
    double = SimpleNamespace(size=2, mean=lambda values: [2 * value for value in values], sum=lambda value: value)
    strategy.updater.comm = double
    for _ in range(2):
        own, before = model[1].running_mean.clone(), strategy.plastic[1].running_mean.clone()
        strategy.steps = 0  # a is one half
        model[1].running_mean.add_(1.0)
        strategy.update([(strategy.plastic, 0.5)])
        assert torch.allclose(strategy.plastic[1].running_mean, (before + 2 * (own + 1)) / 2)
    assert torch.equal(strategy.stable[1].running_mean, torch.zeros(2))


def test_what_it_keeps_is_counted():
    strategy = begun(ClsEr(2, 0.5))
    assert strategy.nbytes == 2 * 4 * 4
    state = strategy.state_dict()
    assert torch.equal(state["stable"]["1.weight"], torch.eye(2))
