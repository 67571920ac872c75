"""PtychoNN (Cherukara et al. 2020, AI-enabled high-resolution scanning coherent diffraction imaging)."""

import math

import torch
from torch import nn


class PtychoNN(nn.Module):
    """Maps diffraction patterns [B, C, H, W] to amplitude and phase, the two channels of [B, 2, H, W].

    The encoder has stages of two 3x3 convolutions and max-pooling by 2, with `widths` channels. Each output has a
    decoder with as many stages of two convolutions and bilinear upsampling by 2. The phase is pi tanh of the last
    convolution, in radians. `batch_norm`: after each activation.
    """

    def __init__(self, channels: int, widths: list[int], batch_norm: bool):
        super().__init__()
        stages = [
            _stage(narrow, wide, nn.MaxPool2d(2), batch_norm) for narrow, wide in zip([channels, *widths], widths)
        ]
        self.encoder = nn.Sequential(*stages)
        self.amplitude, self.phase = (_decoder(widths, batch_norm) for _ in range(2))
        # The initialisation of the paper's framework (Keras). With that of torch, each layer keeps a third of the
        # variance, and a deep network without batch-norm hardly learns.
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        code = self.encoder(x)
        return torch.cat([self.amplitude(code), math.pi * torch.tanh(self.phase(code))], dim=1)


def ptychonn(sample_shape: tuple[int, int, int], num_outputs: int, widths: list[int], batch_norm: bool) -> nn.Module:
    """The network for patterns of shape (C, H, W); raises ValueError for shapes and widths that do not fit."""
    channels, height, width = sample_shape
    if num_outputs != 2:
        raise ValueError(
            f"backbone=ptychonn has 2 outputs, amplitude and phase, but the scenario needs {num_outputs}: use it with "
            "scenario=reconstruction"
        )
    if not widths or any(type(width) is not int or width < 1 for width in widths):
        raise ValueError(f"backbone.widths must be at least one whole number of channels, got {widths}")
    part = 2 ** len(widths)
    if height % part or width % part:
        raise ValueError(
            f"backbone=ptychonn halves the sides {len(widths)} times: they must be multiples of {part}, got "
            f"{height}x{width}; choose dataset.size, or fewer backbone.widths"
        )
    return PtychoNN(channels, widths, batch_norm)


def _decoder(widths: list[int], batch_norm: bool) -> nn.Sequential:
    """From the code back to the input's size; for widths 32, 64, 128, 256 the channels are 256, 256, 128, 64, 32, 1."""
    falling = [widths[-1], *reversed(widths)]
    stages = [
        _stage(wide, narrow, nn.Upsample(scale_factor=2, mode="bilinear"), batch_norm)
        for wide, narrow in zip(falling, falling[1:])
    ]
    return nn.Sequential(*stages, nn.Conv2d(widths[0], 1, 3, padding=1))


def _stage(before: int, after: int, resize: nn.Module, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers += [nn.Conv2d(channels, after, 3, padding=1), nn.ReLU()]
        if batch_norm:
            layers.append(nn.BatchNorm2d(after))
    return nn.Sequential(*layers, resize)
