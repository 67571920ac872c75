"""GEM: the quadratic programme against every set of active bounds, and the gradients against autograd."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn
from toys import batch, ready, samples

from cl.buffers.base import Records
from cl.strategies.gem import Gem, dual


def by_brute_force(gram: np.ndarray, products: np.ndarray, margin: float) -> tuple[float, np.ndarray]:
    """The least value over v >= margin: the best of those at which some v are at the bound and the others free."""
    found = []
    for active in itertools.product([False, True], repeat=len(products)):
        v, free = np.full(len(products), margin), ~np.array(active)
        if free.any():
            right = -products[free] - gram[np.ix_(free, ~free)].sum(1) * margin
            v[free] = np.linalg.lstsq(gram[np.ix_(free, free)], right, rcond=None)[0]
        if (v >= margin - 1e-9).all():
            found.append((v @ gram @ v / 2 + products @ v, v))
    return min(found, key=lambda pair: pair[0])


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("tasks, size", [(1, 5), (2, 6), (4, 9), (5, 3)])  # the last: dependent rows
def test_the_dual_is_solved_exactly(tasks, size, margin):
    random = np.random.default_rng(tasks)
    at_bound = free = 0
    for _ in range(20):
        rows, gradient = random.normal(size=(tasks, size)), random.normal(size=size)
        gram, products = rows @ rows.T, rows @ gradient
        found = np.array(dual(gram, products, margin))
        if products.min() >= 0:
            assert not found.any()
            continue
        value, v = by_brute_force(gram, products, margin)
        assert found.min() >= margin
        assert found @ gram @ found / 2 + products @ found == pytest.approx(value, abs=1e-5)
        assert np.allclose(rows.T @ found, rows.T @ v, atol=1e-3)
        at_bound, free = at_bound + (v <= margin).sum(), free + (v > margin + 1e-6).sum()
    assert free and (at_bound or tasks == 1)


def test_without_a_margin_the_step_is_the_nearest_that_raises_no_loss():
    random = np.random.default_rng(5)
    rows, gradient = random.normal(size=(3, 8)), random.normal(size=8)
    assert (rows @ gradient).min() < 0
    moved = gradient + rows.T @ dual(rows @ rows.T, rows @ gradient, 0.0)
    solved = minimize(
        lambda g: 0.5 * np.sum((g - gradient) ** 2), np.zeros(8), jac=lambda g: g - gradient,
        constraints={"type": "ineq", "fun": lambda g: rows @ g}, method="SLSQP", options={"ftol": 1e-14},
    )  # fmt: skip
    assert solved.success and np.allclose(moved, solved.x, atol=1e-5)


def test_numbers_that_are_not_finite_are_left_to_the_run():
    for bad in (np.nan, -np.inf):
        assert dual(np.full((2, 2), bad), np.array([bad, -1.0]), 0.5) == [0.0, 0.0]


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 2))


def gradient_of(model: nn.Module, rows) -> torch.Tensor:
    loss = nn.functional.cross_entropy(model(rows["x"] / 255), rows["y"])
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])


NEW = batch([[255, 0], [0, 255], [50, 60], [255, 255]], [0, 0, 0, 0], [2] * 4)
TASKS = [0, 1, 1, 0, 1, 0, 1]


def memory(labels=(1, 1, 1, 1, 1, 1, 1), order=range(7)) -> Records:
    pixels = [[255, 0], [0, 255], [50, 60], [255, 255], [7, 70], [200, 3], [90, 90]]
    rows = batch(pixels, list(labels), TASKS).part(torch.tensor(list(order)))
    return Records(rows.columns, torch.ones(7), torch.tensor(list(order)))


@pytest.mark.parametrize("accumulation_steps", [1, 2, 3])
@pytest.mark.parametrize("label, moves", [(1, True), (0, False)])
def test_a_step_follows_the_gradient_that_the_programme_gives(accumulation_steps, label, moves):
    model, old = network(), memory([label] * 7)
    gradient = gradient_of(model, NEW)
    rows = [gradient_of(model, old.part(torch.tensor(TASKS) == task)) for task in (0, 1)]
    matrix, expected = torch.stack(rows).double().numpy(), gradient
    if moves:  # the opposite labels pull the other way
        v = by_brute_force(matrix @ matrix.T, matrix @ gradient.double().numpy(), 0.5)[1]
        expected = gradient + torch.from_numpy(v @ matrix).float()
        assert not torch.allclose(expected, gradient, atol=1e-3)
    before = torch.cat([weight.detach().flatten() for weight in model.parameters()])
    strategy = ready(Gem(), model, lr=0.5, accumulation_steps=accumulation_steps, stages=[[0], [1], [2]])
    strategy.recall = lambda: [old]
    strategy.observe(NEW)
    after = torch.cat([weight.detach().flatten() for weight in model.parameters()])
    assert torch.allclose(after, before - 0.5 * expected, atol=1e-6)


def test_ranks_share_out_the_records_of_each_task():
    model = network()
    strategy = ready(Gem(), model, stages=[[0], [1], [2]])
    orders, found = [[4, 1, 0, 6, 2, 5, 3], [3, 2, 6, 5, 0, 1, 4]], []
    for rank, order in enumerate(orders):
        strategy.updater.comm = SimpleNamespace(rank=rank, size=2)
        found.append(strategy.select(NEW, [memory(order=order)]))
    for task, parts in enumerate(zip(*found)):
        whole = memory().part(torch.tensor(TASKS) == task)
        seen = sorted(pixel for part in parts for pixel in part["x"].flatten(1).tolist())
        assert seen == sorted(whole["x"].flatten(1).tolist())
        mean = sum(part.loss_weight * gradient_of(model, part) for part in parts) / 2
        assert torch.allclose(mean, gradient_of(model, whole), atol=1e-6)


def test_a_few_records_of_each_task_can_stand_for_all():
    strategy = ready(Gem(replay_batch_size=2), network(), stages=[[0], [1], [2]])
    first, second = strategy.select(NEW, [memory(order=[4, 1, 0, 6, 2, 5, 3])])
    assert first["x"].flatten(1).tolist() == [[255, 0], [200, 3]] and second["x"].flatten(1).tolist() == [
        [7, 70],
        [0, 255],
    ]
    assert first.loss_weight == second.loss_weight == 1


def test_every_past_task_is_asked_as_a_whole_in_every_step():
    strategy = ready(Gem(), network(), capacity=9, lr=0.1, stages=[[0], [1], [2]])
    replayed, products = [], []
    project = strategy.adjust_gradients
    strategy.adjust_gradients = lambda new, draws: (products.append(len(draws)), project(new, draws))
    for stage in range(3):
        rows = samples([[10 * stage + i, i] for i in range(8)], [0, 1] * 4, stage)
        strategy.before_task(stage, rows)
        for _ in range(2):
            strategy.observe(rows)
            replayed.append(strategy.take_replayed())
        strategy.after_task(stage, rows)
    assert replayed == [0, 0, 3, 3, 6, 6] and products == [0, 0, 1, 1, 2, 2]


def test_gradients_that_are_not_finite_are_left_to_the_scaler():
    for products in ([-np.inf, 1.0], [np.nan, -1.0]):
        assert dual(np.eye(2), np.array(products), 0.5) == [0.0, 0.0]
