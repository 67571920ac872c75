"""The ensemble: averages the networks' probabilities, at the cost of running all networks."""

import copy

import torch
from torch import nn

from merging.fusion import Context, Fusion, Models


class MeanOfOutputs(nn.Module):
    """log sum_i w_i softmax(f_i(x)): its softmax is the mean of the networks' probabilities."""

    def __init__(self, networks: list[nn.Module], weights: list[float]):
        super().__init__()
        self.networks, self.weights = nn.ModuleList(networks), list(weights)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pairs = zip(self.weights, self.networks)
        return sum(weight * network(x).float().softmax(1) for weight, network in pairs).log()


class Ensemble(Fusion):
    """All models together, with the weighted mean of their probabilities; there are no merged weights."""

    def network(self, models: Models, context: Context) -> nn.Module:
        networks = []
        for state in models.states:
            networks.append(copy.deepcopy(context.network))
            networks[-1].load_state_dict(state)
        return MeanOfOutputs(networks, models.weights)
