"""Low-rank adapters: what is trained, what folding gives, and mistakes."""

import pytest
import torch
from torch import nn

from cl.configuration.identity import words
from cl.networks import lora
from cl.networks.backbones import mlp, timm_model
from cl.run.folder import plain
from cl.run.plan import make_plan

pytest.importorskip("peft")
RANK = 2


def small_vit() -> nn.Module:
    options = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8}
    return timm_model((3, 16, 16), 4, "vit_tiny_patch16_224", None, options)


NETWORKS = {
    "mlp": (lambda: mlp((1, 4, 4), 4, [6, 5]), (1, 4, 4), ["fc1", "fc2"], "fc3"),
    "resnet": (lambda: timm_model((3, 16, 16), 4, "test_resnet", None, {}), (3, 16, 16), None, "fc"),
    "vit": (small_vit, (3, 16, 16), [f"blocks.{i}.attn.{name}" for i in range(2) for name in ("qkv", "proj")], "head"),
}  # fmt: skip


def adapted(kind: str, **options) -> tuple[nn.Module, dict[str, torch.Tensor], torch.Tensor]:
    """A network with adapters that are no zeros, its state before it had any, and some images."""
    torch.manual_seed(0)
    make, shape, _, _ = NETWORKS[kind]
    network = make()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    lora.add(network, lora.options_of({"rank": RANK} | options), 4)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.requires_grad:
                weight += 0.3 * torch.randn_like(weight)
    return network, before, torch.randn(5, *shape)


@pytest.mark.parametrize("kind", NETWORKS)
def test_it_begins_as_the_network_itself_and_trains_adapters_and_the_last_layer(kind):
    torch.manual_seed(0)
    make, shape, layers, head = NETWORKS[kind]
    network, x = make(), torch.randn(5, *shape)
    expected = network.eval()(x)
    if layers is None:
        layers = [name for name, each in network.named_modules() if isinstance(each, nn.Conv2d)]
    lora.add(network, lora.options_of({"rank": RANK}), 4)
    assert torch.equal(network.eval()(x), expected)
    trained = {name for name, weight in network.named_parameters() if weight.requires_grad}
    names = {f"{layer}.lora_{part}.default.weight" for layer in layers for part in "AB"}
    assert trained == names | {f"{head}.weight", f"{head}.bias"}
    network.train()
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert network.training and not any(norm.training for norm in norms) and bool(norms) == (kind == "resnet")


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("alpha", [None, 3.0])
def test_folded_weights_compute_what_the_adapters_do(kind, alpha):
    network, before, x = adapted(kind, alpha=alpha)
    saved = lora.trained_state(network)
    plain_network = NETWORKS[kind][0]()
    plain_network.load_state_dict(lora.folded(saved, lora.about(network)["lora"], before, "f.pt"))
    assert torch.allclose(plain_network.eval()(x), network.eval()(x), atol=1e-5)
    assert network.scale == (1 if alpha is None else alpha / RANK)
    a, b = (next(value for name, value in saved.items() if name.endswith(end)) for end in (lora.A, lora.B))
    layer = next(name for name in saved if name.endswith(lora.A)).removesuffix(lora.A)
    # one number of the product by hand
    product = sum(b[1, r].item() * a[r].flatten()[2].item() for r in range(RANK)) if b.dim() == 2 else None
    if product is not None:
        found = plain_network.get_submodule(layer).weight[1, 2].item() - before[f"{layer}.weight"][1, 2].item()
        assert found == pytest.approx(network.scale * product, abs=1e-5)


def test_adapters_to_other_weights_are_refused():
    network, before, _ = adapted("mlp")
    before["fc1.weight"][0, 0] += 1
    with pytest.raises(ValueError, match="f.pt holds adapters to the weights with the checksum .*: give the backbone"):
        lora.folded(lora.trained_state(network), lora.about(network)["lora"], before, "f.pt")
    state = lora.adapters(network).state_dict()
    with pytest.raises(ValueError, match="the state of this run is of adapters to other weights"):
        lora.adapters(network).load_state_dict(state | {"base": "0"})


def test_targets_are_names_or_their_ends():
    def with_adapters(targets) -> set[str]:
        network = NETWORKS["vit"][0]()
        lora.add(network, lora.options_of({"rank": 1, "targets": targets}), 4)
        return {name.partition(".lora_A")[0] for name, _ in network.named_parameters() if ".lora_A" in name}

    assert with_adapters(["blocks.1.attn.qkv"]) == {"blocks.1.attn.qkv"}
    assert with_adapters(["fc1"]) == {"blocks.0.mlp.fc1", "blocks.1.mlp.fc1"}
    with pytest.raises(
        ValueError, match="backbone.lora.targets: head is no linear layer .* below the last layer .* qkv"
    ):
        with_adapters(["head"])


def test_layers_whose_product_would_not_fold_have_none():
    odd = [nn.Conv2d(4, 4, 3, **more) for more in ({"groups": 4}, {"dilation": 2}, {"padding_mode": "circular"})]
    network = nn.Sequential(nn.MultiheadAttention(4, 1), nn.Conv2d(4, 6, 1), nn.Linear(6, 4), *odd)
    lora.add(network, lora.options_of({"rank": 1}), 4)
    assert [name for name, weight in network.named_parameters() if weight.requires_grad] == [
        "1.lora_A.default.weight", "1.lora_B.default.weight", "2.weight", "2.bias",
    ]  # fmt: skip


@pytest.mark.parametrize("given, said", [
    ("backbone.lora.alpha=4", "backbone.lora.alpha=4.0 belongs to adapters: give their size"),
    ("backbone.lora.rank=0", "backbone.lora.rank must be a whole number of at least 1"),
    ("backbone.lora.rank=1 backbone.lora.dropout=1", "backbone.lora.dropout must be a number of at least 0 and bel"),
    ("+backbone.lora.size=1", "unknown option backbone.lora.size; valid: rank"),
])  # fmt: skip
def test_mistakes_are_said_in_a_line(compose_config, given, said):
    with pytest.raises(ValueError, match=said):
        make_plan(plain(compose_config(*given.split())))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package peft, .*: pip install 'remerge\[lora\]'"):
        lora.add(NETWORKS["mlp"][0](), lora.options_of({"rank": 1}), 4)


def test_the_identity_changes_only_where_it_is_asked_for(compose_config):
    none = words(plain(compose_config()))
    assert words(plain(compose_config("backbone.lora.rank=8"))) == none | {"backbone.lora.rank": 8}
