"""Training and evaluation mode of a network."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

MARK = "is_frozen"  # attribute of the modules that stay in evaluation mode


class KeepsFrozen:
    """Mixed into the class of a network: modules that are marked as frozen stay in evaluation mode in training."""

    def train(self, mode: bool = True):
        super().train(mode)
        for module in self.modules():
            if is_frozen(module):
                module.training = False
        return self


def mark_frozen(module: nn.Module) -> None:
    """From here on a network that `KeepsFrozen` leaves the module in evaluation mode."""
    setattr(module, MARK, True)


def is_frozen(module: nn.Module) -> bool:
    """Whether a module stays in evaluation mode."""
    return getattr(module, MARK, False)


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
