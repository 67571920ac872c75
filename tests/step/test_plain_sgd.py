"""The short step of plain SGD: the weights of torch's own step to the bit, and torch's own wherever there is more."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from cl.distributed.comm import Comm, ReduceOptions
from cl.step import plain_sgd
from cl.step.updater import Updater


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(37, 23), nn.ReLU(), nn.Linear(23, 5), nn.Linear(5, 5))


def train(model: nn.Module, step, batches: int = 5) -> list[torch.Tensor]:
    """The weights after some steps, in which the last layer has no gradient."""
    torch.manual_seed(1)
    for _ in range(batches):
        model.zero_grad()
        model[:3](torch.randn(8, 37)).square().mean().backward()
        step()
    return list(model.parameters())


def groups(model: nn.Module) -> list[dict]:
    return [
        {"params": [*model[0].parameters(), *model[3].parameters()], "lr": 0.3},
        {"params": list(model[2].parameters()), "weight_decay": 0.1},
    ]


@pytest.mark.parametrize("options", [{"lr": 0.1}, {"lr": 1}, {"lr": 0.1, "weight_decay": 5e-4, "foreach": False}])
def test_the_weights_are_those_of_torch_to_the_bit(options):
    one, two = network(), network()
    theirs, ours = torch.optim.SGD(groups(one), **options), torch.optim.SGD(groups(two), **options)
    assert plain_sgd.is_plain(ours)
    pairs = zip(train(one, theirs.step), train(two, lambda: plain_sgd.descend(ours)), network().parameters())
    for number, (expected, found, before) in enumerate(pairs):
        assert torch.equal(found, expected)
        assert torch.equal(found, before) == (number >= 4)


def hooked(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    optimizer.register_step_post_hook(lambda *_: None)
    return optimizer


def scheduled(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    torch.optim.lr_scheduler.ConstantLR(optimizer)
    return optimizer


class Own(torch.optim.SGD):
    pass


@pytest.mark.parametrize(
    "make",
    [
        lambda weights: torch.optim.SGD(weights, momentum=0.9),
        lambda weights: torch.optim.SGD(weights, maximize=True),
        lambda weights: torch.optim.SGD(weights, lr=torch.tensor(0.1)),
        lambda weights: torch.optim.SGD(weights, fused=True),
        lambda weights: torch.optim.SGD(weights, differentiable=True),
        lambda weights: torch.optim.SGD([{"params": weights[:1]}, {"params": weights[1:], "momentum": 0.5}]),
        lambda weights: torch.optim.Adam(weights),
        lambda weights: hooked(torch.optim.SGD(weights)),
        lambda weights: scheduled(torch.optim.SGD(weights)),
        Own,
    ],
)
def test_any_other_optimizer_makes_its_own_step(make):
    assert not plain_sgd.is_plain(make(list(network().parameters())))


def test_a_hook_of_all_optimizers_is_called_by_the_step_of_a_run():
    called, model = [], network()
    updater = Updater(torch.optim.SGD(model.parameters()), model, torch.device("cpu"), Comm(), ReduceOptions())
    handle = register_optimizer_step_pre_hook(lambda *_: called.append(1))
    try:
        train(model, updater.step, 3)
    finally:
        handle.remove()
    assert len(called) == 3
    before = copy.deepcopy(model.state_dict())
    train(model, updater.step, 1)
    assert len(called) == 3 and not torch.equal(before["0.weight"], model[0].weight)
