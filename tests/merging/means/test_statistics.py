"""Fusions that weigh by what data tell of the models, or project: identities, and small cases worked out by hand."""

import copy
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from merging.fusion import Models
from merging.means.avg import Avg
from merging.means.ensemble import Ensemble
from merging.means.fisher import Fisher
from merging.means.regmean import RegMean
from merging.vectors.opcm import Opcm


class Net(nn.Sequential):
    def __init__(self, seed: int):
        torch.manual_seed(seed)
        super().__init__(
            nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)
        )


@dataclass
class Context:
    network: nn.Module = field(default_factory=lambda: Net(0))
    count: int = 60
    asked: list = field(default_factory=list)

    def images(self, tasks, count):
        self.asked.append((list(tasks), count))
        x = torch.randn(self.count, 1, 4, 4, generator=torch.Generator().manual_seed(tasks[0]))
        x[:, :, 0, 0] = 0  # a pixel that is never lit
        return x

    def fisher(self, state, tasks, per_task, labels):
        return {name: torch.full_like(value, 1.0 + 2 * tasks[0]) for name, value in state.items()}

    def keep(self, _):
        pass


def models(*seeds: int, weights=None, initial: int | None = None) -> Models:
    states = [Net(seed).state_dict() for seed in seeds]
    names = [name for name, _ in Net(0).named_parameters()]
    start = None if initial is None else Net(initial).state_dict()
    return Models(states, weights or [1 / len(seeds)] * len(seeds), names, start)


def small(*rows, initial=None, weights=None) -> Models:
    states = [{"w": torch.tensor(row)} for row in rows]
    start = None if initial is None else {"w": torch.tensor(initial)}
    return Models(states, weights or [1 / len(rows)] * len(rows), ["w"], start)


@pytest.mark.parametrize("fusion", [Fisher(), RegMean(), Opcm()], ids=["fisher", "regmean", "opcm"])
def test_equal_models_give_that_model_and_inputs_are_unchanged(fusion):
    given = models(3, 3, initial=3 if isinstance(fusion, Opcm) else None)
    before = copy.deepcopy(given.states)
    merged = fusion(given, Context())
    for name, value in given.states[0].items():
        assert torch.allclose(merged[name], value, rtol=0, atol=1e-7), name
    for kept, now in zip(before, given.states):
        assert all(torch.equal(kept[name], now[name]) for name in kept)


def test_fisher_weighs_by_information():
    class Known(Context):
        def fisher(self, state, tasks, per_task, labels):
            assert per_task == 7 and labels == "empirical"
            return {"w": torch.tensor([[1.0, 0.0, 3.0], [3.0, 0.0, 0.0]][tasks[0]])}

    given = small([1.0, 2.0, 5.0], [3.0, 6.0, 9.0])
    merged = Fisher(samples_per_task=7, labels="empirical")(given, Known())
    assert merged["w"].tolist() == [2.5, 4.0, 5.0]  # in the middle nothing is known
    weighed = Fisher(samples_per_task=7, labels="empirical")(
        small([1.0, 2.0, 5.0], [3.0, 6.0, 9.0], weights=[0.75, 0.25]), Known()
    )
    assert weighed["w"].tolist() == [2.0, 3.0, 5.0]


def test_regmean_is_the_least_squares_fit_to_what_each_layer_gives():
    """Without shrinking the first layer solves a regression of both models' outputs on their own inputs."""
    given, around = models(1, 2), Context()
    merged = RegMean(samples_per_task=60, shrink=1.0)(given, around)
    assert around.asked == [([0], 60), ([1], 60)]
    inputs, targets = [], []
    for task, state in enumerate(given.states):
        patches = nn.functional.unfold(around.images([task], 60), 3, stride=2, padding=1)
        x = patches.transpose(1, 2).reshape(-1, 9).double()
        inputs.append(x)
        targets.append(x @ state["0.weight"].flatten(1).T.double())
    solution = torch.linalg.lstsq(torch.cat(inputs), torch.cat(targets)).solution
    assert torch.allclose(merged["0.weight"].flatten(1).T.double(), solution, atol=1e-6)
    assert not torch.allclose(merged["0.weight"], Avg()(given)["0.weight"], atol=1e-3)
    assert torch.equal(merged["0.bias"], Avg()(given)["0.bias"])
    # with inputs that are not correlated, each input is weighed by how strongly it came
    diagonal = RegMean(samples_per_task=60, shrink=0.0)(given, around)["0.weight"].flatten(1).double()
    strength = torch.stack([x.square().sum(0) for x in inputs])
    rows = torch.stack([state["0.weight"].flatten(1).double() for state in given.states])
    assert torch.allclose(diagonal, (strength[:, None] * rows).sum(0) / strength.sum(0), atol=1e-6)


def test_regmean_with_bias_is_the_least_squares_fit_with_a_constant():
    """Of a convolution and of a linear layer, to the outputs of each model on its own inputs, their biases included."""
    given, around = models(1, 2), Context()
    merged = RegMean(samples_per_task=60, shrink=1.0, bias=True)(given, around)
    plain = RegMean(samples_per_task=60, shrink=1.0)(given, around)
    of_convolution, of_linear = lambda _, x: patches_of(x), lambda network, x: nn.Sequential(*list(network)[:4])(x)
    for name, rows in (("0", of_convolution), ("4", of_linear)):
        inputs, targets = [], []
        for task, state in enumerate(given.states):
            network = Net(0).eval()
            network.load_state_dict(state)
            with torch.no_grad():
                x = rows(network, around.images([task], 60)).double()
            inputs.append(torch.cat([x, torch.ones(len(x), 1)], 1))
            targets.append(x @ state[f"{name}.weight"].flatten(1).T.double() + state[f"{name}.bias"].double())
        solution = torch.linalg.lstsq(torch.cat(inputs), torch.cat(targets)).solution
        assert torch.allclose(merged[f"{name}.weight"].flatten(1).T.double(), solution[:-1], atol=1e-5)
        assert torch.allclose(merged[f"{name}.bias"].double(), solution[-1], atol=1e-5)
        assert not torch.allclose(plain[f"{name}.bias"], merged[f"{name}.bias"], atol=1e-3)
        assert merged[f"{name}.weight"].shape == plain[f"{name}.weight"].shape


def patches_of(x: torch.Tensor) -> torch.Tensor:
    return nn.functional.unfold(x, 3, stride=2, padding=1).transpose(1, 2).reshape(-1, 9)


def test_regmean_with_bias_takes_groups_of_a_convolution_and_layers_without_bias():
    layer = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(16, 3, bias=False))
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append({name: torch.randn_like(value) for name, value in layer.state_dict().items()})
    given = Models([states[0], states[0]], [0.5, 0.5], list(states[0]))

    class Pairs(Context):
        def images(self, tasks, count):
            return torch.randn(60, 2, 4, 4, generator=torch.Generator().manual_seed(tasks[0]))

    merged = RegMean(bias=True)(given, Pairs(layer))
    assert all(torch.allclose(value, states[0][name], atol=1e-6) for name, value in merged.items())
    mixed = RegMean(bias=True)(Models(states, [0.5, 0.5], list(states[0])), Pairs(layer))
    mean = (states[0]["0.bias"] + states[1]["0.bias"]) / 2
    assert mixed["0.bias"].shape == (4,) and not torch.allclose(mixed["0.bias"], mean, atol=1e-3)


def test_regmean_averages_where_no_input_ever_is():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        linear[1].reset_parameters()
        states.append(copy.deepcopy(linear.state_dict()))
    given = Models(states, [0.5, 0.5], ["1.weight", "1.bias"])
    merged = RegMean()(given, Context(linear))
    mean = (states[0]["1.weight"] + states[1]["1.weight"]) / 2
    assert torch.allclose(merged["1.weight"][:, 0], mean[:, 0], atol=1e-7)
    assert not torch.allclose(merged["1.weight"][:, 1:], mean[:, 1:], atol=1e-3)


def matrices(*rows, **options) -> Models:
    """Models that are one square linear layer."""
    given = small(*rows, **options)
    states, start = ([{"0.weight": state["w"]} for state in part] for part in (given.states, [given.initial]))
    return Models(states, given.weights, ["0.weight"], start[0])


def square() -> Context:
    return Context(nn.Sequential(nn.Linear(3, 3, bias=False)))


@pytest.mark.parametrize(
    "alpha, block",  # 4 of 5 lie in the first direction: with .8 or more it does not exceed the share, but all three do
    [(0.0, 0), (0.5, 0), (0.75, 0), (0.85, 1), (0.99, 1), (1.0, 3)],
)
def test_opcm_adds_what_is_new_and_keeps_the_mean_length(alpha, block):
    start = [[0.0] * 3] * 3
    first, second = torch.diag(torch.tensor([4.0, 1.0, 0.0])), torch.arange(1.0, 10.0).view(3, 3)
    merged = Opcm(alpha=alpha)(matrices(first.tolist(), second.tolist(), initial=start), square())["0.weight"]
    kept = second - second.diag().diag()
    kept[:block, :block] = 0
    expected = first + kept
    length = (first.norm() + second.norm()) / 2
    assert torch.allclose(merged, expected * length / expected.norm(), atol=1e-5)


def published_opcm(start: list[dict], models: list[dict], alpha: float, linear: str) -> dict:
    """The method as its paper and code write it, in full bases: the projection, lambda_t, the mean of the norms."""
    tau = [{name: model[name].double() - start[name].double() for name in model} for model in models]
    norms = [torch.cat([value.flatten() for value in vector.values()]).norm() for vector in tau]
    merged, scale = tau[0], 1.0
    for t, vector in enumerate(tau[1:], start=2):
        total = {}
        for name, own in vector.items():
            if name == linear:
                u, s, vh = torch.linalg.svd(merged[name], full_matrices=True)
                inside = u.T @ own @ vh.T
                first = next(i for i in range(len(s)) if s[: i + 1].sum() / s.sum() > alpha)
                inside[range(len(s)), range(len(s))] = 0
                inside[:first, :first] = 0
                own = u @ inside @ vh
            total[name] = scale * merged[name] + own
        mean = sum(norms[:t]) / t
        scale = torch.cat([value.flatten() for value in total.values()]).norm() / mean
        merged = {name: value / scale for name, value in total.items()}
    return {name: start[name].double() + value for name, value in merged.items()}


class Layer(nn.Module):
    """A linear layer, and weights of two dimensions that are none."""

    def __init__(self, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.fc = nn.Linear(7, 4)
        self.places = nn.Parameter(torch.randn(3, 5))


@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.8])
def test_opcm_at_once_and_one_at_a_time_is_the_published_method(alpha):
    start, *states = ({k: v.detach() for k, v in Layer(seed).state_dict().items()} for seed in range(6))
    names, around = list(start), Context(Layer(0))
    expected = published_opcm(start, states, alpha, "fc.weight")
    at_once = Opcm(alpha)(Models(states, [0.2] * 5, names, start), around)
    carried, merged = {}, None
    for number, state in enumerate(states):
        given = [state] if merged is None else [merged, state]
        weights = [1.0] if merged is None else [number / (number + 1), 1 / (number + 1)]
        merged = Opcm(alpha)(Models(given, weights, names, start, merged=number, carried=carried), around)
    for name, value in expected.items():
        assert torch.allclose(at_once[name].double(), value, atol=1e-6), name
        assert torch.allclose(merged[name].double(), value, atol=1e-5), name


def test_opcm_of_one_model_is_that_model_and_vectors_are_added():
    only = models(1, initial=0)
    assert all(torch.allclose(Opcm()(only, Context())[name], value) for name, value in only.states[0].items())
    merged = Opcm()(small([3.0, 0.0], [0.0, 4.0], initial=[0.0, 0.0]), Context())["w"]
    assert torch.allclose(merged, torch.tensor([3.0, 4.0]) * 3.5 / 5)
    with pytest.raises(ValueError, match="fusion=opcm needs models that were trained from a common init"):
        Opcm()(small([1.0], [2.0]), Context())


def test_the_ensemble_gives_mean_probabilities():
    given = models(1, 2, weights=[0.25, 0.75])
    network = Ensemble().network(given, Context()).eval()
    x = torch.randn(5, 1, 4, 4)
    each = []
    for state in given.states:
        net = Net(0)
        net.load_state_dict(state)
        each.append(net.eval()(x).softmax(1))
    assert torch.allclose(network(x).softmax(1), 0.25 * each[0] + 0.75 * each[1], atol=1e-6)
