"""Model Stock (Jang et al. 2024, Model Stock: All We Need Is Just a Few Fine-Tuned Models)."""

from itertools import combinations

import torch

from merging.fusion import Context, Models, State, WeightFusion, buffers


class ModelStock(WeightFusion):
    """theta_0 + t times the mean task vector, tensor by tensor, with t = N cos / (1 + (N - 1) cos) for N models.

    `cos` is the mean cosine between two task vectors of the tensor (eq. 7, with the same angle between all). What the
    models have in common is kept, and what they have not shrinks towards theta_0. The paper does not say what a
    negative cosine means; here it counts as 0, so that the tensor stays as it was.
    """

    needs_initial = True

    def __call__(self, models: Models, context: Context | None = None) -> State:
        start, result = models.need_initial("model_stock"), buffers(models)
        for name in models.parameters:
            first = start[name].double()
            moved = [state[name].double() - first for state in models.states]
            mean = sum(weight * each for weight, each in zip(models.weights, moved))
            result[name] = (first + ratio(moved) * mean).to(start[name].dtype)
        return {name: result[name] for name in models.states[0]}


def ratio(moved: list[torch.Tensor]) -> float:
    """t for the task vectors of one tensor, in [0, 1]."""
    if len(moved) == 1:
        return 1.0
    pairs = list(combinations([each.flatten() for each in moved], 2))
    cosines = [torch.cosine_similarity(one, other, dim=0).item() for one, other in pairs]
    cosine = max(0.0, sum(cosines) / len(pairs))
    return len(moved) * cosine / (1 + (len(moved) - 1) * cosine)
