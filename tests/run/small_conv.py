"""A small convolutional network without batch-norm and dropout, for pictures of 8x8 pixels."""

from torch import nn


def network(sample_shape: tuple[int, int, int], num_outputs: int, channels: int = 4, dropout: float = 0.0) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(sample_shape[0], channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(channels, channels, 3), nn.GroupNorm(2, channels), nn.ReLU(), nn.Flatten(),
        *([nn.Dropout(dropout)] if dropout else []),
        nn.Linear(channels * 4, num_outputs),
    )  # fmt: skip
