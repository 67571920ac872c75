"""What fusions share that merge the task vector of each layer as a matrix; all other weights get the mean."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import nn

from merging.fusion import Context, Models, State, WeightFusion, buffers, unscaled

MATRICES = (nn.Linear, nn.modules.conv._ConvNd)


class MatrixFusion(WeightFusion):
    """theta_0 + scale tau, where tau of a layer is a function of the matrices Delta_i = theta_i - theta_0 of the layer.

    The layers are the weights of linear layers, and those of convolutions as matrices [outputs, everything else]. For
    all other weights tau is the mean of the task vectors, and in these alone the models' weights have a say. With
    running=true each step merges two: the merge so far (before `scale`) and the next model.
    """

    needs_initial = True
    method: str  # its name, for errors
    scale: float

    @abstractmethod
    def merged(self, deltas: Sequence[torch.Tensor]) -> torch.Tensor:
        """The merged matrix [m, n] of the matrices of all models, in double precision."""

    def __call__(self, models: Models, context: Context) -> State:
        start, result = models.need_initial(self.method), buffers(models)
        matrices, factors = matrices_of(context.network), unscaled(models, self.scale)
        for name in models.parameters:
            first = start[name].double()
            moved = [(state[name].double() - first) * factor for state, factor in zip(models.states, factors)]
            if name in matrices:
                step = self.merged([each.flatten(1) for each in moved]).view_as(first)
            else:
                step = sum(weight * each for weight, each in zip(models.weights, moved))
            result[name] = (first + self.scale * step).to(start[name].dtype)
        return {name: result[name] for name in models.states[0]}


def directions(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The singular vectors and values of a matrix [m, n], without directions of rounding: float32 weights are no finer.

    The difference of two networks may have a low rank, as with adapters: the other directions would be noise.
    """
    u, values, vh = torch.linalg.svd(matrix, full_matrices=False)
    count = int((values > values[0] * max(matrix.shape) * torch.finfo(torch.float32).eps).sum())
    return u[:, :count], values[:count], vh[:count]


def matrices_of(network: nn.Module) -> set[str]:
    """The names of the weights of linear layers and convolutions."""
    return {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, MATRICES)}
