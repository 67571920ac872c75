"""The layer of a network that gives the logits."""

from torch import nn


def last_layer(model: nn.Module, num_outputs: int, needs: str) -> nn.Module:
    """The linear layer that gives the logits; raises ValueError, saying what `needs` it, if the network has none."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    if not layers or layers[-1].out_features != num_outputs:
        raise ValueError(f"{needs} needs a network whose last layer is linear; this backbone does not end in one")
    return layers[-1]
