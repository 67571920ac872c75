"""An exponential moving average of a network's weights over the optimizer steps: a temporal ensemble.

Soutif-Cormerais et al. 2023, Improving Online Continual Learning Performance and Stability with Temporal Ensembles,
eqs. 5 and 6: the average is tested, and training goes on with the raw weights. They take a decay of 0.99.
"""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage:
    """average <- `decay` average + (1 - `decay`) weights, after each step; it begins at the weights of the start.

    The statistics of batch-norm are averaged in the same way (as in the published code); counters are the network's.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = model
        self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self.begin()

    @property
    def network(self) -> nn.Module:
        """The network with the averaged weights."""
        return self.averaged.module

    def begin(self) -> None:
        """Start at the weights that the network has now."""
        self.network.load_state_dict(self.model.state_dict())
        self.averaged.n_averaged.fill_(1)  # 0 would take the weights after the first step as the start

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self.averaged.update_parameters(self.model)
        for own, buffer in zip(self.network.buffers(), self.model.buffers()):
            if not buffer.is_floating_point():
                own.copy_(buffer)

    def begin_unless(self, weights: dict[str, torch.Tensor]) -> None:
        """Start anew unless the network still has these weights."""
        if any(not torch.equal(value, weights[name]) for name, value in self.model.state_dict().items()):
            self.begin()

    def state_dict(self) -> dict:
        """The averaged weights, which are all that it needs to go on."""
        return self.network.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Take back what `state_dict` returned."""
        self.network.load_state_dict(state)
