"""Curves between two networks: their ends, their shape, and what training their inner points does."""

import json

import pytest
import torch
from torch import nn

from merging import experiment
from merging.curve import Curve, CurveFinding


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def curve(kind: str, *seeds: int) -> tuple[Curve, list[dict]]:
    points = [network(seed).state_dict() for seed in seeds]
    return Curve(network(99), points, list(points[0]), kind).eval(), points


@pytest.mark.parametrize("kind", ["bezier", "chain"])
@pytest.mark.parametrize("bends", [1, 2, 3])
def test_ends_are_the_end_points_to_the_bit(kind, bends):
    made, points = curve(kind, *range(bends + 2))
    x = torch.randn(5, 3)
    for t, point in ((0.0, points[0]), (1.0, points[-1])):
        assert all(torch.equal(value, point[name]) for name, value in made.weights(t).items())
        made.t, plain = t, network(0)
        plain.load_state_dict(point)
        assert torch.equal(made(x), plain(x))
    for t in torch.rand(20).tolist():
        assert sum(made.coefficients(t)) == pytest.approx(1)


def test_quadratic_bezier_and_its_slope_at_the_ends():
    made, (first, middle, last) = curve("bezier", 0, 1, 2)
    half = made.weights(0.5)
    for name in first:
        assert torch.allclose(half[name], first[name] / 4 + middle[name] / 2 + last[name] / 4, atol=1e-6)
        step = 1e-3
        slope = (made.weights(step)[name] - made.weights(0.0)[name]) / step
        assert torch.allclose(slope, 2 * (middle[name] - first[name]), atol=2e-2)
        slope = (made.weights(1.0)[name] - made.weights(1 - step)[name]) / step
        assert torch.allclose(slope, 2 * (last[name] - middle[name]), atol=2e-2)


def test_chain_goes_straight_through_its_points():
    made, points = curve("chain", 0, 1, 2, 3)
    for number, point in enumerate(points):
        for name, value in made.weights(number / 3).items():
            assert torch.allclose(value, point[name], atol=1e-6)
    for name, value in made.weights(1 / 6).items():
        assert torch.allclose(value, (points[0][name] + points[1][name]) / 2, atol=1e-6)


def test_only_the_inner_points_are_trained():
    made, points = curve("bezier", 0, 1, 2)
    assert sum(weight.numel() for weight in made.parameters()) == sum(value.numel() for value in points[0].values())
    made.train()
    loss = made(torch.randn(6, 3)).square().sum()
    loss.backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in made.parameters())
    assert all(weight.grad is None for weight in made.network[0].parameters())


def test_training_draws_another_point_each_time():
    made, _ = curve("bezier", 0, 1, 2)
    x = torch.randn(5, 3)
    assert torch.equal(made(x), made(x))
    made.train()
    assert not torch.equal(made(x), made(x))


OPTIONS = (
    "scenario=class2", "progress=false", "pictures=[]", "baselines=[]", "backbone.hidden=[32]",
    "epochs=3",
)  # fmt: skip


CURVE = ("fusion=curve", "fusion.epochs=4")


def merged(compose_config, *overrides) -> dict:
    config = compose_config(*OPTIONS, *overrides, name="merge")
    return json.loads((experiment.run(config)[-1] / "results.json").read_text())


def test_the_middle_of_a_curve_knows_both_tasks(compose_config):
    average = merged(compose_config, "fusion=avg")
    found = merged(compose_config, *CURVE)
    assert found["average_accuracy"] > average["average_accuracy"] + 0.1
    assert found["merge_labelled_samples"] == 4 * (723 + 719)
    assert found["gradient_steps"] - found["merge_gradient_steps"] == average["gradient_steps"]
    again = merged(compose_config, *CURVE, f"output={compose_config().output}/again")
    assert again["accuracy_matrix"] == found["accuracy_matrix"]


def test_a_curve_of_several_bends_few_samples_and_random_points(compose_config):
    found = merged(
        compose_config,
        *CURVE,
        "fusion.bends=2",
        "fusion.kind=chain",
        "fusion.init=random",
        "fusion.samples_per_task=40",
    )
    assert found["merge_labelled_samples"] == 4 * 80


def test_an_end_of_the_curve_is_the_network_there(compose_config):
    found = merged(compose_config, "fusion=curve", "fusion.at=0.0", "fusion.epochs=1")
    assert found["accuracy_matrix"][0] == found["model_accuracy_matrix"][0]


@pytest.mark.parametrize(
    "options, word",
    [
        ({"kind": "spline"}, "kind=spline"), ({"init": "zero"}, "init=zero"), ({"bends": 0}, "bends"),
        ({"epochs": 0}, "epochs"), ({"at": 1.5}, "at must lie"), ({"samples_per_task": -1}, "samples_per_task"),
    ],
)  # fmt: skip
def test_options_out_of_range_are_named(options, word):
    with pytest.raises(ValueError, match=word):
        CurveFinding(**options)
