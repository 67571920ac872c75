"""Batch-norm statistics of a merged network, taken anew from data (Jordan et al. 2023, REPAIR, section 3)."""

from collections.abc import Iterable

import torch
from torch import nn


def has_statistics(network: nn.Module) -> bool:
    """Whether any layer has running statistics."""
    return bool(_layers(network))


@torch.no_grad()
def recompute(network: nn.Module, batches: Iterable[torch.Tensor]) -> int:
    """Replace running means and variances by those over batches of images; returns how many images that took.

    None where no layer has such statistics. Every batch counts the same.
    """
    layers = _layers(network)
    if not layers:
        return 0
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean over batches
    was_training = network.training
    network.train()
    count = 0
    for images in batches:
        network(images)
        count += len(images)
    network.train(was_training)
    for layer, momentum in zip(layers, momenta):
        layer.momentum = momentum
    return count


def _layers(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
