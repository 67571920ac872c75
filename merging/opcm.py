"""OPCM (Tang et al. 2025, Merging Models on the Fly Without Retraining): task vectors added one after the other."""

import torch

from merging.fusion import Context, Models, State, WeightFusion, mean_state


class Opcm(WeightFusion):
    """Each new task vector is projected out of the space of the merged one, added, and all rescaled.

    In the basis of the singular vectors of the merged matrix, the projection leaves out the diagonal and the block of
    the leading ones, which hold the share `alpha` of the sum of singular values. Weights that are no matrix are added
    as they are; convolutions are matrices of outputs by everything else. After each addition the whole has the mean
    length of the task vectors so far. The order of the models matters; their weights do not.
    """

    def __init__(self, alpha: float = 0.5):
        if not 0 <= alpha <= 1:
            raise ValueError(f"fusion.alpha must lie in [0, 1], got {alpha}")
        self.alpha = alpha

    def __call__(self, models: Models, context: Context | None = None) -> State:
        start = models.need_initial("opcm")
        names = models.parameters
        moved = [{name: state[name].double() - start[name].double() for name in names} for state in models.states]
        merged, scale, lengths = moved[0], 1.0, [_length(moved[0])]
        for vector in moved[1:]:
            total = {name: scale * merged[name] + self.project(vector[name], merged[name]) for name in names}
            lengths.append(_length(vector))
            length, wanted = _length(total), sum(lengths) / len(lengths)
            scale = length / wanted if wanted else 1.0  # models that never moved stay where they are
            merged = {name: value / scale if scale else value for name, value in total.items()}
        result = mean_state(models, models.states)
        return result | {name: (start[name].double() + merged[name]).to(result[name].dtype) for name in names}

    def project(self, vector: torch.Tensor, merged: torch.Tensor) -> torch.Tensor:
        """The part of a task vector's tensor that is outside the space of the merged one."""
        if vector.dim() < 2:
            return vector
        u, values, vh = torch.linalg.svd(merged.flatten(1), full_matrices=False)
        inside = u.T @ vector.flatten(1) @ vh.T
        # The fewest leading singular values that hold the share.
        rank = int((values.cumsum(0) < self.alpha * values.sum()).sum()) + 1 if values.any() and self.alpha else 0
        removed = inside.diag().diag()
        removed[:rank, :rank] = inside[:rank, :rank]
        return vector - (u @ removed @ vh).view_as(vector)


def _length(vector: dict[str, torch.Tensor]) -> float:
    return sum(value.square().sum() for value in vector.values()).sqrt().item()
