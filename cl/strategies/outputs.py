"""Which outputs of a network belong to some tasks, and the layer that gives them."""

from collections.abc import Iterable, Sequence

import torch
from torch import nn


def outputs_of(
    tasks: Iterable[int], task_outputs: Sequence[range], num_outputs: int, device: torch.device
) -> torch.Tensor:
    """[C] bool: the outputs of some tasks; where tasks share their outputs (`task_outputs` is empty), all."""
    mask = torch.full((num_outputs,), not task_outputs, device=device)
    for task in tasks if task_outputs else ():
        mask[list(task_outputs[task])] = True
    return mask


def only(logits: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """Logits [n, C] with those of other outputs at minus infinity."""
    return logits.masked_fill(~outputs, float("-inf"))


def last_layer(model: nn.Module, num_outputs: int, needs: str) -> nn.Module:
    """The linear layer that gives the logits; raises ValueError, saying what `needs` it, if the network has none."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    if not layers or layers[-1].out_features != num_outputs:
        raise ValueError(f"{needs} needs a network whose last layer is linear; this backbone does not end in one")
    return layers[-1]
