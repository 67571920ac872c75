"""Which neurons permute together, and that the methods which align them find a hidden permutation exactly."""

import copy
from dataclasses import dataclass

import pytest
import timm
import torch
from torch import nn

from cl.networks.backbones import mlp
from merging.align.alignment import Plan, apply_plans, size_in
from merging.align.ot import Ot, transport
from merging.align.rebasin import Rebasin
from merging.align.structure import trace
from merging.fusion import Models


class Convolutions(nn.Module):
    """Batch-norm, a residual connection, a depthwise convolution with two rows per channel, and a flatten."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.conv3 = nn.Conv2d(5, 6, 1)
        self.depthwise = nn.Conv2d(6, 12, 3, groups=6)
        self.fc1, self.fc2 = nn.Linear(12 * 9, 7), nn.Linear(7, 4)

    def forward(self, x):
        x = self.norm1(self.conv1(x)).relu()
        x = x + self.conv3(torch.relu(self.norm2(self.conv2(x))))
        x = nn.functional.max_pool2d(self.depthwise(x), 2)
        return self.fc2(torch.flatten(torch.tanh(self.fc1(x.view(x.size(0), -1))), 1))


class Normalised(nn.Module):
    """Layer norm with the channels first and last, and scales of channels as ConvNeXt has them."""

    def __init__(self):
        super().__init__()
        self.conv, self.all = nn.Conv2d(1, 6, 3), nn.GroupNorm(1, 6)
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 10), nn.Linear(10, 6)
        self.gamma = nn.Parameter(torch.rand(6))
        self.beta = nn.Parameter(torch.rand(6))
        self.wide, self.after, self.last = nn.Linear(6 * 9, 8), nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.all(self.conv(x))
        y = self.norm(x.permute(0, 2, 3, 1))
        y = self.down(self.up(y).relu()) + self.beta
        x = x + y.permute(0, 3, 1, 2).mul(self.gamma.reshape(1, -1, 1, 1))
        x = self.after(self.wide(nn.functional.max_pool2d(x, 2).flatten(1)))
        return self.last(x.relu())


def timm_network(name: str) -> nn.Module:
    return timm.create_model(name, num_classes=5, in_chans=1)


NETWORKS = {
    "mlp": (lambda: mlp((1, 8, 8), 4, [12, 9]), (1, 8, 8)),
    "mlp without biases": (lambda: mlp((1, 8, 8), 4, [12, 9], bias=False), (1, 8, 8)),
    "convolutions": (Convolutions, (1, 8, 8)),
    "layer norm": (Normalised, (1, 8, 8)),
    "convnext": (lambda: timm_network("test_convnext2"), (1, 32, 32)),
    "resnet": (lambda: timm_network("test_resnet"), (1, 32, 32)),
    "mobilenet": (lambda: timm_network("test_efficientnet"), (1, 32, 32)),
}


def network(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    made, shape = NETWORKS[name][0](), NETWORKS[name][1]
    for module in made.modules():  # no channel of a normalisation is like another
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
        if isinstance(getattr(module, "gamma", None), nn.Parameter):
            nn.init.uniform_(module.gamma, 0.5, 1.5)
    made.train()(torch.randn(16, *shape))
    return made.eval()


@dataclass
class Context:
    """What fusions that align neurons ask for."""

    network: nn.Module
    sample_shape: tuple

    def images(self, tasks, count):
        return torch.randn(count, *self.sample_shape, generator=torch.Generator().manual_seed(1))

    def new_network(self, number):
        torch.manual_seed(1000 + number)
        fresh = copy.deepcopy(self.network)
        for module in fresh.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        return fresh.state_dict()


def context(name: str) -> Context:
    return Context(network(name), NETWORKS[name][1])


def models(*states: dict, names=None, **options) -> Models:
    names = names or [name for name in states[0] if not name.endswith(("running_mean", "running_var", "tracked"))]
    return Models(states, [1 / len(states)] * len(states), names, **options)


def shuffled(net: nn.Module, shape: tuple, seed: int) -> dict:
    """The weights of the same function with its neurons in another order."""
    random = torch.Generator().manual_seed(seed)
    groups = trace(net, shape).groups
    return apply_plans(net.state_dict(), {g: Plan(order=torch.randperm(g.size, generator=random)) for g in groups})


def outputs(net: nn.Module, state: dict, images: torch.Tensor) -> torch.Tensor:
    other = copy.deepcopy(net)
    other.load_state_dict(state)
    with torch.no_grad():
        return other.eval()(images)


def some(shape: tuple) -> torch.Tensor:
    return torch.randn(6, *shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("name", NETWORKS)
def test_reordering_the_groups_that_are_found_leaves_the_function(name):
    net, shape = network(name), NETWORKS[name][1]
    state, moved = net.state_dict(), shuffled(net, shape, seed=3)
    plain, reordered = outputs(net, state, some(shape)), outputs(net, moved, some(shape))
    assert plain.abs().max() > 1e-3
    assert torch.allclose(plain, reordered, rtol=1e-4, atol=1e-5)
    # every axis of every weight but the network's inputs and outputs is in some group
    listed = {(axis.name, axis.dim) for group in trace(net, shape).groups for axis in group.axes}
    one = [key for key, value in state.items() if value.dim() and value.shape[0] > 1 and (key, 0) not in listed]
    last = list(dict(net.named_parameters()))[-1].rpartition(".")[0]
    assert {key.rpartition(".")[0] for key in one} == {last}


def test_groups_follow_residual_connections_and_depthwise_convolutions():
    groups = trace(network("convolutions"), (1, 8, 8)).groups
    assert [group.size for group in groups] == [6, 5, 7]
    of_stem = {(axis.name, axis.dim, axis.repeat) for axis in groups[0].axes}
    assert {("conv1.weight", 0, 1), ("conv3.weight", 0, 1), ("conv3.bias", 0, 1), ("norm1.running_var", 0, 1)} < of_stem
    assert {("conv2.weight", 1, 1), ("depthwise.weight", 0, 2), ("fc1.weight", 1, 18)} < of_stem
    assert not any(name.startswith("fc2") and dim == 0 for name, dim, _ in of_stem)


def test_groups_follow_layer_norm_and_permuted_axes():
    groups = trace(network("layer norm"), (1, 8, 8)).groups
    assert [group.size for group in groups] == [6, 10, 8]
    of_stem = {(axis.name, axis.dim, axis.repeat) for axis in groups[0].axes}
    assert {
        (f"{name}.{part}", 0, 1) for name in ("all", "norm", "conv", "down") for part in ("weight", "bias")
    } < of_stem
    assert {("gamma", 0, 1), ("beta", 0, 1), ("up.weight", 1, 1), ("wide.weight", 1, 9)} < of_stem


METHODS = {
    "weights": lambda: Ot(),
    "activations": lambda: Ot(cost="activations", samples=400),
    "barycentre": lambda: Ot(anchor="barycentre"),
    "norm marginals": lambda: Ot(marginals="norm"),
    "rebasin": lambda: Rebasin(),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_hidden_permutation_is_found_exactly(name, method):
    net, shape = network(name), NETWORKS[name][1]
    states = [net.state_dict(), *(shuffled(net, shape, seed) for seed in (1, 2))]
    kept = copy.deepcopy(states)
    assert not any(torch.equal(states[0][key], states[1][key]) for key in states[0] if states[0][key].dim() > 1)
    merged = METHODS[method]()(models(*states), context(name))
    if (name, method) == ("resnet", "activations"):  # channels that respond to no image cannot be told apart by it
        images = context(name).images([0], 400)
        assert torch.allclose(outputs(net, merged, images), outputs(net, states[0], images), rtol=1e-3, atol=1e-4)
    else:
        for key, value in states[0].items():
            assert torch.allclose(merged[key], value, rtol=1e-5, atol=1e-6), key
    for before, after in zip(kept, states):
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_outputs_are_never_permuted():
    net = network("mlp")
    state = net.state_dict()
    reversed_ = state | {key: state[key].flip(0) for key in ("fc3.weight", "fc3.bias")}
    for method in METHODS.values():
        merged = method()(models(state, reversed_), context("mlp"))
        assert torch.allclose(merged["fc3.bias"], (state["fc3.bias"] + reversed_["fc3.bias"]) / 2)


def test_all_are_transported_to_a_random_anchor():
    net = network("convolutions")
    states = [net.state_dict(), shuffled(net, (1, 8, 8), 1)]
    for cost in ("weights", "activations"):
        merged = Ot(anchor="random", cost=cost)(models(*states), context("convolutions"))
        found, plain = (outputs(net, state, some((1, 8, 8))) for state in (merged, states[0]))
        assert torch.allclose(found, plain, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(merged["conv1.weight"], states[0]["conv1.weight"], atol=1e-3)


def doubled(state: dict) -> dict:
    """The same function with every hidden neuron twice, each with half of its outgoing weights."""
    wide = dict(state)
    for layer, after in (("fc1", "fc2"), ("fc2", "fc3")):
        for key in (f"{layer}.weight", f"{layer}.bias"):
            wide[key] = wide[key].repeat_interleave(2, 0)
        wide[f"{after}.weight"] = wide[f"{after}.weight"].repeat_interleave(2, 1) / 2
    return wide


@pytest.mark.parametrize("cost", ["weights", "activations"])
def test_networks_of_unequal_widths(cost):
    net, wide_net = network("mlp"), mlp((1, 8, 8), 4, [24, 18])
    narrow = shuffled(net, (1, 8, 8), 1)
    wide = doubled(net.state_dict())
    around = context("mlp")
    merged = Ot(cost=cost)(models(narrow, wide, unequal_widths=True), around)
    for key, value in narrow.items():
        assert torch.allclose(merged[key], value, atol=1e-6), key
    widest = Ot(cost=cost, anchor="widest")(models(narrow, wide, unequal_widths=True), around)
    assert widest["fc2.weight"].shape == (18, 24)
    plain = outputs(net, narrow, some((1, 8, 8)))
    assert torch.allclose(outputs(wide_net, widest, some((1, 8, 8))), plain, rtol=1e-4, atol=1e-5)
    group = trace(net, (1, 8, 8)).groups[0]
    assert [size_in(state, group) for state in (narrow, wide)] == [12, 24]
    with pytest.raises(ValueError, match="more than the widths of hidden layers: fc3.weight"):
        other = mlp((1, 8, 8), 5, [12, 9]).state_dict()
        Ot()(models(narrow, other, unequal_widths=True), around)
    with pytest.raises(ValueError, match="give backbone the widths of the anchor"):
        Ot(anchor="widest").check_shapes(net, (1, 8, 8), [narrow, wide])
    Ot().check_shapes(net, (1, 8, 8), [narrow, wide])


def test_soft_plans_come_near_the_exact_one():
    torch.manual_seed(0)
    cost = (torch.rand(5, 5).double() + 4 * (torch.eye(5)[[3, 1, 0, 4, 2]] == 0)).numpy()
    mass = torch.full((5,), 0.2).double().numpy()
    exact = transport(cost, mass, mass, "emd", 1.0, 1.0)
    assert sorted(exact.argmax(0)) == list(range(5)) and exact.sum() == pytest.approx(1)
    soft = transport(cost, mass, mass, "sinkhorn", 0.02, 1.0)
    assert abs(soft - exact).max() < 1e-3
    # nearly everywhere the same
    assert abs(transport(cost, mass, mass, "sinkhorn", 100.0, 1.0) - 0.04).max() < 1e-3
    loose = transport(cost, mass, mass, "unbalanced", 0.02, 50.0)
    assert abs(loose - exact).max() < 2e-2
    net = network("mlp")
    states = [net.state_dict(), shuffled(net, (1, 8, 8), 1)]
    for solver in ("sinkhorn", "unbalanced"):
        merged = Ot(solver=solver, reg=0.01, reg_marginal=20.0)(models(*states), context("mlp"))
        assert torch.allclose(merged["fc2.weight"], states[0]["fc2.weight"], atol=1e-3)


def test_a_layer_that_reads_and_writes_the_same_channels_ends_at_a_fixed_point():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.inner, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            x = self.first(x.flatten(1)).relu()
            return self.last(x + self.inner(x))

    torch.manual_seed(0)
    net = Loop()
    assert [group.size for group in trace(net, (1, 2, 3)).groups] == [8]
    found = Rebasin()(models(net.state_dict(), shuffled(net, (1, 2, 3), 4)), Context(net, (1, 2, 3)))
    assert all(torch.allclose(found[key], value, atol=1e-6) for key, value in net.state_dict().items())
    for seed in range(5):  # of different networks: the end is no worse than the beginning
        torch.manual_seed(seed + 1)
        other = Loop().state_dict()
        near = Rebasin().align(trace(net, (1, 2, 3)), net.state_dict(), other, list(other))
        assert distance(near, net.state_dict()) <= distance(other, net.state_dict()) + 1e-6


def distance(first: dict, second: dict) -> float:
    return sum((first[key] - second[key]).square().sum().item() for key in first)
