"""Bias Correction: what is held out, the fit of the two numbers, and where the correction is."""

import numpy as np
import pytest
import torch
from exemplar_toys import OUTPUTS, STAGES, network, task
from scipy.optimize import minimize
from torch import nn
from toys import batch, ready

from cl.strategies.bic import DECAY, Bic, fitted


def bic(capacity=24, **options) -> Bic:
    return ready(Bic(**options), network(), outputs=OUTPUTS, stages=STAGES, capacity=capacity, lr=0.1)


def after_one_task(**options) -> Bic:
    strategy = bic(**options)
    strategy.before_task(0, task(0))
    strategy.after_task(0, task(0))
    strategy.before_task(1, task(2))
    return strategy


def test_the_two_numbers_are_those_of_least_cross_entropy():
    random = np.random.default_rng(0)
    logits, labels, new = random.normal(size=(60, 5)) * 2, random.integers(0, 5, 60), np.array([0, 0, 1, 0, 1])
    logits[labels == 2, 2] += 2

    def loss(both):
        corrected = np.where(new, both[0] * logits + both[1], logits)
        entropy = np.log(np.exp(corrected).sum(1)) - corrected[np.arange(60), labels]
        return entropy.mean() + DECAY / 2 * ((both[0] - 1) ** 2 + both[1] ** 2)

    expected = minimize(loss, [1, 0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}).x
    found = fitted(torch.from_numpy(logits), torch.from_numpy(labels), torch.from_numpy(new).bool())
    assert found == pytest.approx(expected.tolist(), abs=1e-5)
    assert abs(found[0] - 1) > 0.05 and abs(found[1]) > 0.05


def test_outputs_that_are_too_large_by_a_constant_are_set_right():
    """Labels drawn from the softmax of logits, of which those of the new classes are then made 3 larger."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(20000, 4, generator=generator) * 2
    labels = logits.softmax(1).multinomial(1, generator=generator)[:, 0]
    new = torch.tensor([False, False, True, True])
    alpha, beta = fitted(logits + 3 * new, labels, new)
    assert alpha == pytest.approx(1, abs=0.05) and beta == pytest.approx(-3, abs=0.15)


def test_equally_many_of_each_class_are_held_out_and_nothing_is_lost():
    strategy = after_one_task(held_out=0.25)  # 10 exemplars of a class
    assert {len(own) for own in strategy.exemplars.values()} == {10}
    trained = strategy.training_set(1, task(2))
    held = [part for _, part in strategy.parts(1, super(Bic, strategy).training_set(1, task(2)))]
    assert [part.y.tolist() for part in held] == [[label] * 2 for label in range(4)]
    assert trained.y.bincount().tolist() == [8, 8, 8, 8]
    both = torch.cat([trained.x, *(part.x for part in held)]).flatten(1).tolist()
    assert sorted(both) == sorted(torch.cat([task(0).x, task(2).x]).flatten(1).tolist())
    assert len(bic().training_set(0, task(0))) == 20  # in the first task nothing is


def test_the_network_that_is_tested_and_that_teaches_has_the_correction_and_the_next_task_begins_without():
    strategy = after_one_task()
    before = {name: value.clone() for name, value in strategy.head.state_dict().items()}
    images = task(2).x / 255
    logits = strategy.model(images).detach()
    strategy.after_task(1, task(2))
    ((alpha, beta),) = strategy.corrections
    expected = torch.cat([logits[:, :2], alpha * logits[:, 2:] + beta], dim=1)
    assert abs(alpha - 1) + abs(beta) > 0.1
    assert torch.allclose(strategy.classifier()(images), expected, atol=1e-5)
    strategy.stages = [[0], [1], [1]]
    strategy.before_task(2, task(2))
    assert all(torch.equal(value, before[name]) for name, value in strategy.head.state_dict().items())
    assert torch.allclose(strategy.teacher(images), expected, atol=1e-5)


def test_the_fit_sees_what_was_held_out():
    strategy, seen = after_one_task(), []
    logits = strategy.logits
    strategy.logits = lambda x: (seen.append(x), logits(x))[1]
    held = [part.x for _, part in strategy.parts(1, super(Bic, strategy).training_set(1, task(2)))]
    strategy.observe(batch([[255, 0], [10, 200]], [0, 2]))
    strategy.after_task(1, task(2))
    assert torch.equal(seen[0], torch.cat(held))
    assert not strategy.head.weight.grad.isnan().any()


def test_a_last_layer_without_a_bias_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 4, bias=False))
    with pytest.raises(ValueError, match="strategy=bic .* needs a last layer with a bias"):
        ready(Bic(), model, outputs=OUTPUTS, stages=STAGES, capacity=24)
