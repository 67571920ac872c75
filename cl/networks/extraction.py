"""The frozen part of a network as it is computed over a whole data set: forward alone, in evaluation mode."""

import copy
from collections.abc import Callable

import torch
from torch import nn

from cl.networks.frozen import frozen_state


class Extraction:
    """`body`: the frozen part as a function of a network and inputs (`cl.networks.frozen.cut`), on a copy of it.

    `state`: names and values of the tensors that decide about its results; `code`: the text of the function.
    """

    def __init__(self, network: nn.Module, body: Callable[[nn.Module, torch.Tensor], torch.Tensor]):
        self.state, self.body, self.code = frozen_state(network), body, body.__doc__
        self.network = copy.deepcopy(network).eval().requires_grad_(False).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Features [B, ...] of inputs [B, C, H, W]."""
        return self.body(self.network, x.contiguous(memory_format=torch.channels_last))
