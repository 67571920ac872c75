"""The scale of a merged task vector: given, or the best of many on training samples (scale=search)."""

import copy
from dataclasses import replace
from typing import Literal

from merging.choosing import Judge
from merging.fusion import Context, Models, State, WeightFusion

SCALES = [tenths / 10 for tenths in range(1, 31)]  # that are tried


class Scaled(WeightFusion):
    """A fusion whose result is theta_0 + `scale` tau; comes before the class that merges.

    "search" takes the scale of SCALES with the highest accuracy over all tasks on `samples_per_task` labelled training
    samples of each, and with the lower loss of two with the same. All papers of these methods choose it on held-out
    samples. With running=true each step finds its own scale, and the next one starts from tau before it.
    """

    scale: float | Literal["search"] | None
    samples_per_task: int

    @property
    def needs_all_tasks(self) -> bool:
        return self.scale == "search"

    def __call__(self, models: Models, context: Context | None = None) -> State:
        return self.searched(models, context) if self.scale == "search" else super().__call__(models, context)

    def searched(self, models: Models, context: Context) -> State:
        """The merge with the best scale, which is noted for the next step and in results.json."""
        start = models.initial
        if models.merged:
            first = {name: value.clone() for name, value in models.states[0].items()}
            for name in models.parameters:
                first[name] = start[name] + (first[name] - start[name]) / models.carried["scale"]
            models = replace(models, states=[first, *models.states[1:]])
        whole = copy.copy(self)
        whole.scale = 1.0
        merged = whole(models, context)
        judge = Judge(models, context, self.samples_per_task)
        scores = {scale: judge(at_scale(start, merged, models, scale)) for scale in SCALES}
        best = max(scores, key=scores.get)
        models.carried["scale"] = best
        found = {"scale": best, "scales": SCALES, "accuracies": [score.accuracy for score in scores.values()]}
        context.record("scale_search", lambda: found)
        return at_scale(start, merged, models, best)


def at_scale(start: State, merged: State, models: Models, scale: float) -> State:
    """theta_0 + scale tau, for merged = theta_0 + tau."""
    moved = {name: start[name] + scale * (merged[name] - start[name]) for name in models.parameters}
    return merged | moved
