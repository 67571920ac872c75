"""REPAIR: afterwards each channel has the weighted mean and deviation of the networks, and all else is left."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from cl.networks.backbones import mlp
from merging.align.ot import Ot
from merging.align.rebasin import Rebasin
from merging.align.repair import repair
from merging.fusion import Models, mean_state

SHAPE = (1, 8, 8)


class Convolutions(nn.Module):
    """A convolution without bias before batch-norm, a depthwise one, channels that come last, and a layer norm."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.depthwise, self.up, self.inner = nn.Conv2d(6, 6, 3, groups=6), nn.Linear(6, 5), nn.LayerNorm(5)
        self.fc = nn.Linear(5 * 16, 4)

    def forward(self, x):
        x = self.depthwise(self.norm(self.conv(x)).relu()).permute(0, 2, 3, 1)
        return self.fc(self.inner(self.up(x).relu()).permute(0, 3, 1, 2).flatten(1))


NETWORKS = {
    "mlp": lambda: mlp(SHAPE, 4, [12, 9]),
    "without biases": lambda: mlp(SHAPE, 4, [12, 9], bias=False),
    "convolutions": Convolutions,
}


def network(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    made = NETWORKS[name]()
    made.train()(torch.randn(16, *SHAPE))
    return made.eval()


@dataclass
class Context:
    network: nn.Module
    sample_shape: tuple = SHAPE

    def images(self, tasks, count):
        return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def models(name: str, *seeds: int, weights=None) -> Models:
    nets = [network(name, seed) for seed in seeds]
    weights = weights or [1 / len(seeds)] * len(seeds)
    return Models([net.state_dict() for net in nets], weights, [key for key, _ in nets[0].named_parameters()])


def given_by(net: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """What each layer gives, [channels, values]."""
    found = {}
    for key, module in net.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            axis = -1 if isinstance(module, nn.Linear) else 1
            module.register_forward_hook(
                lambda *a, key=key, axis=axis: found.update({key: a[2].double().movedim(axis, 0).flatten(1)})
            )
    with torch.no_grad():
        net(images)
    return found


def with_weights(name: str, state: dict, batch_statistics: bool = False) -> nn.Module:
    made = network(name, 0)
    made.load_state_dict(state)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d) and batch_statistics:
            module.train()
    return made


@pytest.mark.parametrize("name", NETWORKS)
def test_each_channel_gets_the_weighted_mean_and_deviation_of_the_networks(name):
    given, images = models(name, 1, 2, weights=[0.75, 0.25]), Context(None).images([], 300)
    merged = mean_state(given, given.states)
    kept = {key: value.clone() for key, value in merged.items()}
    repaired = repair(network(name, 0), merged, given.states, given.weights, images)
    assert all(torch.equal(value, kept[key]) for key, value in merged.items())
    own = [given_by(with_weights(name, state), images) for state in given.states]
    before, after = (given_by(with_weights(name, state, True), images) for state in (merged, repaired))
    *hidden, last = after
    for layer in hidden:
        mean = 0.75 * own[0][layer].mean(1) + 0.25 * own[1][layer].mean(1)
        deviation = 0.75 * own[0][layer].std(1, correction=0) + 0.25 * own[1][layer].std(1, correction=0)
        assert torch.allclose(after[layer].std(1, correction=0), deviation, rtol=1e-4), layer
        assert not torch.allclose(before[layer].std(1, correction=0), deviation, rtol=1e-2), layer
        if f"{layer}.bias" in merged:
            assert torch.allclose(after[layer].mean(1), mean, atol=1e-5), layer
    for key in merged:
        if not key.startswith(tuple(f"{layer}." for layer in hidden)):
            assert torch.equal(repaired[key], merged[key]), key
    assert last.startswith("fc")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_merged_with_itself_is_left_as_it_is(name):
    given = models(name, 1, 1)
    if name == "convolutions":  # its own statistics, which the batch has as well
        net = with_weights(name, given.states[0])
        with torch.no_grad():
            seen = net.conv(Context(None).images([], 200)).movedim(1, 0).flatten(1)
        for state in given.states:
            state["norm.running_mean"], state["norm.running_var"] = seen.mean(1), seen.var(1, correction=0)
    for fusion in (Ot(repair=200), Rebasin(repair=200)):
        merged = fusion(given, Context(network(name, 0)))
        assert all(torch.allclose(value, given.states[0][key], atol=1e-4) for key, value in merged.items())


@pytest.mark.parametrize("fusion", [Ot, Rebasin])
def test_fusions_that_align_repair_the_aligned_networks(fusion):
    given, context = models("mlp", 1, 2), Context(network("mlp", 0))
    plain, repaired = fusion()(given, context), fusion(repair=150)(given, context)
    images = context.images([], 150)
    # the first layer's channels have the moments of those that they are made of, whatever their order
    own = [given_by(with_weights("mlp", state), images)["fc1"].std(1, correction=0) for state in given.states]
    merged = given_by(with_weights("mlp", repaired), images)["fc1"].std(1, correction=0)
    assert merged.sum().item() == pytest.approx((own[0].sum() + own[1].sum()).item() / 2, rel=1e-4)
    assert not torch.allclose(plain["fc1.weight"], repaired["fc1.weight"], atol=1e-3)
    assert torch.equal(plain["fc3.weight"], repaired["fc3.weight"])


def test_a_channel_that_no_image_moves_keeps_its_weights():
    given = models("mlp", 1, 1)
    for state in given.states:
        state["fc1.weight"][3] = 0
    repaired = repair(network("mlp", 0), given.states[0], given.states, [0.5, 0.5], Context(None).images([], 50))
    assert not repaired["fc1.weight"][3].any() and all(torch.isfinite(value).all() for value in repaired.values())


def test_a_layer_that_is_called_twice_is_named():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.inner, self.last = nn.Linear(64, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.last(self.inner(self.inner(self.first(x.flatten(1))).relu()))

    Ot().check(Twice(), SHAPE)
    for fusion in (Ot(repair=10), Rebasin(repair=10)):
        with pytest.raises(
            ValueError, match="fusion.repair .* but inner is called more than once: set fusion.repair=0"
        ):
            fusion.check(Twice(), SHAPE)
