"""Training and evaluation mode of a network."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Inside this block the network is in evaluation mode; afterwards each layer is in the mode in which it was."""
    modes = [(module, module.training) for module in model.modules()]  # some may be frozen
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
