"""Networks: the small ones of the field, and every model of timm.

Each function returns a module that maps images [B, C, H, W] to logits [B, num_outputs].
"""

import difflib
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn


def mlp(
    sample_shape: tuple[int, int, int], num_outputs: int, hidden: list, bias: bool = True, init: str = "torch"
) -> nn.Module:
    """Fully connected network with ReLU between its layers; `hidden` are the widths in between.

    `init`: "torch", the library's own (uniform, +-1/sqrt(fan_in)), or "xavier" (Glorot & Bengio 2010, eq. 16; biases
    0), which the rehearsal papers use; at their small learning rates it makes a difference of several points.
    """
    if any(width < 1 for width in hidden):
        raise ValueError(f"backbone.hidden must be widths of at least 1, got {hidden}")
    if init not in ("torch", "xavier"):
        raise ValueError(f"backbone.init must be torch or xavier, got {init!r}")
    widths = [int(torch.Size(sample_shape).numel()), *hidden, num_outputs]
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for i, (fan_in, fan_out) in enumerate(zip(widths, widths[1:])):
        layers[f"fc{i + 1}"] = nn.Linear(fan_in, fan_out, bias=bias)
        if i < len(hidden):
            layers[f"relu{i + 1}"] = nn.ReLU()
    network = nn.Sequential(layers)
    if init == "xavier":
        for name, weights in network.named_parameters():
            nn.init.zeros_(weights) if name.endswith("bias") else nn.init.xavier_uniform_(weights)
    return network


def timm_model(
    sample_shape: tuple[int, int, int], num_outputs: int, model: str, pretrained: str | None, options: dict
) -> nn.Module:
    """A model of timm by name, for the channels and classes at hand.

    `pretrained`: a file with its weights; what does not fit the number of classes or channels is timm's to adapt.
    Raises ValueError for an unknown name, an option that the model does not take, and a missing file.
    """
    import timm

    if not timm.is_model(model):
        names = timm.list_models()
        close = difflib.get_close_matches(model, names, n=5) or names[:5]
        raise ValueError(f"timm has no model {model!r}; valid names are {', '.join(close)} and others")
    if pretrained is not None and not Path(pretrained).is_file():
        raise FileNotFoundError(f"backbone.pretrained={pretrained} is not a file; null starts from random weights")
    overlay = {"pretrained_cfg_overlay": {"file": str(pretrained)}} if pretrained else {}
    try:
        return timm.create_model(
            model, pretrained=bool(pretrained), in_chans=sample_shape[0], num_classes=num_outputs, **options, **overlay
        )
    except TypeError as error:
        raise ValueError(f"backbone.options={options}: timm's {model} does not take them ({error})") from error


def resnet_cifar(
    sample_shape: tuple[int, int, int], num_outputs: int, model: str, pretrained: str | None, options: dict
) -> nn.Module:
    """A ResNet of timm with a 3x3 stem and no pooling after it, for pictures of about 32 pixels (He et al. 2016)."""
    network = timm_model(sample_shape, num_outputs, model, pretrained, options)
    if not isinstance(getattr(network, "conv1", None), nn.Conv2d) or not hasattr(network, "maxpool"):
        raise ValueError(f"backbone.model={model} is not a ResNet with a simple stem; use backbone=timm for it")
    stem = nn.Conv2d(sample_shape[0], network.conv1.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    network.conv1, network.maxpool = stem, nn.Identity()
    return network


def mixes_samples(network: nn.Module) -> bool:
    """Whether a sample's output depends on the batch it is in (batch-norm in training)."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
