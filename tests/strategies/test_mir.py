"""MIR: what is replayed against losses worked out alone, and that the look ahead leaves no trace."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from toys import batch, ready, records

from cl.distributed.comm import Comm
from cl.step.passes import Passes
from cl.strategies.er import Er
from cl.strategies.mir import Mir

NEW = batch([[255, 0], [0, 255], [50, 60], [200, 255]], [0, 0, 1, 0])
CANDIDATES = records([[255, 9], [0, 255], [50, 60], [255, 255], [7, 70], [90, 3]], [1, 0, 1, 1, 0, 1])


def network(*more: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), *more, nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 2))


def losses(model: nn.Module, rows) -> torch.Tensor:
    return nn.functional.cross_entropy(model(rows["x"] / 255), rows["y"], reduction="none")


def rises(model: nn.Module, rates: list[float]) -> torch.Tensor:
    """Of the candidates, by a second network that really takes the step; a rate for each tensor of weights."""
    ahead = copy.deepcopy(model)
    gradients = torch.autograd.grad(losses(ahead, NEW).mean(), list(ahead.parameters()))
    with torch.no_grad():
        for weight, rate, gradient in zip(ahead.parameters(), rates, gradients):
            weight -= rate * gradient
        return losses(ahead, CANDIDATES) - losses(model, CANDIDATES)


def drawn(strategy, model, lr=0.5, **more):
    strategy = ready(strategy, model, lr=lr, **more)
    strategy.recall = lambda: [CANDIDATES]
    return strategy


@pytest.mark.parametrize("accumulation_steps", [1, 2, 3])
def test_the_candidates_are_replayed_whose_loss_the_step_would_raise_most(accumulation_steps):
    model = network()
    expected = rises(model, [0.5] * 4).topk(2).indices.tolist()
    assert sorted(expected) not in ([0, 1], [4, 5])  # neither the first ones nor the last
    strategy = drawn(Mir(2, candidates=6), model, accumulation_steps=accumulation_steps)
    (chosen,) = strategy.select(NEW, [CANDIDATES])
    assert chosen.ids.tolist() == expected
    assert torch.equal(chosen["x"], CANDIDATES["x"][expected])


def test_each_weight_takes_the_virtual_step_at_its_own_current_rate():
    model = network()
    strategy = drawn(Mir(2, candidates=6), model)
    first, second = list(model.parameters())[:2], list(model.parameters())[2:]
    strategy.updater.optimizer = torch.optim.SGD([{"params": first, "lr": 0.0}, {"params": second}], lr=3.0)
    found = strategy.rise(CANDIDATES, strategy.virtual_weights(NEW))
    assert torch.allclose(found, rises(model, [0.0, 0.0, 3.0, 3.0]), atol=1e-6)
    assert not torch.allclose(found, rises(model, [3.0] * 4), atol=1e-3)


def test_the_virtual_step_is_that_of_all_ranks_together():
    model = network()
    strategy = drawn(Mir(2, candidates=6), model)
    strategy.updater.comm = SimpleNamespace(mean=lambda values: [3 * value for value in values])
    found = strategy.rise(CANDIDATES, strategy.virtual_weights(NEW))
    assert torch.allclose(found, rises(model, [3 * 0.5] * 4), atol=1e-6)


def test_the_step_is_that_of_er_on_the_chosen_records():
    ours, theirs = network(), network()
    strategy = drawn(Mir(2, candidates=6), ours)
    er = ready(Er(2), theirs, lr=0.5)
    er.recall = lambda: [CANDIDATES.part(rises(theirs, [0.5] * 4).topk(2).indices)]
    assert torch.equal(strategy.observe(NEW), er.observe(NEW))
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_looking_ahead_moves_nothing():
    model = network(nn.BatchNorm1d(2))
    model[1].eval()  # frozen by its user
    model.insert(2, nn.BatchNorm1d(2))
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    strategy = drawn(Mir(2, candidates=6), model)
    strategy.select(NEW, [CANDIDATES])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes and len(set(modes)) == 2
    assert all(weight.grad is None for weight in model.parameters())


def test_without_a_choice_there_is_no_look_ahead_and_what_is_replayed_is_counted():
    model, passes = network(), Passes()
    passes.watch(model)
    strategy = ready(Mir(2, candidates=6), model, capacity=8, lr=0.1, passes=passes)
    assert strategy.draw_sizes == (6,)
    counts = []
    for _ in range(4):  # the memory holds 0, 2, 4 and 6 records
        strategy.observe(batch([[1, 2], [3, 200]], [0, 1]))
        counts.append([*list(passes.take(Comm()).values())[:2], strategy.take_replayed()])
    # new, its virtual step, candidates twice, replayed
    assert counts == [[2, 2, 0], [2 + 2, 2 + 2, 2], [2 + 2 + 2 * 4 + 2, 2 + 2 + 2, 2], [2 + 2 + 2 * 6 + 2, 6, 2]]


def test_fewer_candidates_than_are_replayed_are_refused():
    with pytest.raises(ValueError, match="strategy.candidates=3 are fewer than the strategy.replay_batch_size=4"):
        Mir(4, candidates=3)
