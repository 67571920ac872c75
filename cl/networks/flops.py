"""Floating-point operations of one sample's way through a network, by the formulas of torch.utils.flop_counter."""

import importlib
import sys
from types import ModuleType

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from cl.networks.modes import in_evaluation_mode

TRITON = ("triton", "triton.runtime", "triton.runtime.jit")


def flops(network: nn.Module, sample: torch.Tensor) -> tuple[int, int]:
    """Of the forward pass and of the backward pass of one sample [1, ...], as the network takes it.

    Matrix products and convolutions alone, a multiplication with an addition as two. The network is as it was before.
    """
    counter = _counter_mode()(display=False)
    # Attention as matrix products: fused, there are no formulas for all devices.
    # In evaluation mode statistics and random numbers stay as they are.
    with in_evaluation_mode(network), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        output = network(sample)
        forward = counter.get_total_flops()
        weights = [weight for weight in network.parameters() if weight.requires_grad]
        if output.requires_grad:
            torch.autograd.grad(output.sum(), weights, allow_unused=True)
    return forward, counter.get_total_flops() - forward


def _counter_mode() -> type:
    """torch's counter. Its module imports triton (0.07 s) to recognise kernels written in that: a stand-in does."""
    name = "torch.utils.flop_counter"
    if name in sys.modules or "triton" in sys.modules:
        return importlib.import_module(name).FlopCounterMode
    sys.modules |= {part: ModuleType(part) for part in TRITON}
    sys.modules[TRITON[-1]].JITFunction = type("JITFunction", (), {})
    try:
        return importlib.import_module(name).FlopCounterMode
    finally:
        for part in TRITON:
            del sys.modules[part]
