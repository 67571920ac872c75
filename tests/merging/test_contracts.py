"""What holds for every fusion: whether weights have a say, one model at a time; and what RegMean's layers read."""

from dataclasses import dataclass, field

import pytest
import timm
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from support import ROOT
from timm.layers import Conv2dSame, ScaledStdConv2d, StdConv2d
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrizations

from cl.build import build
from cl.scenarios.outputs import TaskOutputs
from merging import run
from merging.checks import check_options
from merging.fusion import Models, WeightFusion
from merging.means.ensemble import Ensemble
from merging.means.regmean import RegMean
from merging.means.slerp import Slerp
from merging.vectors.ties import Ties

FUSIONS = sorted(path.stem for path in (ROOT / "conf" / "fusion").glob("*.yaml"))


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 4))


def nothing(*_):
    pass


@dataclass
class Context:
    """Data and training that cost nothing: a curve stays where it begins."""

    network: nn.Module
    sample_shape: tuple = (1, 3, 3)
    outputs: TaskOutputs = field(default_factory=lambda: TaskOutputs(4))

    def progress(self, _, items):
        return items

    def images(self, tasks, count):
        return torch.randn(40, *self.sample_shape, generator=torch.Generator().manual_seed(sum(tasks)))

    def fisher(self, state, tasks, per_task, labels):
        random = torch.Generator().manual_seed(sum(tasks))
        return {name: torch.rand(value.shape, generator=random) for name, value in state.items()}

    def labelled(self, tasks, per_task, trained=True):
        return tasks

    def score(self, network, _):
        """An accuracy that anything will do for."""
        return 0.0, 0.5

    train = some = testing = record = keep = stepped = recalibrate_batch_norm = nothing


def options(name: str, compose_config, *overrides: str) -> dict:
    return OmegaConf.to_container(compose_config(f"fusion={name}", *overrides, name="merge").fusion, resolve=True)


def made(seeds, weights=None, **more) -> Models:
    states = [{k: v.detach() for k, v in net(seed).state_dict().items()} for seed in seeds]
    return Models(states, weights or [1 / len(seeds)] * len(seeds), list(states[0]), net(99).state_dict(), **more)


def outputs(fusion, models: Models) -> torch.Tensor:
    with torch.no_grad():
        merged = fusion.network(models, Context(net(0))).eval()
        return merged(torch.randn(20, 1, 3, 3, generator=torch.Generator().manual_seed(7)))


VARIANTS = [(name, ()) for name in FUSIONS] + [
    ("task_arithmetic", ("fusion.scale=0.5",)), ("dare", ("fusion.scale=0.5",)), ("dare", ("fusion.then=ties",)),
    ("ot", ("fusion.cost=activations",)), ("curve", ("fusion.start=average",)),
    ("slerp", ("fusion.t=0.3",)), ("regmean", ("fusion.bias=true",)),
]  # fmt: skip


def words(name: str, overrides: tuple) -> list[str]:
    quick = {"curve": ("fusion.points=0", "fusion.plane=0"), "adamerging": ("fusion.steps=5",)}
    return [*overrides, *quick.get(name, ())]


@pytest.mark.parametrize("name, overrides", VARIANTS)
def test_weights_have_a_say_or_are_refused(name, overrides, compose_config):
    whole = compose_config(f"fusion={name}", *words(name, overrides), "weighting=samples", "baselines=[]", name="merge")
    config = OmegaConf.to_container(whole, resolve=True)
    fusion = build(config["fusion"], "fusion")
    even, uneven = (outputs(fusion, made((1, 2), weights)) for weights in ([0.5, 0.5], [0.9, 0.1]))
    assert torch.allclose(even, uneven, atol=1e-4) is not fusion.uses_weights
    if fusion.uses_weights:
        check_options(config, config)
    else:
        with pytest.raises(ValueError, match=f"weighting=samples has no effect on fusion={name}"):
            check_options(config, config)


def one_at_a_time(fusion: WeightFusion, count: int) -> dict:
    states, merged, carried = made(range(1, count + 1)).states, None, {}
    for number, state in enumerate(states):
        given = [state] if merged is None else [merged, state]
        weights = [1.0] if merged is None else [number / (number + 1), 1 / (number + 1)]
        tasks = [[number]] if merged is None else [list(range(number)), [number]]
        models = Models(
            given, weights, list(state), net(99).state_dict(), tasks=tasks, merged=number, carried=carried
        )  # fmt: skip
        merged = fusion(models, Context(net(0)))
    return merged


EXACT = [
    ("avg", ()), ("task_arithmetic", ()), ("task_arithmetic", ("fusion.scale=0.4",)), ("magmax", ()), ("opcm", ()),
    ("magmax", ("fusion.scale=0.4",)), ("dare", ()), ("dare", ("fusion.scale=0.4",)),
    ("soup", ()),  # where all models are taken, as here
]  # fmt: skip


@pytest.mark.parametrize("name, overrides", EXACT)
def test_one_model_at_a_time_gives_what_all_at_once_give(name, overrides, compose_config):
    fusion = build(options(name, compose_config, *overrides), "fusion")
    expected = fusion(made(range(1, 6)), Context(net(0)))
    for key, value in one_at_a_time(fusion, 5).items():
        assert torch.allclose(value, expected[key], atol=2e-6), key


@pytest.mark.parametrize("name", [name for name in FUSIONS if name not in {n for n, _ in EXACT} | {"ensemble", "emr"}])
def test_of_the_others_each_step_merges_two(name, compose_config):
    fusion = build(options(name, compose_config, *words(name, ())), "fusion")
    before, state = one_at_a_time(fusion, 2), made((3,)).states[0]
    pair = Models(
        [before, state], [2 / 3, 1 / 3], list(state), net(99).state_dict(), tasks=[[0, 1], [2]]
    )  # fmt: skip
    expected = fusion(pair, Context(net(0)))
    assert all(torch.allclose(value, expected[key], atol=1e-6) for key, value in one_at_a_time(fusion, 3).items())


def test_the_scale_of_ties_counts_once_however_many_steps_there_are():
    whole, half = (one_at_a_time(Ties(keep=60, scale=scale), 4) for scale in (1.0, 0.5))
    for name, start in net(99).state_dict().items():
        assert torch.allclose(half[name], start + 0.5 * (whole[name] - start), atol=1e-6)


def test_slerp_of_one_model_is_that_model_and_of_three_one_after_the_other():
    only = made((1,))
    assert all(torch.equal(value, only.states[0][name]) for name, value in Slerp()(only).items())
    with pytest.raises(ValueError, match="two models, got 3"):
        Slerp()(made((1, 2, 3)))
    assert len(one_at_a_time(Slerp(), 3)) == 4


# The ensemble


def test_the_ensemble_of_a_run_is_the_mean_of_its_members_and_nothing_changes_them(compose_config):
    words = ("backbone=timm", "backbone.model=test_efficientnet", "scenario=class2", "epochs=1", "batch_size=64")
    quiet = ("baselines=[]", "progress=false", "pictures=[]", "fusion=ensemble")
    folder = run.run(compose_config(*words, *quiet, name="merge"))[-1]
    (trained,) = folder.parent.parent.glob("independent_*/seed0")
    kept = torch.load(folder / "task_01.pt")["model"]
    states = [torch.load(trained / f"task_{task:02d}.pt")["model"] for task in range(2)]
    for task, state in enumerate(states):
        assert all(torch.equal(value, kept[f"networks.{task}.{name}"]) for name, value in state.items())
    network, x = timm.create_model("test_efficientnet", in_chans=1, num_classes=10).eval(), torch.randn(30, 1, 8, 8)
    names = [name for name, _ in network.named_parameters()]
    ensemble = Ensemble().network(Models(states, [0.5, 0.5], names), Context(network))
    ensemble.load_state_dict(kept)
    with torch.no_grad():
        members = [functional_call(network, state, (x,)).softmax(1) for state in states]
        assert torch.allclose(ensemble.eval()(x).softmax(1), (members[0] + members[1]) / 2, atol=1e-6)
    with pytest.raises(ValueError, match="finetune_samples=10 trains merged weights, and fusion=ensemble has none"):
        run.run(compose_config(*words, *quiet, "finetune_samples=10", name="merge"))


# RegMean


class Twice(nn.Module):
    """A layer that is called twice, on different inputs."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return torch.cat([self.layer(x).flatten(1), self.layer(2 * x.flip(-1)).flatten(1)], 1)


class Functional(nn.Module):
    """A layer whose weights are used, and which is never called."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return F.linear(input=x.sin(), weight=self.layer.weight)


def conv(inputs: int, outputs: int, size: int, kind=nn.Conv2d, **more) -> nn.Module:
    return kind(inputs, outputs, size, bias=False, **more)


LAYERS = {
    "linear": (lambda: nn.Linear(5, 3, bias=False), (5,)),
    "linear on tokens": (lambda: nn.Linear(5, 3, bias=False), (4, 5)),
    "functional": (lambda: Functional(nn.Linear(5, 3, bias=False)), (4, 5)),
    "twice": (lambda: Twice(conv(2, 3, 3, padding=1)), (2, 5, 5)),
    "conv": (lambda: conv(2, 3, 3, padding=1), (2, 6, 6)),
    "stride, padding of two": (lambda: conv(2, 3, (3, 2), stride=(2, 1), padding=(0, 1)), (2, 7, 6)),
    "padding as words": (lambda: conv(2, 3, (2, 3), padding="same", dilation=(1, 2)), (2, 6, 6)),
    "valid": (lambda: conv(2, 3, 3, padding="valid"), (2, 6, 6)),
    "padding in forward": (lambda: conv(2, 3, 3, Conv2dSame, stride=2), (2, 6, 6)),
    "reflect": (lambda: conv(2, 3, 3, padding=1, padding_mode="reflect"), (2, 6, 6)),
    "circular": (lambda: conv(2, 3, 3, padding=(2, 1), padding_mode="circular"), (2, 6, 6)),
    "dilation": (lambda: conv(2, 3, 3, dilation=2, padding=2), (2, 7, 7)),
    "groups": (lambda: conv(4, 6, 3, groups=2, padding=1), (4, 5, 5)),
    "depthwise": (lambda: conv(3, 6, 3, Conv2dSame, groups=3, stride=2), (3, 6, 6)),
    "one dimension": (lambda: conv(3, 2, 3, nn.Conv1d, padding=1), (3, 8)),
    "three dimensions": (lambda: conv(2, 2, 2, nn.Conv3d, stride=(1, 2, 1)), (2, 4, 4, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_regmean_is_the_least_squares_fit_to_the_outputs_of_the_layer_itself(name):
    """Outputs are linear in the weights: what the layer gives for each unit weight is the regression's matrix."""
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = make()
    (weight,) = dict(layer.named_parameters())
    states = [{weight: torch.randn_like(layer.state_dict()[weight])} for _ in range(2)]
    around = Context(layer, shape)
    merged = RegMean(samples_per_task=40, shrink=1.0)(Models(states, [0.5, 0.5], [weight]), around)[weight]

    designs, targets = [], []
    for task, state in enumerate(states):
        images = around.images([task], 40)
        units = torch.eye(state[weight].numel()).view(-1, *state[weight].shape)
        with torch.no_grad():
            columns = [functional_call(layer, {weight: unit}, (images,)).flatten() for unit in units]
            targets.append(functional_call(layer, state, (images,)).flatten().double())
        designs.append(torch.stack(columns, 1).double())
    best = torch.linalg.lstsq(torch.cat(designs), torch.cat(targets)[:, None]).solution.view_as(merged)
    assert torch.allclose(merged.double(), best, atol=1e-5)
    assert not torch.allclose(merged, (states[0][weight] + states[1][weight]) / 2, atol=1e-2)


def test_regmean_averages_the_weights_that_only_padding_meets():
    torch.manual_seed(0)
    layer = conv(192, 8, 3, padding=1)
    states = [{"weight": torch.randn_like(layer.weight).detach()} for _ in range(2)]
    around = Context(layer, (192, 1, 1))
    merged = RegMean(samples_per_task=40)(Models(states, [0.5, 0.5], ["weight"]), around)["weight"]
    mean = (states[0]["weight"] + states[1]["weight"]) / 2
    middle = torch.zeros(3, 3, dtype=bool)
    middle[1, 1] = True
    assert torch.allclose(merged[:, :, ~middle], mean[:, :, ~middle], atol=1e-6)
    assert torch.isfinite(merged).all() and not torch.allclose(merged[:, :, middle], mean[:, :, middle], atol=0.1)


REFUSED = {
    "scaled": (lambda: nn.Sequential(ScaledStdConv2d(1, 2, 3), nn.Flatten()), r"0 \(ScaledStdConv2d\)"),
    "standardised": (lambda: nn.Sequential(StdConv2d(1, 2, 3), nn.Flatten()), r"0 \(StdConv2d\)"),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(1, 2, 3), nn.Flatten()), r"0 \(ConvTranspose2d\)"),
    "attention in one piece": (
        lambda: nn.Sequential(nn.Flatten(1, 2), nn.TransformerEncoderLayer(3, 1, 8, batch_first=True), nn.Flatten()),
        r"1.self_attn \(MultiheadAttention\)",
    ),
    "of two factors": (
        lambda: nn.Sequential(nn.Flatten(), parametrizations.weight_norm(nn.Linear(9, 2))),
        r"1 \(ParametrizedLinear\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_regmean_refuses_layers_that_are_not_linear_in_their_weights(name):
    make, where = REFUSED[name]
    with pytest.raises(
        ValueError, match=f"fusion=regmean needs weights .* unchanged, but no such product was seen in {where}"
    ):
        RegMean().check(make().eval(), (1, 3, 3))
