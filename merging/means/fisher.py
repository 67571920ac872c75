"""Fisher-weighted averaging (Matena & Raffel 2022, Merging Models with Fisher-Weighted Averaging, eq. 3)."""

from typing import Literal

import torch

from cl.values import Count
from merging.fusion import Context, Models, State, WeightFusion, mean_state


class Fisher(WeightFusion):
    """sum_i w_i F_i theta_i / sum_i w_i F_i, F_i the diagonal Fisher information of model i on its own task.

    `samples_per_task` training samples (None: all), with `labels` as in EWC: "sampled" from the model's own prediction,
    "empirical", or the expectation over "all". Where no model has any information it is the plain mean. One model at a
    time, what was merged so far counts as a model of all its tasks.
    """

    needs_tasks = True

    def __init__(self, samples_per_task: Count | None = None, labels: Literal["all", "sampled", "empirical"] = "all"):
        self.samples_per_task, self.labels = samples_per_task, labels

    def __call__(self, models: Models, context: Context) -> State:
        fishers = [
            context.fisher(state, tasks, self.samples_per_task, self.labels)
            for tasks, state in zip(models.tasks, models.states)
        ]
        result = mean_state(models, models.states)
        return result | {name: _weighted(models, fishers, name, result[name]) for name in models.parameters}


def _weighted(models: Models, fishers: list[State], name: str, mean: torch.Tensor) -> torch.Tensor:
    shares = [weight * fisher[name].double() for weight, fisher in zip(models.weights, fishers)]
    total = sum(shares)
    # As a step from the plain mean, which is exact for equal models and stays there where nothing is known.
    steps = sum(share * (state[name].double() - mean.double()) for share, state in zip(shares, models.states))
    return (mean.double() + torch.where(total > 0, steps / total.clamp(min=torch.finfo(total.dtype).tiny), 0.0)).to(
        mean.dtype
    )
