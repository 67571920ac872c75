"""A-GEM: the projection against a solver, and the two gradients against autograd."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn
from toys import batch, ready, records, samples

from cl.strategies.agem import Agem, project

GENERATOR = torch.Generator().manual_seed(0)


def vectors(product: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A gradient and a reference of 7 numbers with this cosine."""
    reference, other = torch.randn(2, 7, generator=GENERATOR, dtype=torch.float64)
    other -= (other @ reference) / (reference @ reference) * reference
    unit = [vector / vector.norm() for vector in (reference, other)]
    return 3 * (product * unit[0] + (1 - product**2) ** 0.5 * unit[1]), reference


@pytest.mark.parametrize("product", [-1.0, -0.7, -0.01, 0.0, 0.4, 1.0])
def test_projection_solves_the_quadratic_programme(product):
    gradient, reference = vectors(product)
    parts = [gradient[:3].clone(), gradient[3:].clone()]
    project(parts, [reference[:3], reference[3:]])
    projected = torch.cat(parts).numpy()
    solved = minimize(
        lambda v: 0.5 * np.sum((v - gradient.numpy()) ** 2), np.zeros(7), jac=lambda v: v - gradient.numpy(),
        constraints={"type": "ineq", "fun": lambda v: v @ reference.numpy()}, method="SLSQP", options={"ftol": 1e-14},
    )  # fmt: skip
    assert solved.success
    assert np.allclose(projected, solved.x, atol=1e-6)
    assert projected @ reference.numpy() >= -1e-12
    if product >= 0:
        assert np.array_equal(projected, gradient.numpy())


def test_a_reference_of_zeros_changes_nothing():
    gradient = torch.tensor([1.0, -2.0])
    project([gradient], [torch.zeros(2)])
    assert gradient.tolist() == [1.0, -2.0]


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 2))


def gradient_of(model: nn.Module, content) -> list[torch.Tensor]:
    loss = nn.functional.cross_entropy(model(content["x"] / 255), content["y"])
    return list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("accumulation_steps", [1, 2, 3])
@pytest.mark.parametrize("labels", [[1] * 5, [0] * 5])
def test_a_step_follows_the_projected_gradient_of_the_new_samples(accumulation_steps, labels):
    model = network()
    new = batch([[255, 0], [0, 255], [50, 60], [255, 255]], [0, 0, 0, 0])
    old = records([[255, 0], [0, 255], [50, 60], [255, 255], [7, 70]], labels)
    expected, reference = gradient_of(model, new), gradient_of(model, old)
    plain = [gradient.clone() for gradient in expected]
    project(expected, reference)
    projected = not all(map(torch.equal, expected, plain))
    assert projected == (labels[0] == 1)  # the opposite labels pull the other way
    before = [weight.detach().clone() for weight in model.parameters()]
    strategy = ready(Agem(5), model, lr=0.5, accumulation_steps=accumulation_steps, stages=[[0], [1]])
    strategy.recall = lambda: [old]
    strategy.observe(new)
    for weight, start, gradient in zip(model.parameters(), before, expected):
        assert torch.allclose(weight, start - 0.5 * gradient, atol=1e-6)


def test_nothing_is_replayed_in_the_first_task_and_its_samples_are_kept_for_the_second():
    strategy = ready(Agem(4), capacity=8, lr=0.1, stages=[[0], [1]])
    first = samples([[i, i] for i in range(20)], [0, 1] * 10)
    strategy.before_task(0, first)
    for _ in range(3):
        strategy.observe(batch([[1, 2]], [0]))
        assert len(strategy.buffer) == 0 and strategy.take_replayed() == 0
    strategy.after_task(0, first)
    assert len(strategy.buffer) == 4  # half of the memory, for one of two tasks
    strategy.before_task(1, samples([[200, 0]], [1]))
    strategy.observe(batch([[200, 0]], [1]))
    assert strategy.take_replayed() == 4
