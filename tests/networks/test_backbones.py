"""Networks: shapes, initial weights, timm by name and from a file, the stem for small pictures, clear errors."""

import math
from pathlib import Path

import pytest
import timm
import torch
from omegaconf import OmegaConf
from torch import nn

from cl.build import build
from cl.networks.backbones import mixes_samples, mlp, resnet_cifar, timm_model
from cl.run import checkpoint

CONF = Path(__file__).resolve().parents[2] / "conf"
SMALL = "test_resnet"  # timm's own model for tests: half a million weights
PICTURE = (3, 32, 32)


# Fully connected


@pytest.mark.parametrize(
    "shape, outputs, hidden, widths",
    [
        ((1, 28, 28), 10, [100, 100], [784, 100, 100, 10]),
        ((1, 28, 28), 10, [400, 400], [784, 400, 400, 10]),
        ((3, 32, 32), 7, [20], [3072, 20, 7]),
        ((1, 8, 8), 2, [], [64, 2]),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_an_mlp_has_the_widths_asked_for(shape, outputs, hidden, widths, bias):
    network = mlp(shape, outputs, hidden, bias=bias)
    layers = [module for module in network if isinstance(module, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in layers] == list(zip(widths, widths[1:]))
    assert all((layer.bias is not None) == bias for layer in layers)
    assert [type(module) for module in network] == [nn.Flatten, *[nn.Linear, nn.ReLU] * len(hidden), nn.Linear]
    assert network(torch.zeros(4, *shape)).shape == (4, outputs)


def test_an_mlp_computes_what_its_layers_say():
    network = mlp((1, 2, 2), 1, [2])
    with torch.no_grad():
        network.fc1.weight.copy_(torch.tensor([[1.0, 1.0, 1.0, 1.0], [-1.0, 0.0, 0.0, 0.0]]))
        network.fc1.bias.copy_(torch.tensor([0.5, 0.0]))
        network.fc2.weight.copy_(torch.tensor([[2.0, 100.0]]))
        network.fc2.bias.copy_(torch.tensor([3.0]))
    # 1 + 2 + 3 + 4 + .5 = 10.5; the second unit is negative and cut off by the ReLU
    assert network(torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 2, 2)).item() == 24.0


@pytest.mark.parametrize("shape, outputs", [((1, 28, 28), 10), ((3, 32, 32), 7), ((1, 10, 12), 2)])
def test_mnistnet_takes_pictures_of_any_size_from_ten_pixels_on(shape, outputs):
    network = build({"_target_": "cl.networks.backbones.mnistnet"}, "backbone", sample_shape=shape, num_outputs=outputs)
    assert network(torch.rand(3, *shape)).shape == (3, outputs)
    if shape == (1, 28, 28):
        assert network.fc1.in_features == 1600
    x = torch.rand(2, *shape)
    assert not torch.equal(network(x), network(x))  # dropout
    network.eval()
    assert torch.equal(network(x), network(x))


def test_mnistnet_has_as_many_channels_as_asked_for():
    node = {"_target_": "cl.networks.backbones.mnistnet", "channels": [8, 16]}
    network = build(node, "backbone", sample_shape=(3, 32, 32), num_outputs=10)
    # Kernels of 3x3 with biases; 32 - 2 = 30, pooled 15, - 2 = 13, pooled 6: 16 * 36 inputs to 50 units.
    expected = (3 * 9 + 1) * 8 + (8 * 9 + 1) * 16 + (16 * 36 + 1) * 50 + 51 * 10
    assert sum(weight.numel() for weight in network.parameters()) == expected


def test_mnistnet_refuses_smaller_pictures():
    with pytest.raises(ValueError, match="at least 10x10 pixels, got 8x8"):
        build({"_target_": "cl.networks.backbones.mnistnet"}, "backbone", sample_shape=(1, 8, 8), num_outputs=10)


def test_a_transformer_is_made_for_the_size_of_the_pictures():
    node = {"_target_": "cl.networks.backbones.timm_model", "model": "vit_tiny_patch16_224", "pretrained": None}
    node["options"] = {"depth": 1, "embed_dim": 24, "patch_size": 8}
    network = build(node, "backbone", sample_shape=(3, 32, 32), num_outputs=5)
    assert network.pos_embed.shape[1] == 16 + 1 and network(torch.rand(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize(
    "init, bound", [("torch", lambda i, o: 1 / math.sqrt(i)), ("xavier", lambda i, o: math.sqrt(6 / (i + o)))]
)
def test_initial_weights_fill_their_interval_and_xavier_has_no_biases(init, bound):
    torch.manual_seed(0)
    for layer in mlp((1, 28, 28), 10, [100, 100], init=init):
        if not isinstance(layer, nn.Linear):
            continue
        limit, weights = bound(layer.in_features, layer.out_features), layer.weight.detach()
        assert weights.abs().max() <= limit
        # Uniform: of the 1000 weights or more the largest is above .98 limit, error rate .98^1000 = 2e-9; the deviation
        # is limit / sqrt(3), which 1000 draws meet within 8 % (five deviations of .9 / (2 sqrt(1000)) = 1.4 %)
        assert weights.abs().max() > 0.98 * limit
        assert weights.std() == pytest.approx(limit / math.sqrt(3), rel=0.08)
        assert (layer.bias == 0).all() if init == "xavier" else layer.bias.abs().max() > 0


def test_initial_weights_follow_torch_s_seed():
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([weight.flatten() for weight in mlp((1, 8, 8), 10, [20], init="xavier").parameters()])

    assert torch.equal(weights(1), weights(1)) and not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"hidden": [0]}, "backbone.hidden.*at least 1"),
        ({"hidden": [100, -5]}, "backbone.hidden.*at least 1"),
        ({"hidden": {"a": 100}}, "backbone.hidden must be a list"),
        (
            {"hidden": [10], "init": "Xavier"},
            "backbone.init must be torch or xavier, got 'Xavier'",
        ),
        ({"hidden": [10], "init": None}, "backbone.init must be"),
    ],
)
def test_an_mlp_that_cannot_be_is_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        build({"_target_": "cl.networks.backbones.mlp", **options}, "backbone", sample_shape=(1, 8, 8), num_outputs=10)


# timm


@pytest.mark.parametrize("model", [SMALL, "test_vit", "test_convnext"])
@pytest.mark.parametrize("channels, outputs", [(3, 10), (1, 7)])
def test_models_of_timm_are_found_by_name_and_fit_channels_and_classes(model, channels, outputs):
    network = timm_model((channels, 160, 160), outputs, model, None, {}).eval()
    with torch.no_grad():
        assert network(torch.zeros(2, channels, 160, 160)).shape == (2, outputs)


def test_options_reach_the_model():
    plain = timm_model(PICTURE, 10, SMALL, None, {})
    options = {"drop_rate": 0.25, "global_pool": "max"}
    network = timm_model(PICTURE, 10, SMALL, None, options)
    assert (network.drop_rate, network.global_pool.pool_type) == (0.25, "max")
    assert (plain.drop_rate, plain.global_pool.pool_type) == (0.0, "avg")


@pytest.mark.parametrize("make", [timm_model, resnet_cifar])
@pytest.mark.parametrize("wrong, right", [("resnet81", "resnet18"), ("vit_tiny_patch16_225", "vit_tiny_patch16_224")])
def test_an_unknown_name_is_answered_with_close_ones(make, wrong, right):
    with pytest.raises(ValueError) as error:
        make(PICTURE, 10, wrong, None, {})
    assert repr(wrong) in str(error.value) and right in str(error.value)


def test_a_name_like_no_other_is_answered_with_some():
    with pytest.raises(ValueError, match="valid names are .*, .*"):
        timm_model(PICTURE, 10, "#", None, {})


@pytest.mark.parametrize("model", [SMALL, "test_vit", "test_convnext", "test_efficientnet"])
@pytest.mark.parametrize("options", [{"no_such_option": 1}, {"num_classes": 5}, {"pretrained": True}])
def test_an_option_that_the_model_does_not_take_is_named(model, options, monkeypatch):
    # should it be taken all the same, then the test fails without asking the network for weights
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: None)
    with pytest.raises(ValueError) as error:
        timm_model(PICTURE, 10, model, None, options)
    assert "backbone.options" in str(error.value) and next(iter(options)) in str(error.value)


# Weights from a file

CLASSIFIER = ("fc.weight", "fc.bias")


def saved(path: Path, outputs: int, channels: int = 3) -> dict:
    """The weights of a network that is none of those made later, which are saved at `path`."""
    torch.manual_seed(1)
    state = timm.create_model(SMALL, num_classes=outputs, in_chans=channels).state_dict()
    # batch-norm starts alike in every network, so its numbers are made this file's own
    state = {name: value + 0.5 if value.is_floating_point() else value + 3 for name, value in state.items()}
    torch.save(state, path)
    return state


@pytest.mark.parametrize("in_file, wanted", [(1000, 1000), (1000, 10), (10, 10), (10, 7), (10, 1000)])
def test_all_weights_but_the_classifier_come_from_the_file_whatever_its_classes(tmp_path, in_file, wanted):
    state = saved(tmp_path / "weights.pt", in_file)
    network = timm_model(PICTURE, wanted, SMALL, str(tmp_path / "weights.pt"), {})
    loaded = network.state_dict()
    assert loaded.keys() == state.keys()
    for name in state.keys() - set(CLASSIFIER):
        assert torch.equal(loaded[name], state[name]), name
    assert network.fc.out_features == wanted


def test_the_classifier_of_a_file_is_kept_where_it_fits(tmp_path):
    state = saved(tmp_path / "weights.pt", 10)
    loaded = timm_model(PICTURE, 10, SMALL, str(tmp_path / "weights.pt"), {}).state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in CLASSIFIER)


def test_grey_weights_are_kept_as_they_are_and_do_not_become_colour_ones(tmp_path):
    state = saved(tmp_path / "weights.pt", 10, channels=1)
    loaded = timm_model((1, 32, 32), 10, SMALL, str(tmp_path / "weights.pt"), {}).state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state.keys() - set(CLASSIFIER))
    with pytest.raises(ValueError, match="weights.pt.*conv1.0.weight"):
        timm_model(PICTURE, 10, SMALL, str(tmp_path / "weights.pt"), {})


def test_colour_weights_become_grey_ones_by_summation(tmp_path):
    state = saved(tmp_path / "weights.pt", 10)
    network = timm_model((1, 32, 32), 10, SMALL, str(tmp_path / "weights.pt"), {})
    first = "conv1.0.weight"
    torch.testing.assert_close(network.state_dict()[first], state[first].sum(1, keepdim=True))
    assert torch.equal(network.state_dict()["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])


def test_the_checkpoint_of_a_task_is_such_a_file(tmp_path):
    network = timm_model(PICTURE, 10, SMALL, None, {})
    checkpoint.save_task(tmp_path, 0, network, {"tasks": [0]})
    loaded = timm_model(PICTURE, 10, SMALL, str(tmp_path / "task_00.pt"), {}).state_dict()
    for name, value in network.state_dict().items():
        assert torch.equal(loaded[name], value), name


def test_without_a_file_the_weights_are_random():
    torch.manual_seed(0)
    first, second = (timm_model(PICTURE, 10, SMALL, None, {}).fc.weight for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("make", [timm_model, resnet_cifar])
def test_a_missing_file_is_named(make, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        make(PICTURE, 10, "resnet18", str(tmp_path / "none.pt"), {})
    assert f"backbone.pretrained={tmp_path / 'none.pt'}" in str(error.value)


def test_a_file_that_holds_no_weights_is_named(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"<html>404 Not Found</html>")
    with pytest.raises(ValueError) as error:
        timm_model(PICTURE, 10, SMALL, str(path), {})
    assert str(path) in str(error.value)


@pytest.mark.parametrize("model", ["test_vit", "test_convnext"])
def test_a_file_with_the_weights_of_another_network_is_named_and_not_passed_over(tmp_path, model):
    path = tmp_path / "weights.pt"
    saved(path, 10)
    with pytest.raises(ValueError) as error:
        timm_model((3, 160, 160), 10, model, str(path), {})
    assert str(path) in str(error.value)


def test_a_file_with_the_weights_of_a_deeper_network_is_named_and_not_taken_in_part(tmp_path):
    path = tmp_path / "weights.pt"
    state = saved(path, 10)
    # as ResNet-34 has all of ResNet-18's names and shapes, and more
    deeper = {
        name.replace("layer4.0.", "layer4.1."): value for name, value in state.items() if "layer4.0.conv2" in name
    }
    assert deeper and not deeper.keys() & state.keys()
    torch.save(state | deeper, path)
    with pytest.raises(ValueError) as error:
        timm_model(PICTURE, 10, SMALL, str(path), {})
    assert str(path) in str(error.value)


# The stem for small pictures


@pytest.mark.parametrize("channels", [3, 1])
def test_the_stem_for_small_pictures_is_three_wide_and_keeps_the_resolution(channels):
    network = resnet_cifar((channels, 32, 32), 10, "resnet18", None, {}).eval()
    stem = network.conv1
    assert (stem.kernel_size, stem.stride, stem.padding) == ((3, 3), (1, 1), (1, 1))
    assert (stem.in_channels, stem.out_channels, stem.bias) == (channels, 64, None)
    x = torch.zeros(2, channels, 32, 32)
    with torch.no_grad():
        assert network.maxpool(network.conv1(x)).shape == (2, 64, 32, 32)  # no pooling
        assert network.forward_features(x).shape == (2, 512, 4, 4)  # stride 8 in all, as in the papers
        assert network(x).shape == (2, 10)


def test_the_number_of_weights_is_that_of_the_rehearsal_papers():
    # ResNet-18 of CIFAR-10: 11,173,962 (He et al. 2016 in the form of the rehearsal papers' code)
    network = resnet_cifar(PICTURE, 10, "resnet18", None, {})
    assert sum(weight.numel() for weight in network.parameters()) == 11_173_962


def test_the_new_stem_starts_with_the_law_of_the_other_layers():
    torch.manual_seed(0)
    stem = resnet_cifar(PICTURE, 10, "resnet18", None, {}).conv1.weight.detach()
    # He et al. 2015 by outputs: deviation sqrt(2 / (64 * 9)); 1728 draws meet it within 8.5 % (five deviations)
    assert stem.std() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.085)


@pytest.mark.parametrize("model", ["test_resnet", "test_vit", "test_convnext", "resnet26d"])
def test_a_network_without_a_simple_stem_is_rejected_with_the_remedy(model):
    with pytest.raises(ValueError, match=f"{model} is not a ResNet.*backbone=timm"):
        resnet_cifar(PICTURE, 10, model, None, {})


def test_small_pictures_get_all_weights_but_the_stem_from_a_file_for_large_ones(tmp_path):
    state = timm.create_model("resnet18", num_classes=10).state_dict()
    torch.save(state, tmp_path / "weights.pt")
    network = resnet_cifar(PICTURE, 10, "resnet18", str(tmp_path / "weights.pt"), {})
    loaded = network.state_dict()
    assert network.conv1.kernel_size == (3, 3)
    for name in state.keys() - {"conv1.weight"}:
        assert torch.equal(loaded[name], state[name]), name


def test_a_network_for_small_pictures_reads_what_it_wrote(tmp_path):
    network = resnet_cifar(PICTURE, 10, "resnet18", None, {})
    checkpoint.save_task(tmp_path, 0, network, {"tasks": [0]})
    loaded = resnet_cifar(PICTURE, 10, "resnet18", str(tmp_path / "task_00.pt"), {}).state_dict()
    for name, value in network.state_dict().items():
        assert torch.equal(loaded[name], value), name


# Whether samples of a batch have a part in each other's output

NETWORKS = {
    "mlp": (lambda: mlp(PICTURE, 10, [8]), False),
    "test_resnet": (lambda: timm_model(PICTURE, 10, SMALL, None, {}), True),
    "layer norm": (lambda: timm_model((3, 160, 160), 10, "test_convnext", None, {}), False),
    "batch norm 1d": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 5), nn.BatchNorm1d(5)), True),
    "group norm": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten()), False),
    "instance norm": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.Flatten()), False),
}


@pytest.mark.parametrize("make, mixes", NETWORKS.values(), ids=NETWORKS)
def test_networks_that_mix_the_samples_of_a_batch_are_told_from_those_that_do_not(make, mixes):
    torch.manual_seed(0)
    network = make().train()
    side = 160 if "ConvNeXt" in type(network).__name__ else 32
    sample, others = torch.rand(1, 3, side, side), torch.rand(2, 1, 3, side, side) * 5
    with torch.no_grad():
        first, second = (network(torch.cat([sample, other]))[0] for other in others)
    assert mixes_samples(network) is mixes
    assert torch.allclose(first, second, rtol=1e-4, atol=1e-5) is not mixes  # the predicate says what really happens


def test_batch_norm_over_several_processes_mixes_samples_too():
    assert mixes_samples(nn.Sequential(nn.SyncBatchNorm(4)))


# The backbones that are shipped


@pytest.mark.parametrize("name", ["mlp", "resnet18", "resnet18_cifar", "timm"])
def test_every_shipped_backbone_builds(name):
    config = OmegaConf.load(CONF / "backbone" / f"{name}.yaml")
    if name == "timm":
        config.model = SMALL
    node = OmegaConf.to_container(config, resolve=True)
    network = build(node, "backbone", sample_shape=PICTURE, num_outputs=10).eval()
    assert node["name"] == (SMALL if name == "timm" else name)
    with torch.no_grad():
        assert network(torch.zeros(1, *PICTURE)).shape == (1, 10)


def test_no_shipped_backbone_is_left_out():
    shipped = {file.stem for file in (CONF / "backbone").glob("*.yaml")}
    assert {"mlp", "resnet18", "resnet18_cifar", "timm"} <= shipped
