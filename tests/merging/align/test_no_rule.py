"""Networks whose neurons cannot be followed, and that the error names the layer."""

import pytest
import timm
import torch
from torch import nn

from merging.align.structure import trace


@pytest.mark.parametrize(
    "name, shape, layer",
    [
        ("test_vit", (1, 160, 160), "VisionTransformer"),
        ("test_mambaout", (1, 64, 64), "stages.0.blocks.0 .split."),
        ("densenet121", (1, 32, 32), "cat"),
        ("resnext50_32x4d", (1, 32, 32), "layer1.0.conv2 .a convolution in 32 groups"),
    ],
)
def test_networks_without_a_rule_name_the_layer(name, shape, layer):
    with pytest.raises(ValueError, match=layer):
        trace(timm.create_model(name, num_classes=5, in_chans=1), shape)


class Over(nn.Module):
    """What is done to a picture's channels that have come last, before the outputs."""

    def __init__(self, part):
        super().__init__()
        self.conv, self.part, self.fc = nn.Conv2d(1, 6, 3), part, nn.Linear(6 * 36, 4)

    def forward(self, x):
        return self.fc(self.part(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2).flatten(1))


@pytest.mark.parametrize(
    "part", [nn.MaxPool2d(3, 1, 1), nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.GroupNorm(1, 6), nn.LayerNorm((6, 6))]
)
def test_layers_that_mix_or_normalise_other_axes_have_no_rule(part):
    with pytest.raises(ValueError, match="neurons cannot be aligned through part"):
        trace(Over(part), (1, 8, 8))
    assert trace(Over(nn.ReLU()), (1, 8, 8)).groups[0].size == 6


@pytest.mark.parametrize("axis", [2, 3])
def test_layer_norm_over_places_and_scales_of_places_have_no_rule(axis):
    class Places(Over):
        def __init__(self):
            super().__init__(nn.LayerNorm(6))
            self.scale = nn.Parameter(torch.rand(6))

        def forward(self, x):
            x = self.conv(x)
            x = self.part(x) if axis == 3 else x * self.scale.reshape(1, 1, -1, 1)
            return self.fc(x.flatten(1))

    with pytest.raises(ValueError, match="neurons cannot be aligned through"):
        trace(Places(), (1, 8, 8))
