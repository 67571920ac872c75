"""Fisher-weighted averaging (Matena & Raffel 2022, Merging Models with Fisher-Weighted Averaging, eq. 3)."""

from typing import Literal

import torch

from cl.values import Count
from merging.fusion import Context, Models, State, WeightFusion, mean_state


class Fisher(WeightFusion):
    """sum_i w_i F_i theta_i / sum_i w_i F_i, with the diagonal Fisher information F_i of model i on its task.

    F_i is computed on `samples_per_task` training samples (None: all), with `labels` as in EWC: "sampled" from the
    model's prediction, "empirical", or the expectation over "all". Weights whose F_i are all 0 get the plain mean. With
    running=true the merge so far counts as a model of all its tasks.
    """

    needs_tasks = True

    def __init__(self, samples_per_task: Count | None = None, labels: Literal["all", "sampled", "empirical"] = "all"):
        self.samples_per_task, self.labels = samples_per_task, labels

    def __call__(self, models: Models, context: Context) -> State:
        fishers = [
            context.fisher(state, tasks, self.samples_per_task, self.labels)
            for tasks, state in zip(models.tasks, models.states)
        ]
        if not models.merged:  # a merge so far is asked about all earlier tasks again
            context.keep(fishers)
        result = mean_state(models, models.states)
        return result | {name: _weighted(models, fishers, name, result[name]) for name in models.parameters}


def _weighted(models: Models, fishers: list[State], name: str, mean: torch.Tensor) -> torch.Tensor:
    factors = [weight * fisher[name].double() for weight, fisher in zip(models.weights, fishers)]
    total = sum(factors)
    # Computed as a step from the plain mean: exact for equal models, and 0 where there is no information.
    steps = sum(factor * (state[name].double() - mean.double()) for factor, state in zip(factors, models.states))
    return (mean.double() + torch.where(total > 0, steps / total.clamp(min=torch.finfo(total.dtype).tiny), 0.0)).to(
        mean.dtype
    )
