"""A control: the last task's network in place of a merged one, to see what the others add."""

from collections.abc import Sequence

from merging.fusion import Context, Models, State, WeightFusion


class Last(WeightFusion):
    """The last model as it is."""

    uses_weights = False

    def used(self, count: int) -> Sequence[int]:
        return (count - 1,)

    def __call__(self, models: Models, context: Context | None = None) -> State:
        return {name: value.clone() for name, value in models.states[-1].items()}
