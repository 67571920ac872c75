"""Curves between two networks: their ends, their shape, and what training their inner points does."""

import json
from dataclasses import dataclass

import pytest
import torch
from matplotlib import image
from torch import nn

from merging import context, run
from merging.curve import landscape
from merging.curve.finding import Curve


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


@pytest.mark.parametrize("kind", ["bezier", "chain"])
@pytest.mark.parametrize("bends", [1, 2, 3])
def test_a_training_step_has_the_outputs_and_gradients_of_its_point(kind, bends):
    made, _ = curve(kind, *range(bends + 2))
    x = torch.randn(6, 3)

    def gradients(outputs):
        made.zero_grad(set_to_none=True)
        outputs.square().sum().backward()
        return [weight.grad if weight.grad is not None else torch.zeros_like(weight) for weight in made.parameters()]

    for t in (0.1, 0.5, 0.9):
        made.t = t
        plain, step = made(x), made.step(t, x)
        assert torch.allclose(step, plain, atol=1e-6)
        assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(gradients(step), gradients(plain)))
    assert not any(gradient.any() for gradient in gradients(made.step(0.0, x)))


@pytest.mark.parametrize("bends", [1, 2])
def test_a_step_adds_the_points_of_weights_of_any_size_and_order_in_memory(bends):
    class Network(nn.Module):
        """A weight that is cut in blocks, one in channels_last, one in two places, and one that is not used."""

        def __init__(self):
            super().__init__()
            self.large, self.pixels = nn.Linear(200, 401), nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
            self.again, self.unused = nn.Linear(200, 401, bias=False), nn.Parameter(torch.ones(()))
            self.again.weight = self.large.weight

        def forward(self, x):
            return self.large(x) * self.again(x) + self.pixels(x[:, :50].view(-1, 2, 5, 5)).mean()

    def made(seed: int) -> Network:
        torch.manual_seed(seed)
        return Network()

    own, names = made(9), [name for name, _ in made(9).named_parameters()]
    before = {name: weight.clone() for name, weight in own.named_parameters()}
    points = [dict(made(seed).named_parameters()) for seed in range(bends + 2)]
    bent = Curve(own, points, names, "bezier")
    assert bent.inner[0][names.index("pixels.weight")].is_contiguous(memory_format=torch.channels_last)
    x, coefficients = torch.randn(4, 200), bent.coefficients(0.3)
    there = made(9)
    with torch.no_grad():
        for name, weight in there.named_parameters():
            weight.copy_(sum(factor * point[name].double() for factor, point in zip(coefficients, points)))
    outputs = bent.step(0.3, x)
    assert torch.allclose(outputs, there(x), atol=1e-5)
    outputs.sum().backward()
    there(x).sum().backward()
    for point, slope in zip(bent.inner, coefficients[1:-1]):
        for name, weight in zip(names, point):
            if name == "unused":
                assert weight.grad is None
            else:
                torch.testing.assert_close(weight.grad, slope * there.get_parameter(name).grad, rtol=1e-4, atol=1e-4)
    with pytest.raises(RuntimeError):
        bent.step(0.3, x[:, 1:])
    assert dict(own.named_parameters()).keys() == before.keys() and own.again.weight is own.large.weight
    assert all(torch.equal(weight, before[name]) for name, weight in own.named_parameters())
    assert all(value.untyped_storage().nbytes() == value.nbytes for value in bent.state_dict().values())


def test_training_draws_another_point_each_time():
    made, _ = curve("bezier", 0, 1, 2)
    x = torch.randn(5, 3)
    assert torch.equal(made(x), made(x))
    made.train()
    assert not torch.equal(made(x), made(x))


OPTIONS = (
    "scenario=class2", "progress=false", "pictures=[]", "baselines=[]", "backbone.hidden=[32]", "epochs=3",
)  # fmt: skip
CURVE = ("fusion=curve", "fusion.epochs=4", "fusion.points=5", "fusion.plane=0")


def merged(compose_config, *overrides) -> dict:
    config = compose_config(*OPTIONS, *overrides, name="merge")
    return json.loads((run.run(config)[-1] / "results.json").read_text())


def test_the_middle_of_a_curve_knows_both_tasks(compose_config):
    average = merged(compose_config, "fusion=avg")
    found = merged(compose_config, *CURVE)
    assert found["average_accuracy"] > average["average_accuracy"] + 0.1
    assert found["merge_labelled_samples"] == 4 * (723 + 719)
    assert found["buffer_bytes"] - average["buffer_bytes"] == (723 + 719) * (64 + 16)
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
    found = merged(compose_config, *CURVE, "fusion.at=0.0", "fusion.epochs=1")
    assert found["accuracy_matrix"][0] == found["model_accuracy_matrix"][0]
    along = found["curve"]
    for t, model in ((0, 0), (-1, 1)):  # of both tasks' test samples together, of which there are nearly as many
        assert along["test_accuracy"][t] == along["line_test_accuracy"][t]
        assert along["test_accuracy"][t] == pytest.approx(found["model_accuracies"][model], abs=0.005)


def test_between_untrained_networks_the_trained_ones_do_not_matter(compose_config):
    words = (*CURVE, "fusion.ends=untrained", "fusion.epochs=1")
    found = merged(compose_config, *words, "strategy.init=shared")
    others = merged(compose_config, *words, "strategy.init=previous")
    assert found["model_accuracy_matrix"] != others["model_accuracy_matrix"]
    assert (
        found["accuracy_matrix"]
        == others["accuracy_matrix"]
        != merged(compose_config, *CURVE, "fusion.epochs=1")["accuracy_matrix"]
    )
    assert found["curve"]["test_accuracy"][0] < 0.3  # an end knows nothing


def test_the_best_point_is_chosen_on_samples_that_were_not_trained_on(compose_config):
    words = (*CURVE, "fusion.at=best", "fusion.held_out=0.25", "fusion.points=9")
    found = merged(compose_config, *words)
    assert found["merge_labelled_samples"] == 4 * (1442 - round(0.25 * 1442))
    assert found["curve"]["at"] in [i / 8 for i in range(2, 7)]  # not near an end, where one task is unknown
    same = merged(compose_config, *words, f"fusion.at={found['curve']['at']}")
    assert same["curve"]["at"] == found["curve"]["at"] and same["accuracy_matrix"] != found["accuracy_matrix"]


def test_measuring_says_how_far_it_is(compose_config, monkeypatch):
    begun, ended = [], []

    class Shown(context.Progress):
        def __init__(self, title, total, done, show):
            super().__init__(title, total, done, show)
            begun.append((title, total, show))

        def close(self):
            ended.append((self.done, self.total))

    monkeypatch.setattr(context, "Progress", Shown)
    merged(compose_config, *CURVE, "fusion.at=best", "fusion.plane=2", "progress=true", "fusion.epochs=0.1")
    for what, count in (("choosing the point", 5), ("along the curve", 5), ("around the curve", 4)):
        assert (what, count, True) in begun
    assert ended and all(done == total for done, total in ended)


@dataclass
class Plain:
    """What measuring asks for: the loss is half the squared norm of the weights, the accuracy its first entry."""

    network: nn.Module
    recalibrated: int = 0

    def recalibrate_batch_norm(self, network, tasks):
        self.recalibrated += 1

    def score(self, network, samples):
        weights = torch.cat([value.flatten() for value in network.state_dict().values()])
        return weights.double().square().sum().item() / 2, weights[0].item()

    def progress(self, label, items):
        yield from items


def plain_curve(kind, *points):
    network = nn.Linear(1, 1)
    states = [{"weight": torch.tensor([[x]]), "bias": torch.tensor([y])} for x, y in points]
    return Curve(network, states, ["weight", "bias"], kind).requires_grad_(False), Plain(network)


def test_measures_along_a_curve_worked_out_by_hand():
    made, context = plain_curve("chain", (0.0, 0.0), (0.0, 3.0), (4.0, 3.0))
    found = landscape.along(made, context, [0], None, None, points=9)
    assert (found["length"], found["distance"]) == (pytest.approx(7.0), pytest.approx(5.0))
    assert found["test_accuracy"] == [0, 0, 0, 0, 0, 1, 2, 3, 4]
    assert found["line_test_accuracy"] == pytest.approx([i / 2 for i in range(9)])
    assert found["train_loss"][2] == pytest.approx(1.5**2 / 2) and found["line_train_loss"][4] == pytest.approx(3.125)
    # 3 of its length at accuracy 0, then 4 at 2 in the mean
    assert found["arc_average"]["test_accuracy"] == pytest.approx(8 / 7)
    assert context.recalibrated == 18


def test_the_arc_average_of_a_bezier_curve_is_by_length_not_by_t():
    made, context = plain_curve("bezier", (0.0, 0.0), (0.0, 0.0), (4.0, 0.0))  # x = 4 t^2: slow at first
    found = landscape.along(made, context, [0], None, None, points=201)
    assert sum(found["test_accuracy"]) / 201 == pytest.approx(4 / 3, abs=0.02)
    assert found["arc_average"]["test_accuracy"] == pytest.approx(2.0, abs=1e-6)


def test_the_plane_goes_through_ends_and_control_point():
    made, context = plain_curve("bezier", (1.0, 1.0), (2.0, 4.0), (5.0, 1.0))
    found = landscape.plane(made, context, [0], None, side=5)
    assert found["points"]["last end"] == pytest.approx((4.0, 0.0))
    assert found["points"]["control point"] == pytest.approx((1.0, 3.0), abs=1e-6)
    for y, row in zip(found["y"], found["loss"]):
        for x, loss in zip(found["x"], row):
            assert loss == pytest.approx(((1 + x) ** 2 + (1 + y) ** 2) / 2, rel=1e-5)
    assert found["path"][30] == pytest.approx((0.25 * 4 + 0.5 * 1, 0.5 * 3), abs=1e-6)
    assert min(found["x"]) < -0.5 and max(found["x"]) > 4.5 and max(found["y"]) > 3.5


def test_pictures_of_the_curve_and_its_plane_are_drawn(compose_config):
    config = compose_config(*OPTIONS, *CURVE, "fusion.plane=4", "pictures=[png]", name="merge")
    folder = run.run(config)[-1]
    for name in ("curve", "curve_plane"):
        picture = image.imread(folder / f"{name}.png")
        assert picture.shape[0] > 400 and picture[..., :3].std() > 0.1
    found = json.loads((folder / "results.json").read_text())["curve"]
    assert len(found["plane"]["loss"]) == 4 and len(found["t"]) == 5
