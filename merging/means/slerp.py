"""Spherical interpolation of two models (Shoemake 1985, Animating Rotation with Quaternion Curves)."""

import math

from cl.values import Fraction
from merging.fusion import EntryFusion, Models, flatten, weighted_mean

PARALLEL = 1e-6  # radians; for smaller angles the arc is replaced by the straight line


class Slerp(EntryFusion):
    """sin((1-t) a)/sin(a) theta_1 + sin(t a)/sin(a) theta_2, with the angle a between them.

    `t` in [0, 1] is how far the result is from the first model to the second; None: the second's weight. More than two
    models need running=true, which goes from the merge so far to the next model, each time the part `t` of the arc
    (None: 1/2, 1/3, 1/4, ..., so that all models count alike).
    """

    most_models = 2

    def __init__(self, t: Fraction | None = None):
        self.t, self.uses_weights = t, t is None

    def rule(self, models: Models):
        if len(models.states) == 1:
            return lambda start, parts: parts[0]
        if len(models.states) > 2:
            raise ValueError(f"fusion=slerp merges two models, got {len(models.states)}: set running=true")
        weights = models.weights if self.t is None else [1 - self.t, self.t]
        first, second = (flatten(state, models.parameters).double() for state in models.states)
        lengths = (first.norm() * second.norm()).item()
        angle = math.acos(min(1.0, max(-1.0, (first @ second).item() / lengths))) if lengths else 0.0
        if angle < PARALLEL or math.pi - angle < PARALLEL:
            return lambda start, parts: weighted_mean(parts, weights)
        one, other = (math.sin(weight * angle) / math.sin(angle) for weight in weights)
        return lambda start, parts: one * parts[0] + other * parts[1]
