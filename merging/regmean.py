"""RegMean (Jin et al. 2023, Dataless Knowledge Fusion by Merging Weights of Language Models, eq. 2)."""

import torch
import torch.nn.functional as F
from torch import nn

from merging.fusion import Context, Models, State, WeightFusion, mean_state
from merging.responses import inputs_of, show


class RegMean(WeightFusion):
    """For each linear layer W = (sum_i G_i)^+ sum_i G_i W_i, the least squares fit to what each model's layer gives.

    G_i = w_i X_i^T X_i / n from the inputs X_i of the layer in model i on `samples_per_task` images of its own task,
    without labels; entries off the diagonal are multiplied by `shrink` (section 4.2). A convolution is linear in its
    patches. All other weights, and the directions that no input has, are averaged.
    """

    def __init__(self, samples_per_task: int = 500, shrink: float = 0.9):
        if samples_per_task < 1:
            raise ValueError(f"fusion.samples_per_task must be at least 1, got {samples_per_task}")
        if not 0 <= shrink <= 1:
            raise ValueError(f"fusion.shrink must lie in [0, 1], got {shrink}")
        self.samples_per_task, self.shrink = samples_per_task, shrink

    def __call__(self, models: Models, context: Context) -> State:
        layers = {
            name: layer for name, layer in context.network.named_modules()
            if isinstance(layer, (nn.Linear, nn.Conv2d)) and getattr(layer, "groups", 1) == 1
        }  # fmt: skip
        grams = [
            self.grams(context, layers, state, context.images(tasks, len(tasks) * self.samples_per_task))
            for tasks, state in zip(models.tasks, models.states)
        ]
        result = mean_state(models, models.states)
        for layer in layers:
            name = f"{layer}.weight"
            if name in models.parameters and all(layer in own for own in grams):
                own = [weight * self.shrunk(gram[layer]) for weight, gram in zip(models.weights, grams)]
                result[name] = _fit(own, [state[name] for state in models.states], result[name])
        return result

    def grams(self, context: Context, layers: dict[str, nn.Module], state: State, images: torch.Tensor) -> State:
        """X^T X / n for each layer that is called."""
        found: State = {}

        def see(name: str, given: torch.Tensor) -> None:
            x = _rows(layers[name], given).double()
            found[name] = found.get(name, 0) + x.T @ x / len(images)

        with inputs_of(context.network, list(layers), see):
            show(context.network, state, images)
        return found

    def shrunk(self, gram: torch.Tensor) -> torch.Tensor:
        return self.shrink * gram + (1 - self.shrink) * gram.diag().diag()


def _rows(layer: nn.Module, given: torch.Tensor) -> torch.Tensor:
    """[n, fan in]: everything that a layer's weights are multiplied with."""
    if isinstance(layer, nn.Linear):
        return given.reshape(-1, given.shape[-1])
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        raise ValueError(f"fusion=regmean knows zero padding by numbers only, got a convolution with {layer.padding}")
    patches = F.unfold(given, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return patches.transpose(1, 2).reshape(-1, patches.shape[1])


def _fit(grams: list[torch.Tensor], weights: list[torch.Tensor], mean: torch.Tensor) -> torch.Tensor:
    """[out, in]: as a step from the mean, which stays in the directions that no input has."""
    steps = sum(gram @ (own.double() - mean.double()).flatten(1).T for gram, own in zip(grams, weights))
    step = torch.linalg.pinv(sum(grams), rtol=1e-10, hermitian=True) @ steps
    return (mean.double() + step.T.view_as(mean)).to(mean.dtype)
