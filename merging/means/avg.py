"""Averaging of weights: sum_i w_i theta_i."""

from merging.fusion import Context, Models, State, WeightFusion, mean_state


class Avg(WeightFusion):
    """The weighted mean of the models' weights."""

    def __call__(self, models: Models, context: Context | None = None) -> State:
        return mean_state(models, models.states)
