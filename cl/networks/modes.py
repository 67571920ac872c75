"""Training and evaluation mode of a network."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def in_evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Inside this block the network is in evaluation mode; then each module is in the mode in which it was."""
    modes = [(module, module.training) for module in model.modules()]  # some may be frozen
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The same, without gradients."""
    with in_evaluation_mode(model), torch.no_grad():
        yield


@contextmanager
def untracked(model: nn.Module) -> Iterator[None]:
    """Inside this block batch-norm computes as in training, and its statistics for tests stay as they are."""
    tracking = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True
