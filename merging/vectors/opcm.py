"""OPCM (Tang et al. 2025, Merging Models on the Fly Without Retraining): task vectors added one after the other."""

import torch
from torch import nn

from cl.values import Share
from merging.fusion import Context, Models, State, WeightFusion, mean_state

MATRICES = (nn.Linear, nn.modules.conv._ConvNd)


class Opcm(WeightFusion):
    """Each new task vector is projected out of the space of the merged one, added, and all rescaled.

    In the basis of the singular vectors of the merged matrix, the projection leaves out the diagonal and the block of
    the leading ones, which together hold no more than the share `alpha` of the sum of singular values (as the authors'
    code has it). That is for the weights of linear layers and convolutions, the latter as matrices of outputs by
    everything else; all others are added as they are. After each addition the whole has the mean length of the task
    vectors so far. The order of the models matters; their weights do not.

    One model at a time it is the same: the scale and the lengths so far are carried on.
    """

    uses_weights, needs_initial = False, True

    def __init__(self, alpha: Share = 0.5):
        self.alpha = alpha

    def __call__(self, models: Models, context: Context) -> State:
        start = models.need_initial("opcm")
        names, modules = models.parameters, context.network.named_modules()
        matrices = {f"{name}.weight" for name, module in modules if isinstance(module, MATRICES)}
        merged, *vectors = (
            {name: state[name].double() - start[name].double() for name in names} for state in models.states
        )
        if models.merged:
            scale, lengths, count = (models.carried[key] for key in ("scale", "lengths", "count"))
            assert count == models.merged, (count, models.merged)
        else:
            scale, lengths, count = 1.0, _length(merged), 1
        for vector in vectors:
            added = {
                name: self.project(vector[name], merged[name]) if name in matrices else vector[name] for name in names
            }
            total = {name: scale * merged[name] + added[name] for name in names}
            lengths, count = lengths + _length(vector), count + 1
            length, wanted = _length(total), lengths / count
            scale = length / wanted if wanted else 1.0  # models that never moved stay where they are
            merged = {name: value / scale if scale else value for name, value in total.items()}
        models.carried.update(scale=scale, lengths=lengths, count=count)
        result = mean_state(models, models.states)
        return result | {name: (start[name].double() + merged[name]).to(result[name].dtype) for name in names}

    def project(self, vector: torch.Tensor, merged: torch.Tensor) -> torch.Tensor:
        """The part of a task vector's tensor that is outside the space of the merged one."""
        u, values, vh = torch.linalg.svd(merged.flatten(1), full_matrices=False)
        if not values.any():  # a space without directions
            return vector
        inside = u.T @ vector.flatten(1) @ vh.T
        shares = (values.cumsum(0) / values.sum()).clamp(max=1)
        rank = int((shares <= self.alpha).sum())  # the index of the first that exceeds it
        removed = inside.diag().diag()
        removed[:rank, :rank] = inside[:rank, :rank]
        return vector - (u @ removed @ vh).view_as(vector)


def _length(vector: dict[str, torch.Tensor]) -> float:
    return sum(value.square().sum() for value in vector.values()).sqrt().item()
