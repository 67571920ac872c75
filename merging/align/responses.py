"""The inputs of layers on images, for methods that compare or fit layers by their inputs."""

from contextlib import contextmanager

import torch
from torch import nn
from torch.func import functional_call

from merging.align.structure import Group, Structure
from merging.fusion import State

BATCH = 500  # images at a time


@contextmanager
def inputs_of(network: nn.Module, layers: list[str], see):
    """Inside this block, each call of one of the layers also calls `see(name, input)`."""
    modules = dict(network.named_modules())
    handles = [
        modules[name].register_forward_pre_hook(lambda _, given, name=name: see(name, given[0])) for name in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def show(network: nn.Module, state: State, images: torch.Tensor) -> None:
    """Run a network on the images with the weights `state`, whose layers may have other widths."""
    network.eval()
    for part in images.split(BATCH):
        functional_call(network, state, (part,))


def responses(
    network: nn.Module, state: State, structure: Structure, images: torch.Tensor
) -> dict[Group, torch.Tensor]:
    """[channels, values] for each group: the inputs of the layers that read it, over all images and positions."""
    seen: dict[str, list[torch.Tensor]] = {name: [] for group in structure.groups for name, _ in group.readers}
    linear = {name for name, module in network.named_modules() if isinstance(module, nn.Linear)}  # channels come last

    def see(name: str, given: torch.Tensor) -> None:
        seen[name].append(given.movedim(-1, 1) if name in linear else given)

    with inputs_of(network, list(seen), see):
        show(network, state, images)
    return {
        group: torch.cat([_by_channel(seen[name], repeat) for name, repeat in group.readers], 1)
        for group in structure.groups
    }


def _by_channel(parts: list[torch.Tensor], repeat: int) -> torch.Tensor:
    x = torch.cat(parts)  # [N, channels * repeat, ...]
    return x.reshape(len(x), x.shape[1] // repeat, -1).movedim(1, 0).flatten(1)
