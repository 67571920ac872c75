"""A control: the last task's network in place of a merged one, to see what the others add."""

from merging.fusion import Context, Models, State, WeightFusion


class Last(WeightFusion):
    """The last model as it is."""

    uses_weights = False

    def __call__(self, models: Models, context: Context | None = None) -> State:
        return {name: value.clone() for name, value in models.states[-1].items()}
