"""Low-rank adapters, LoRA (Hu et al. 2022, Low-Rank Adaptation of Large Language Models, section 4.1).

A layer with the weight W computes W x + (alpha / rank) B A x; W is frozen, and A and B are trained. B begins at zero,
so that training starts from the network as it was. The layers are those of the package peft, which is imported only
where adapters are asked for. What is saved of such a network are its adapters and its last linear layer, which is
trained in full; with the network that they were made for they are folded into weights W + (alpha / rank) B A.
"""

import functools
import hashlib
import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TypedDict

import torch
from torch import nn

from cl.networks.frozen import Frozen, own_state
from cl.networks.modes import KeepsFrozen, mark_frozen
from cl.values import BelowOne, Count, Positive, Text, convert_each

State = dict[str, torch.Tensor]
DEFAULTS = {"rank": None, "alpha": None, "targets": None, "dropout": 0.0}
A, B = ".lora_A.default.weight", ".lora_B.default.weight"
ATTENTION = ("qkv", "proj")  # the linear layers that have adapters in a transformer, unless others are asked for


class Options(TypedDict):
    """`backbone.lora`."""

    rank: Count | None
    alpha: Positive | None
    targets: list[Text] | None
    dropout: BelowOne


class Adapted(KeepsFrozen):
    """Mixed into the class of a network with adapters: batch-norm, which is frozen, stays in evaluation mode.

    `base`: the checksum of all that is frozen; `scale`: alpha / rank.
    """

    base: str
    scale: float


def options_of(given: Mapping | None) -> dict | None:
    """`backbone.lora`, checked, with what it does not name; None where there are to be no adapters."""
    found = convert_each("backbone.lora", DEFAULTS | dict(given or {}), Options.__annotations__)
    if found["rank"] is None:
        odd = [key for key, value in found.items() if value != DEFAULTS[key]]
        if odd:
            raise ValueError(
                f"backbone.lora.{odd[0]}={found[odd[0]]} belongs to adapters: give their size, backbone.lora.rank=8"
            )
        return None
    return found


def add(network: nn.Module, options: dict, num_outputs: int) -> None:
    """Add adapters to some layers of a network, freeze these and all others, but for the last linear layer.

    That is trained in full if it has `num_outputs` outputs. Raises ValueError where peft is missing, for targets that
    are no layers of the network, and for layers that cannot have adapters.
    """
    if find_spec("peft") is None:
        raise ValueError("backbone.lora needs the package peft, which is not installed: pip install 'remerge[lora]'")
    from peft import LoraConfig, inject_adapter_in_model

    if isinstance(network, Frozen):
        raise ValueError("backbone.lora and backbone.freeze both say what is trained: leave out one of them")
    linear = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    head = linear[-1][0] if linear and linear[-1][1].out_features == num_outputs else None
    names = _targets(network, options["targets"], head)
    rank = options["rank"]
    alpha = rank if options["alpha"] is None else options["alpha"]
    state = network.state_dict()
    trained = (
        () if head is None else tuple(f"{head}.{name}" for name, _ in network.get_submodule(head).named_parameters())
    )
    inject_adapter_in_model(
        LoraConfig(
            r=rank, lora_alpha=alpha, lora_dropout=options["dropout"],
            target_modules="|".join(map(re.escape, names)),  # read as a regular expression for whole names
        ),
        network,
    )  # fmt: skip
    for name, weight in network.named_parameters():
        weight.requires_grad_(name in trained or name.endswith((A, B)))
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            mark_frozen(module)
    network.__class__ = _class(type(network))
    network.base, network.scale = checksum(state, trained), alpha / rank
    network.train()


def adapters(network: nn.Module) -> "nn.Module | Adapters":
    """What has the state of a network that changes in training: the network itself, if it has no adapters."""
    return Adapters(network) if isinstance(network, Adapted) else network


class Adapters:
    """The state of a network's adapters and last layer; raises ValueError for those of another network."""

    def __init__(self, network: nn.Module):
        self.network = network

    def state_dict(self) -> dict:
        return {"base": self.network.base, "trained": trained_state(self.network)}

    def load_state_dict(self, state: dict) -> None:
        if state["base"] != self.network.base:
            raise ValueError(
                "the state of this run is of adapters to other weights than those of its network now: put back the "
                "file of backbone.pretrained, or begin again with overwrite=true"
            )
        self.network.load_state_dict(self.network.state_dict() | state["trained"])


class Base:
    """The state of what is frozen in a network with adapters."""

    def __init__(self, network: nn.Module):
        self.network = network

    def state_dict(self) -> dict:
        return base_state(self.network)


def trained_state(network: nn.Module) -> State:
    """The tensors of a network that are saved: all of them, or those of its adapters and its last layer."""
    state = network.state_dict()
    if not isinstance(network, Adapted):
        return state
    return {name: state[name] for name, weight in network.named_parameters() if weight.requires_grad}


def changing_state(network: nn.Module) -> State:
    """The tensors of a network that training changes: without a frozen part, and without what adapters are to."""
    own = own_state(network)
    return {name: value for name, value in trained_state(network).items() if name in own}


def base_state(network: nn.Module) -> State:
    """The tensors of a network with adapters that are frozen; {} of one without adapters."""
    if not isinstance(network, Adapted):
        return {}
    trained = trained_state(network)
    return {name: value for name, value in network.state_dict().items() if name not in trained}


def about(network: nn.Module) -> dict:
    """What a file has to say of a network's adapters beside their tensors; {} without adapters."""
    return {"lora": {"base": network.base, "scale": network.scale}} if isinstance(network, Adapted) else {}


def folded(saved: State, lora: dict, base: State, what: str) -> State:
    """The state dict of a network without adapters that computes what one with them does.

    `saved`, `lora`: the tensors and what `about` has said of them, in a file that `what` names; `base`: the state dict
    of the network that they were made for. Raises ValueError for another one.
    """
    products = {name.removesuffix(A): value for name, value in saved.items() if name.endswith(A)}
    rest = {name: value for name, value in saved.items() if not name.endswith((A, B))}
    if checksum(base, rest) != lora["base"]:
        raise ValueError(
            f"{what} holds adapters to the weights with the checksum {lora['base'][:8]}, and those of this network "
            f"have {checksum(base, rest)[:8]}: give the backbone, backbone.pretrained and seed of their training"
        )
    found = base | rest
    for layer, a in products.items():
        weight, b = base[f"{layer}.weight"], saved[f"{layer}{B}"]
        # A convolution's A has the place of its kernel, and B is 1x1: the product is that of matrices.
        found[f"{layer}.weight"] = weight + lora["scale"] * (b.flatten(1) @ a.flatten(1)).view_as(weight)
    return found


def checksum(state: State, without=()) -> str:
    """SHA-256 of the names and values of some tensors, but for those with a name in `without`."""
    digest = hashlib.sha256()
    for name in sorted(state.keys() - set(without)):
        digest.update(f"{name} {state[name].dtype} {tuple(state[name].shape)} ".encode())
        digest.update(state[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _targets(network: nn.Module, asked: list[str] | None, head: str | None) -> list[str]:
    """The names of the layers that get adapters."""
    able = {name: layer for name, layer in network.named_modules() if _is_able(layer) and name != head}
    if asked is None:
        inner = [name for name in able if name.rpartition(".")[2] in ATTENTION and isinstance(able[name], nn.Linear)]
        found = inner if any(name.endswith("qkv") for name in inner) else list(able)
        if not found:
            raise ValueError("backbone.lora: this network has no linear layer and no convolution below its last layer")
        return found
    found = [name for name in able if any(name == word or name.endswith(f".{word}") for word in asked)]
    missing = [word for word in asked if not any(name == word or name.endswith(f".{word}") for name in found)]
    if missing:
        ends = dict.fromkeys(name.rpartition(".")[2] for name in able)
        raise ValueError(
            f"backbone.lora.targets: {missing[0]} is no linear layer or plain convolution below the last layer of this "
            f"network; it has {', '.join(ends)}"
        )
    return found


def _is_able(layer: nn.Module) -> bool:
    """Whether a layer can have adapters that fold into its weight.

    A subclass may compute its output in another way, and peft makes its convolution A without dilation, groups and
    modes of padding.
    """
    if type(layer) is nn.Conv2d:
        return layer.groups == 1 and layer.padding_mode == "zeros" and set(layer.dilation) == {1}
    return type(layer) is nn.Linear


@functools.cache
def _class(kind: type) -> type:
    return type(kind.__name__, (Adapted, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})
