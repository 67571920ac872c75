"""REPAIR (Jordan et al. 2023, REPAIR: REnormalizing Permuted Activations for Interpolation Repair)."""

from collections.abc import Sequence

import torch
from torch import nn

from cl.networks.frozen import frozen_state
from cl.networks.modes import is_frozen
from merging.align.rules import BATCH_NORM, MIXING
from merging.fusion import State, loaded, widened

Moments = tuple[torch.Tensor, torch.Tensor]  # mean and standard deviation of each channel


@torch.no_grad()
def repair(
    network: nn.Module, merged: State, states: Sequence[State], weights: Sequence[float], images: torch.Tensor
) -> State:
    """The merged weights with each channel's mean and deviation set to the weighted ones of the aligned networks.

    These are the channels of all linear layers and convolutions but the last one, before their activation, over all
    images in one batch (section 3.2). The paper inserts batch-norm and folds it in; here rows and biases are changed
    at once, layer after layer, so that a layer is measured with those before it repaired. A layer without bias gets the
    deviation alone. Batch-norm in the merged network normalises by this batch meanwhile. What is frozen stays.
    """
    own = [_moments(loaded(network, state).eval(), images) for state in states]
    *names, _ = own[0]
    wanted = {name: tuple(_mean([each[name][part] for each in own], weights) for part in (0, 1)) for name in names}
    network, changed = loaded(network, merged).eval(), dict(merged)
    for module in network.modules():
        if isinstance(module, BATCH_NORM) and not is_frozen(module):
            module.train()
    fixed = frozen_state(network).keys()

    def correct(name: str, output: torch.Tensor, channels: int) -> torch.Tensor | None:
        if name not in wanted or f"{name}.weight" in fixed:
            return None
        (mean, deviation), (target, target_deviation) = _moments_of(output, channels), wanted[name]
        ratio = torch.where(deviation > 0, target_deviation / deviation, 1.0)
        weight, bias = merged[f"{name}.weight"], merged.get(f"{name}.bias")
        shift = torch.zeros_like(mean) if bias is None else target - mean * ratio
        changed[f"{name}.weight"] = (weight * ratio.view(-1, *[1] * (weight.dim() - 1))).to(weight.dtype)
        if bias is not None:
            changed[f"{name}.bias"] = (bias * ratio + shift).to(bias.dtype)
        shape = [-1 if axis == channels % output.dim() else 1 for axis in range(output.dim())]
        return (output * ratio.view(shape) + shift.view(shape)).to(output.dtype)

    with _Watched(network, correct):
        network(images)
    return changed


def check_once(network: nn.Module, sample_shape: tuple[int, ...]) -> None:
    """Raise ValueError for a network that calls a layer more than once: it has no one mean and deviation."""
    device = next(network.parameters()).device
    _moments(loaded(network, network.state_dict()).eval(), torch.zeros(2, *sample_shape, device=device))


def _moments(network: nn.Module, images: torch.Tensor) -> dict[str, Moments]:
    """The moments of each layer's outputs, in the order in which the layers are called."""
    found: dict[str, Moments] = {}

    def see(name: str, output: torch.Tensor, channels: int) -> None:
        if name in found:
            raise ValueError(
                f"fusion.repair sets what a layer gives, but {name} is called more than once: set fusion.repair=0"
            )
        found[name] = _moments_of(output, channels)

    with torch.no_grad(), _Watched(network, see):
        network(images)
    return found


def _moments_of(output: torch.Tensor, channels: int) -> Moments:
    deviation, mean = torch.std_mean(widened(output).movedim(channels, 0).flatten(1), 1, correction=0)
    return mean, deviation


def _mean(parts: list[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    return sum(weight * part for weight, part in zip(weights, parts))


class _Watched:
    """Inside this block each output of a linear layer or convolution is given to `see(name, output, channels' axis)`.

    What `see` returns, unless None, takes the output's place.
    """

    def __init__(self, network: nn.Module, see):
        self.network, self.see = network, see

    def __enter__(self) -> None:
        self.handles = [
            module.register_forward_hook(
                lambda layer, _, output, name=name: self.see(name, output, -1 if isinstance(layer, nn.Linear) else 1)
            )
            for name, module in self.network.named_modules()
            if isinstance(module, MIXING)
        ]

    def __exit__(self, *_) -> None:
        for handle in self.handles:
            handle.remove()
