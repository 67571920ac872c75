"""A network of one's own: one convolution, the mean over its pixels, and a classifier.

python run.py --config-dir docs/examples/conf backbone=one_conv trust=[my_network]
"""

from torch import nn

from cl.values import Count


def one_conv(sample_shape: tuple[int, int, int], num_outputs: int, width: Count, pixels: Count) -> nn.Module:
    """Maps pictures [B, C, H, W] to logits [B, num_outputs]; `width`: channels, `pixels`: side that is left of each."""
    channels, height, width_of_picture = sample_shape
    if min(height, width_of_picture) < pixels:
        raise ValueError(
            f"backbone.pixels={pixels} is more than the {height}x{width_of_picture} pixels of the pictures"
        )
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(pixels),
        nn.Flatten(),
        nn.Linear(width * pixels**2, num_outputs),
    )
