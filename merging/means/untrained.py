"""A control: an untrained network in place of a merged one, to see what fine-tuning alone reaches."""

from collections.abc import Sequence

from merging.fusion import Context, Models, State, WeightFusion


class Untrained(WeightFusion):
    """The common init of the models, or the weights of another untrained network where there is none.

    With `finetune_samples` it is a network that was trained on the stored samples alone.
    """

    uses_weights = False

    def used(self, count: int) -> Sequence[int]:
        return ()

    def __call__(self, models: Models, context: Context) -> State:
        start = models.initial if models.initial is not None else context.new_network(0)
        return {name: value.clone() for name, value in start.items()}
