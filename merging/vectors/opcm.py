"""OPCM (Tang et al. 2025, Merging Models on the Fly Without Retraining): task vectors added one after the other."""

import torch

from cl.values import Fraction
from merging.fusion import Context, Models, State, WeightFusion, mean_state
from merging.vectors.matrices import matrices_of


class Opcm(WeightFusion):
    """Each new task vector is projected out of the space of the merged one and added; the sum is rescaled.

    In the basis of the merged matrix's singular vectors, the projection removes the diagonal and the block of the
    leading directions. These are as many as hold at most the fraction `alpha` of the sum of singular values (as in the
    authors' code). This applies to the weights of linear layers and convolutions, the latter as matrices [outputs,
    everything else]; all others are added without projection. After each addition the sum is rescaled to the mean
    length of the task vectors so far. The order of the models matters; their weights do not.

    running=true gives the same result: the scale and the lengths so far are carried over.
    """

    uses_weights, needs_initial = False, True

    def __init__(self, alpha: Fraction = 0.5):
        self.alpha = alpha

    def __call__(self, models: Models, context: Context) -> State:
        start = models.need_initial("opcm")
        names, matrices = models.parameters, matrices_of(context.network)
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
            scale = length / wanted if wanted else 1.0  # all task vectors are 0
            merged = {name: value / scale if scale else value for name, value in total.items()}
        models.carried.update(scale=scale, lengths=lengths, count=count)
        result = mean_state(models, models.states)
        return result | {name: (start[name].double() + merged[name]).to(result[name].dtype) for name in names}

    def project(self, vector: torch.Tensor, merged: torch.Tensor) -> torch.Tensor:
        """The part of a task vector's tensor that is outside the space of the merged one."""
        u, values, vh = torch.linalg.svd(merged.flatten(1), full_matrices=False)
        if not values.any():  # the merged task vector is 0: nothing to project out
            return vector
        inside = u.T @ vector.flatten(1) @ vh.T
        fractions = (values.cumsum(0) / values.sum()).clamp(max=1)
        rank = int((fractions <= self.alpha).sum())  # number of leading directions
        removed = inside.diag().diag()
        removed[:rank, :rank] = inside[:rank, :rank]
        return vector - (u @ removed @ vh).view_as(vector)


def _length(vector: dict[str, torch.Tensor]) -> float:
    return sum(value.square().sum() for value in vector.values()).sqrt().item()
