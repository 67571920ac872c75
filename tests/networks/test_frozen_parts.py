"""A frozen part: which weights belong to it, that it stays as it is, and that it can be computed apart."""

import copy

import pytest
import timm
import torch
from torch import nn

from cl.networks.backbones import mixes_samples, mlp, mnistnet, resnet_cifar
from cl.networks.extraction import Extraction, fold_batch_norm
from cl.networks.frozen import cut, freeze, frozen_state, frozen_weights
from cl.networks.modes import is_frozen

SHAPE = (3, 32, 32)


def made(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=4, **options)


def varied(network: nn.Module) -> nn.Module:
    """With statistics as after some training."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
    return network


NETWORKS = {
    "mlp": (lambda: mlp((1, 4, 4), 4, [8, 6]), (1, 4, 4), "fc1", (8,), 16 * 8 + 8),
    "mlp, the last": (lambda: mlp((1, 4, 4), 4, [8, 6]), (1, 4, 4), True, (6,), 16 * 8 + 8 + 8 * 6 + 6),
    "mnistnet": (lambda: mnistnet((1, 28, 28), 4, (2, 3)), (1, 28, 28), "pool2", (3, 5, 5), 2 * 10 + 3 * 19),
    "resnet": (lambda: resnet_cifar(SHAPE, 4, "resnet18", None, {}), SHAPE, "layer2", (128, 16, 16), None),
    "a block": (lambda: made("mobilenetv3_small_050"), SHAPE, "blocks.2.0", (24, 2, 2), None),
    "a vision transformer": (lambda: made("vit_tiny_patch16_224", img_size=32), SHAPE, "blocks.1", (5, 192), None),
    "the head": (lambda: made("vit_tiny_patch16_224", img_size=32), SHAPE, True, (192,), None),
}


@pytest.mark.parametrize("make, shape, up_to, of_features, count", NETWORKS.values(), ids=NETWORKS)
def test_the_two_parts_are_the_network_and_the_first_never_changes(make, shape, up_to, of_features, count):
    network, x = varied(make()), torch.rand(4, *shape)
    freeze(network, up_to, shape)
    before = {name: value.clone() for name, value in frozen_state(network).items()}
    trained = {name for name, weight in network.named_parameters() if weight.requires_grad}
    assert trained and before and count in (None, frozen_weights(network))
    network.train()
    network(x).square().sum().backward()
    assert all((weight.grad is None) is (name not in trained) for name, weight in network.named_parameters())
    assert all(torch.equal(value, before[name]) for name, value in frozen_state(network).items())
    with torch.no_grad():
        whole = network.eval()(x)
    extraction = Extraction(network, cut(network), x[:1])
    features = extraction(x)
    assert extraction.shape == tuple(features.shape[1:]) == of_features
    network.takes_features = True
    torch.testing.assert_close(copy.deepcopy(network).eval()(features.clone()), whole, rtol=1e-4, atol=1e-5)
    assert not extraction.network.training


def test_weights_outside_of_modules_belong_to_it_where_the_output_depends_on_them():
    network = made("test_vit", img_size=32)
    freeze(network, "blocks.0", SHAPE)
    frozen = {name for name, weight in network.named_parameters() if not weight.requires_grad}
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc2.bias"} <= frozen
    assert not {name for name in frozen if name.startswith(("blocks.1", "norm", "head"))}


def test_the_order_is_that_of_the_calls_and_not_of_the_names():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.second, self.first = nn.Linear(3, 2), nn.Linear(3, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.second(self.first(x).relu()).relu())

    network = Backwards()
    freeze(network, "second", (4,))
    assert [name for name, weight in network.named_parameters() if weight.requires_grad] == ["head.weight", "head.bias"]


def test_dropout_and_statistics_before_the_cut_are_those_of_a_test_in_training_too():
    network = nn.Sequential(
        nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
    )
    freeze(network, "3", (4,))
    network.train()
    assert [module.training for module in network] == [False, False, False, False, True, True]
    assert mixes_samples(network) and [is_frozen(module) for module in network] == [True] * 4 + [False] * 2
    network(torch.rand(3, 4))
    assert network[1].num_batches_tracked == 0 and network[4].num_batches_tracked == 1
    copied = copy.deepcopy(network).train()
    assert not copied[1].training and copied[4].training
    alone = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    freeze(alone, True, (4,))
    assert not mixes_samples(alone)


@pytest.mark.parametrize("up_to, words", [
    ("fc9", r"backbone.freeze=fc9 is no module of this network \(did you mean fc2\?\); it has flatten, fc1, relu1"),
    ("fc2", "backbone.freeze=fc2 would freeze all weights"),
    ("flatten", "backbone.freeze=flatten would freeze nothing"),
    (False, "backbone.freeze must be true, the name of a module, or null"),
])  # fmt: skip
def test_what_makes_no_sense_is_said_in_a_line(up_to, words):
    with pytest.raises(ValueError, match=words):
        freeze(mlp((1, 4, 4), 4, [8]), up_to, (1, 4, 4))


def test_a_network_without_a_linear_layer_needs_a_name():
    with pytest.raises(ValueError, match="trains the last linear layer alone, and this network has none"):
        freeze(nn.Sequential(nn.Conv2d(1, 1, 1)), True, (1, 2, 2))


def test_what_needs_the_pictures_after_the_cut_cannot_be_computed_apart():
    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.second(self.first(x)) + x.sum()

    network = Skips()
    freeze(network, True, (4,))
    with pytest.raises(
        ValueError, match="what follows second also needs what was there before it.*backbone.cache=false"
    ):
        cut(network)


def test_batch_norm_is_folded_where_nothing_else_reads_the_convolution():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm_a = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)
            self.b, self.norm_b, self.act = nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2), nn.ReLU()

        def forward(self, x):
            x = self.a(x)
            return self.norm_a(x) + self.act(x) + self.norm_b(self.b(x))

    network, x = varied(Shared()).eval(), torch.rand(2, 1, 3, 3)
    with torch.no_grad():
        before = network(x)
        assert fold_batch_norm(network, lambda: network(x)) == 1
        torch.testing.assert_close(network(x), before)
    assert isinstance(network.norm_b, nn.Identity) and isinstance(network.norm_a, nn.BatchNorm2d)


def test_features_come_in_order_and_do_not_depend_on_the_number_of_threads():
    network = made("mobilenetv3_small_050")
    freeze(network, "blocks.1", SHAPE)
    pictures, threads = torch.rand(40, *SHAPE), torch.get_num_threads()
    extraction = Extraction(network, cut(network), pictures[:1])
    one, three = (
        list(extraction.over(pictures.split(extraction.batch), lambda batch: batch, number)) for number in (1, 3)
    )
    assert [len(part) for part in one] == [16, 16, 8] and torch.get_num_threads() == threads
    assert all(map(torch.equal, one, three))
    torch.testing.assert_close(torch.cat(one), extraction(pictures), rtol=1e-4, atol=1e-5)


class Twice(nn.Module):
    """A function, which is no module, reads what the convolution gives as well."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Linear(2, 4)

    def forward(self, x):
        y = self.conv(x)
        return self.fc((y + self.norm(y)).mean((2, 3)))


def test_nothing_is_folded_where_the_features_would_be_others():
    network, x = varied(Twice()), torch.rand(3, 1, 4, 4)
    with torch.no_grad():
        y = network.eval().conv(x)
        expected = (y + network.norm(y)).mean((2, 3))
    freeze(network, True, (1, 4, 4))
    assert torch.allclose(Extraction(network, cut(network), x[:1])(x), expected, atol=1e-5)


@pytest.mark.parametrize("change", [lambda net: setattr(net, "1", nn.GELU()), lambda net: setattr(net[0], "stride", 2)])
def test_features_are_named_by_what_the_network_computes_and_not_by_its_tensors_alone(change):
    codes = []
    for number in range(2):
        torch.manual_seed(0)
        inner = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5), nn.ReLU())
        if number:
            change(inner)
        network = nn.Sequential(inner, nn.Linear(5, 4))
        network(torch.zeros(1, 1, 4, 4))
        freeze(network, True, (1, 4, 4))
        codes.append(Extraction(network, cut(network), torch.zeros(1, 1, 4, 4)).code)
    assert codes[0] != codes[1]
