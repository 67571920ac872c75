"""Recalibrate batch-norm: recompute a merged network's statistics from data (Jordan et al. 2023, REPAIR, section 3)."""

import math

import torch
from torch import nn

from cl.networks.modes import is_frozen
from merging.fusion import widened

BATCH = 500  # largest number of images per forward pass


class _Moments:
    """Mean and variance of a layer's inputs per channel, over all batches together."""

    def __init__(self, layer: nn.Module):
        self.layer, self.count = layer, 0

    def see(self, _, given: tuple[torch.Tensor, ...]) -> None:
        values = widened(given[0].detach().transpose(0, 1).flatten(1))
        variance, mean = (each.cpu().double() for each in torch.var_mean(values, 1, correction=0))
        count, before = values.shape[1], self.count
        self.count += count
        if not before:
            self.mean, self.squares = mean, variance * count
            return
        step = mean - self.mean
        self.mean = self.mean + step * (count / self.count)
        self.squares = self.squares + variance * count + step.square() * (before * count / self.count)

    def write(self) -> None:
        """Write the moments into the layer; a layer without any input keeps its statistics."""
        if self.count:
            self.layer.running_mean.copy_(self.mean)
            self.layer.running_var.copy_(self.squares / (self.count - 1))  # unbiased, as in training


def has_statistics(network: nn.Module) -> bool:
    """Whether any layer of the network has running statistics."""
    return bool(_layers(network))


@torch.no_grad()
def recompute(network: nn.Module, images: torch.Tensor, batch: int = BATCH) -> int:
    """Replace the running means and variances by those over all images.

    Returns the number of images used, 0 if no layer has running statistics. As in training, each layer normalises a
    batch by the statistics of that batch. Dropout is off. All batches have at most `batch` images, and their sizes
    differ by at most one. Raises ValueError if a channel has only one value.
    """
    layers = _layers(network)
    if not layers:
        return 0
    moments = [_Moments(layer) for layer in layers]
    handles = [each.layer.register_forward_pre_hook(each.see) for each in moments]
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    for layer in layers:
        layer.train()
    try:
        for part in images.tensor_split(math.ceil(len(images) / batch)):
            network(part)
    except ValueError as error:  # torch raises it for a channel with one value
        if len(images) > 1:
            raise
        raise ValueError("batch-norm statistics need two images or more, got 1: raise batch_norm_samples") from error
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    for each in moments:
        each.write()
    return len(images)


def _layers(network: nn.Module) -> list[nn.Module]:
    found = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    return [layer for layer in found if not is_frozen(layer)]
