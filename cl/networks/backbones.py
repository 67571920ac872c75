"""Backbones: small networks from the literature, and every model of timm.

Each function takes the shape (C, H, W) of a sample and the number of outputs, and returns a module that maps images
[B, C, H, W] to logits [B, num_outputs].
"""

import contextlib
import copy
import difflib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from cl.networks import weights
from cl.networks.modes import is_frozen
from cl.networks.pretrained import Found, find, is_file, of_file, statistics
from cl.values import Count, Text

TAKEN = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "in_chans", "num_classes"}


def mlp(
    sample_shape: tuple[int, int, int],
    num_outputs: int,
    hidden: list[Count],
    bias: bool = True,
    init: Literal["torch", "xavier"] = "torch",
) -> nn.Module:
    """A fully connected network with ReLU between its layers; `hidden`: the widths of the hidden layers.

    `init`: "torch", torch's default (uniform, +-1/sqrt(fan_in)), or "xavier" (Glorot & Bengio 2010, eq. 16; biases 0),
    which the rehearsal papers use. At their small learning rates the choice changes accuracies by several points.
    """
    widths = [int(torch.Size(sample_shape).numel()), *hidden, num_outputs]
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for i, (fan_in, fan_out) in enumerate(zip(widths, widths[1:])):
        layers[f"fc{i + 1}"] = nn.Linear(fan_in, fan_out, bias=bias)
        if i < len(hidden):
            layers[f"relu{i + 1}"] = nn.ReLU()
    network = nn.Sequential(layers)
    if init == "xavier":
        for name, weight in network.named_parameters():
            nn.init.zeros_(weight) if name.endswith("bias") else nn.init.xavier_uniform_(weight)
    return network


def mnistnet(
    sample_shape: tuple[int, int, int], num_outputs: int, channels: tuple[Count, Count] = (32, 64)
) -> nn.Module:
    """Two 3x3 convolutions (of so many `channels`) with max-pooling and two fully connected layers, with dropout.

    Raises ValueError for pictures below 10x10 pixels, which leave no pixel after pooling.
    """
    (first, second), (entering, height, width) = channels, sample_shape
    sides = [((side - 2) // 2 - 2) // 2 for side in (height, width)]
    if min(sides) < 1:
        raise ValueError(f"backbone=mnistnet needs pictures of at least 10x10 pixels, got {height}x{width}")
    layers = OrderedDict(
        conv1=nn.Conv2d(entering, first, 3), pool1=nn.MaxPool2d(2), relu1=nn.ReLU(),
        conv2=nn.Conv2d(first, second, 3), drop2=nn.Dropout2d(), pool2=nn.MaxPool2d(2), relu2=nn.ReLU(),
        flatten=nn.Flatten(), fc1=nn.Linear(second * sides[0] * sides[1], 50), relu3=nn.ReLU(), drop3=nn.Dropout(),
        fc2=nn.Linear(50, num_outputs),
    )  # fmt: skip
    return nn.Sequential(layers)


def timm_model(
    sample_shape: tuple[int, int, int], num_outputs: int, model: str, pretrained: bool | Text | None, options: dict,
    input_statistics: Literal["weights", "dataset"] = "weights",
) -> nn.Module:  # fmt: skip
    """A model of timm by name, with the channels and classes of the data set.

    `pretrained`: true or a word of `cl.networks.pretrained.find`, a file (see `load_weights`), or None.
    `options`: further arguments of timm.create_model. `input_statistics`: whose mean and std pretrained weights by word
    ask for. Raises ValueError for an unknown name, for options that the model does not take and for weights that do not
    fit, OSError for weights that cannot be had.
    """
    _check_pretrained(pretrained)
    if pretrained is None or is_file(pretrained):
        network = _timm(sample_shape, num_outputs, model, options)
        if pretrained is not None:
            _load_file(network, Path(pretrained))
        return network
    found = find(model, pretrained)
    options = _fixed(found.options) | options
    network = _timm(sample_shape, num_outputs, model, options)
    if found.convert is not None:
        load_weights(network, found.path, convert=found.convert)
        return _marked(network, found, sample_shape[0], input_statistics)
    # Made once more with all of the classes, which timm fills strictly: no tensor stays random unsaid.
    cfg = {"pretrained": True, "pretrained_cfg": found.cfg}
    cfg["pretrained_cfg_overlay"] = {"file": str(found.path), "custom_load": found.cfg["custom_load"]}
    what = f"backbone.pretrained={pretrained if pretrained is not True else 'true'} ({found.path})"
    try:
        whole = _timm(sample_shape, found.cfg["num_classes"], model, options, **cfg)
    except Exception as error:  # of timm, torch and safetensors
        reason = " ".join(str(error).split())
        raise ValueError(f"{what} cannot be loaded into timm's {model}: {type(error).__name__}: {reason}") from error
    network.load_state_dict(weights.fit(whole.state_dict(), network.state_dict(), what, _classifier(network)))
    return _marked(network, found, sample_shape[0], input_statistics)


def resnet_cifar(
    sample_shape: tuple[int, int, int], num_outputs: int, model: str, pretrained: bool | Text | None, options: dict,
    input_statistics: Literal["weights", "dataset"] = "weights",
) -> nn.Module:  # fmt: skip
    """A ResNet of timm with a 3x3 stem without pooling, for pictures of about 32 pixels (He et al. 2016).

    Of pretrained weights with a 7x7 stem all but the stem are taken. Arguments and errors as of `timm_model`.
    """
    _check_pretrained(pretrained)
    found = None if pretrained is None or is_file(pretrained) else find(model, pretrained)
    network = _timm(sample_shape, num_outputs, model, (_fixed(found.options) if found else {}) | options)
    if not isinstance(getattr(network, "conv1", None), nn.Conv2d) or not hasattr(network, "maxpool"):
        raise ValueError(f"backbone.model={model} is not a ResNet with a simple stem; use backbone=timm for it")
    stem = nn.Conv2d(sample_shape[0], network.conv1.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    network.conv1, network.maxpool = stem, nn.Identity()
    if found is not None:
        load_weights(network, found.path, replaceable=("conv1.",))
        return _marked(network, found, sample_shape[0], input_statistics)
    if pretrained is not None:
        _load_file(network, Path(pretrained), replaceable=("conv1.",))  # the file may have the 7x7 stem
    return network


def _check_pretrained(pretrained: bool | str | None) -> None:
    if pretrained is False:
        raise ValueError(
            "backbone.pretrained must be true, a name, a file, or null for random weights, got false: set it to null"
        )


def _fixed(options: dict) -> dict:
    """Options with which weights were made, without those that follow the data set."""
    return {key: value for key, value in options.items() if key not in (*TAKEN, "img_size")}


def _load_file(network: nn.Module, path: Path, replaceable: tuple[str, ...] = ()) -> None:
    load_weights(network, path, replaceable)
    network.pretrained_from = of_file(path)


def _marked(network: nn.Module, found: Found, channels: int, input_statistics: str) -> nn.Module:
    """The network with what a run has to know of its weights: which they are, and how to normalise its input."""
    network.pretrained_from = found.about
    if input_statistics == "weights":
        network.input_statistics = statistics(found.cfg, channels)
    return network


def _timm(sample_shape: tuple[int, int, int], num_outputs: int, model: str, options: dict, **loading) -> nn.Module:
    """`loading`: arguments of timm.create_model that say which weights it loads."""
    import timm

    if not timm.is_model(model):
        names = timm.list_models()
        close = difflib.get_close_matches(model, names, n=5) or names[:5]
        raise ValueError(f"timm has no model {model!r}; valid names are {', '.join(close)} and others")
    taken = TAKEN & options.keys()
    if taken:
        raise ValueError(
            f"backbone.options must not have {', '.join(sorted(taken))}: channels and classes follow the data set, and "
            "weights have an option of their own (backbone.pretrained)"
        )
    if timm.get_pretrained_cfg(model).fixed_input_size:  # such as transformers with learned position embeddings
        options = {"img_size": sample_shape[1:]} | options
    try:
        return timm.create_model(model, in_chans=sample_shape[0], num_classes=num_outputs, **options, **loading)
    except TypeError as error:
        raise ValueError(f"backbone.options={options}: timm's {model} does not take them ({error})") from error
    except AssertionError as error:  # timm asserts that sizes fit together
        raise ValueError(f"timm's {model} does not take pictures of {sample_shape[1:]}: {error}") from error


def _classifier(network: nn.Module) -> tuple[str, ...]:
    """Prefixes of the classifier's tensors."""
    classifier = network.default_cfg["classifier"] or ()
    return tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))


def load_weights(
    network: nn.Module,
    path: Path,
    replaceable: tuple[str, ...] = (),
    convert: Callable[[dict, dict, str], dict] | None = None,
) -> None:
    """Load a file of weights, in any form that `cl.networks.weights` reads, into a timm network.

    The classifier, and tensors with a prefix in `replaceable`, keep their initial weights if the file has no tensor of
    that shape. The first convolution is adapted to another number of channels, as timm does. All other tensors must be
    in the file. `convert`: see `pretrained.Found`. Raises FileNotFoundError, and ValueError for a file without
    weights or with those of another network.
    """
    from timm.models import adapt_input_conv

    what = f"backbone.pretrained={path}"
    own = network.state_dict()
    replaceable += _classifier(network)
    found = weights.read(path, what)[0]
    found = weights.unprefixed(found, own, what, replaceable) if convert is None else convert(found, own, what)
    first = network.default_cfg["first_conv"]
    for name in [f"{conv}.weight" for conv in ([first] if isinstance(first, str) else first)]:
        if name in found and name in own and found[name].shape[0] == own[name].shape[0]:
            if found[name].shape[1] != own[name].shape[1]:
                with contextlib.suppress(NotImplementedError, AssertionError):  # then `fit` below raises an error
                    found[name] = adapt_input_conv(own[name].shape[1], found[name])
    network.load_state_dict(weights.fit(found, own, what, replaceable))


def mixes_samples(network: nn.Module) -> bool:
    """Whether a sample's output depends on the other samples of its batch (batch-norm in training)."""
    return any(
        isinstance(module, nn.modules.batchnorm._BatchNorm) and not is_frozen(module) for module in network.modules()
    )


@torch.no_grad()
def fewest_samples(network: nn.Module, image: torch.Tensor) -> int:
    """The smallest batch for training: 2 if batch-norm would get a single value per channel, else 1.

    `image` [1, C, H, W]: an input of the network.
    """
    if not mixes_samples(network):
        return 1
    try:
        with torch.random.fork_rng([image.device] if image.is_cuda else []):  # dropout draws random numbers
            copy.deepcopy(network).train()(image)
    except ValueError:  # torch raises it for a single value per channel
        return 2
    return 1
