"""Fusions of the task vectors of whole layers, against numpy, and cases in which the result is known."""

from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from merging.fusion import Models
from merging.vectors.iso_c import IsoC
from merging.vectors.tsvm import Tsvm
from merging.vectors.wudi import Wudi


class Net(nn.Sequential):
    def __init__(self, seed: int):
        torch.manual_seed(seed)
        super().__init__(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4))


@dataclass
class Context:
    network: nn.Module = field(default_factory=lambda: Net(0))


def models(*seeds: int, **more) -> Models:
    states = [Net(seed).state_dict() for seed in seeds]
    names = [name for name, _ in Net(0).named_parameters()]
    return Models(states, [1 / len(seeds)] * len(seeds), names, Net(99).state_dict(), **more)


def deltas(given: Models, name: str) -> list[np.ndarray]:
    start = given.initial[name].double()
    return [(state[name].double() - start).flatten(1).numpy() for state in given.states]


def least_squares(moved: list[np.ndarray]) -> np.ndarray:
    """The tau of least norm with tau Delta_i^T nearest to Delta_i Delta_i^T, all i together."""
    lengths = [np.sqrt((delta**2).sum()) for delta in moved]
    known = np.concatenate([delta / length for delta, length in zip(moved, lengths)])
    wanted = np.concatenate([delta @ delta.T / length for delta, length in zip(moved, lengths)])
    return np.linalg.lstsq(known, wanted, rcond=None)[0].T


def polar(matrix: np.ndarray) -> np.ndarray:
    """The orthogonal factor, M (M^T M)^(-1/2)."""
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    return matrix @ vectors @ np.diag(values**-0.5) @ vectors.T


def joined(moved: list[np.ndarray]) -> np.ndarray:
    kept = min(moved[0].shape) // len(moved)
    parts = [np.linalg.svd(delta, full_matrices=False) for delta in moved]
    left, right = np.hstack([u[:, :kept] for u, _, _ in parts]), np.hstack([vh[:kept].T for _, _, vh in parts])
    return polar(left) @ np.diag(np.hstack([values[:kept] for _, values, _ in parts])) @ polar(right).T


def equal_values(moved: list[np.ndarray]) -> np.ndarray:
    total = sum(moved)
    return polar(total.T).T * np.linalg.svd(total, compute_uv=False).mean()


RULES = {"wudi": (partial(Wudi, cutoff=1e-10), least_squares), "tsvm": (Tsvm, joined), "iso_c": (IsoC, equal_values)}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("count", [2, 3])  # with fewer rows than columns in both layers, or more
def test_every_layer_is_merged_as_a_matrix_and_all_else_is_the_mean(name, count):
    fusion, rule = RULES[name]
    given = models(*range(1, count + 1))
    merged = fusion(scale=0.5)(given, Context())
    for layer in ("0.weight", "4.weight"):
        expected = given.initial[layer].double().flatten(1).numpy() + 0.5 * rule(deltas(given, layer))
        assert np.allclose(merged[layer].double().flatten(1).numpy(), expected, atol=1e-6), layer
        assert merged[layer].shape == given.initial[layer].shape
    start, mean = given.initial["4.bias"], sum(state["4.bias"] for state in given.states) / count
    assert torch.allclose(merged["4.bias"], start + 0.5 * (mean - start), atol=1e-6)


def square(*moved, **more) -> Models:
    """Models that are one linear layer without bias, and start from 0."""
    states = [{"0.weight": torch.tensor(each)} for each in moved]
    start = {"0.weight": torch.zeros_like(states[0]["0.weight"])}
    return Models(states, [1 / len(moved)] * len(moved), ["0.weight"], start, **more)


def layer(given: Models) -> Context:
    rows, columns = given.states[0]["0.weight"].shape
    return Context(nn.Sequential(nn.Linear(columns, rows, bias=False)))


@pytest.mark.parametrize("fusion", [Wudi(), Tsvm()])
def test_tasks_that_share_no_direction_are_added(fusion):
    given = square([[3.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
    merged = fusion(given, layer(given))["0.weight"]
    assert torch.allclose(merged, torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 2.0]]), atol=1e-6)


@pytest.mark.parametrize("fusion", [Wudi(), Tsvm()])
def test_one_model_is_that_model_and_a_layer_that_no_model_changed_stays(fusion):
    only = models(1)
    assert all(
        torch.allclose(value, only.states[0][name], atol=1e-6) for name, value in fusion(only, Context()).items()
    )
    still = square([[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]])
    assert fusion(still, layer(still))["0.weight"].tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_of_two_opinions_on_one_input_wudi_takes_that_of_the_stronger_one():
    given = square([[2.0, 0.0]], [[-1.0, 0.0]])
    # sum Delta^3 / Delta^2 over sum Delta^2 / Delta^2: (2 - 1) / 2
    assert Wudi()(given, layer(given))["0.weight"].tolist() == [[0.5, 0.0]]
    tilted = square([[1.0, 0.0]], [[1.0, 1.0]])
    # each model's own direction gives what that model gives: tau (1, 0) = 1 and tau (1, 1) = 2
    assert torch.allclose(Wudi()(tilted, layer(tilted))["0.weight"], torch.tensor([[1.0, 1.0]]))


def test_directions_that_no_model_uses_much_are_added_and_not_balanced():
    given = square([[1.0, 0.0], [0.0, 0.01]], [[1.0, 0.0], [0.0, 0.01]])
    # A = 2 diag(1, 0.0001), nearly; both agree, so what is balanced is what each says, and what is added is twice that
    balanced, added = (Wudi(cutoff=cutoff)(given, layer(given))["0.weight"] for cutoff in (0.00001, 0.001))
    assert torch.allclose(balanced, torch.tensor([[1.0, 0.0], [0.0, 0.01]]), atol=1e-6)
    assert torch.allclose(added, torch.tensor([[1.0, 0.0], [0.0, 0.02]]), atol=1e-6)


def test_a_layer_with_fewer_outputs_than_tasks_keeps_one_direction_of_each():
    given = square([[2.0, 0.0, 0.0]], [[0.0, 3.0, 0.0]], [[0.0, 0.0, 4.0]])
    merged = Tsvm()(given, layer(given))["0.weight"]
    # U = (1, 1, 1) has one row, so the nearest orthonormal one is U / sqrt(3)
    assert torch.allclose(merged, torch.tensor([[2.0, 3.0, 4.0]]) / 3**0.5, atol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_of_an_earlier_merge_the_scale_is_taken_back(name):
    fusion, weights = RULES[name][0], [0.75, 0.25]
    given, plain = models(1, 2), models(1, 2)
    start = given.initial
    first = {n: (start[n] + 2 * (v - start[n]) if v.is_floating_point() else v) for n, v in plain.states[0].items()}
    running = Models(given.states, weights, given.parameters, start, merged=3)
    half = fusion(scale=0.5)(running, Context())
    whole = fusion()(Models([first, given.states[1]], weights, given.parameters, start), Context())
    for name in given.parameters:
        assert torch.allclose(half[name], start[name] + 0.5 * (whole[name] - start[name]), atol=1e-5), name


@pytest.mark.parametrize("name", RULES)
def test_without_a_common_init_the_error_names_the_method(name):
    given = models(1, 2)
    with pytest.raises(ValueError, match=f"fusion={name} needs models that were trained from a common init"):
        RULES[name][0]()(Models(given.states, given.weights, given.parameters), Context())


def test_directions_of_rounding_have_no_part():
    """Two tasks that change one direction each, at right angles: nothing interferes, and nothing else is changed."""
    generator = torch.Generator().manual_seed(0)
    units = torch.linalg.qr(torch.randn(60, 4, generator=generator, dtype=torch.float64))[0]
    own = [3.0 * torch.outer(units[:, 0], units[:, 1]), 1.0 * torch.outer(units[:, 2], units[:, 3])]
    start = torch.randn(60, 60, generator=generator) / 8
    # As saved: each weight was rounded to float32 before and after.
    moved = [(start + delta.float()).double() - start.double() for delta in own]
    assert np.allclose(Tsvm().merged(moved), own[0] + own[1], atol=1e-5)
    both = torch.outer(units[:, 0], units[:, 1]) + torch.outer(units[:, 2], units[:, 3])
    assert np.allclose(IsoC().merged(moved), 2.0 * both, atol=1e-5)  # the mean of 3 and 1 in both directions
    assert not IsoC().merged([torch.zeros(3, 2).double()] * 2).any()
