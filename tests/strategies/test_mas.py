"""MAS: the sensitivity of the outputs' length to each weight, and the pull back to where it was."""

import pytest
import torch
from torch import nn
from toys import batch, ready

from cl.scenarios.outputs import TaskOutputs
from cl.strategies.finetune import Finetune
from cl.strategies.mas import Mas

DATA = batch([[255, 0], [0, 255], [50, 60], [255, 255], [7, 200], [90, 3], [0, 0]], [0, 1, 1, 0, 1, 0, 1])
NETWORKS = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(2, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)),
    "convolutional": lambda: nn.Sequential(nn.Conv2d(1, 3, 1), nn.Tanh(), nn.Flatten(), nn.Linear(6, 2)),
}


def one_by_one(model: nn.Module, kept=slice(None)) -> list[torch.Tensor]:
    """The mean over samples of |d ||f||^2 / d theta|, one backward pass for each; of the outputs `kept` alone."""
    model.eval()
    weights = list(model.parameters())
    totals = [torch.zeros_like(weight) for weight in weights]
    for x in DATA.x:
        length = model(x[None] / 255)[0, kept].square().sum()
        for total, gradient in zip(totals, torch.autograd.grad(length, weights)):
            total += gradient.abs() / len(DATA)
    model.train()
    return totals


@pytest.mark.parametrize("name", NETWORKS)
def test_sensitivity_is_the_mean_of_the_absolute_gradients_of_single_samples(name):
    torch.manual_seed(3)
    model = NETWORKS[name]()
    strategy = ready(Mas(1.0), model)
    found, expected = strategy.sensitivity(DATA), one_by_one(model)
    assert model.training
    for value, other in zip(found, expected):
        assert torch.allclose(value, other, rtol=1e-4, atol=1e-7) and other.max() > 1e-3
    assert list(strategy.passes.counts.values()) == [7, 7, 0, 0]


def test_where_the_task_is_known_the_outputs_are_those_of_the_task():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 4))
    outputs = TaskOutputs(4, [range(0, 2), range(2, 4)], task_aware=True)
    found = ready(Mas(1.0), model, outputs=outputs).sensitivity(DATA)
    for value, other in zip(found, one_by_one(model, slice(0, 2))):
        assert torch.allclose(value, other, rtol=1e-4, atol=1e-7)
    assert found[2][2:].abs().sum() == 0 < found[2][:2].sum()


def test_importance_adds_up_and_its_penalty_has_twice_lambda():
    torch.manual_seed(3)
    model = NETWORKS["linear"]()
    strategy = ready(Mas(3.0), model, lr=0.1)
    strategy.after_task(0, DATA)
    first = [value.clone() for value in strategy.importance]
    strategy.after_task(1, DATA)  # the same weights
    assert all(torch.allclose(value, 2 * before) for value, before in zip(strategy.importance, first))
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.01
    weights = list(model.parameters())
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    strategy.adjust_gradients(None, [])
    for weight, importance in zip(weights, strategy.importance):
        assert torch.allclose(weight.grad, 2 * 3.0 * importance * 0.01, rtol=1e-3, atol=1e-6)


def test_the_first_task_is_trained_as_without():
    plain, held = (ready(strategy, lr=0.1) for strategy in (Finetune(), Mas(1.0)))
    for strategy in (plain, held):
        strategy.observe(DATA)
    assert all(map(torch.equal, plain.model.parameters(), held.model.parameters()))


class OneOfTwo:
    """A group of two ranks whose other one has found nothing."""

    size, rank = 2, 0

    def mean(self, values):
        return [value / 2 for value in values]


def test_ranks_share_the_samples():
    """Rank 0 of two sees every second sample; the mean over ranks, times their number, is over all samples."""
    torch.manual_seed(3)
    model = NETWORKS["linear"]()
    strategy = ready(Mas(1.0), model)
    alone = strategy.sensitivity(DATA.part(slice(0, None, 2)))
    strategy.updater.comm = OneOfTwo()
    for half, whole in zip(strategy.sensitivity(DATA), alone):
        assert torch.allclose(half, whole * 4 / 7, rtol=1e-5)
