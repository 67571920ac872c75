"""Loss and accuracy along a curve and along the straight line between its ends, and the loss on the plane of both.

Measured as in Garipov et al. 2018 (sections 4 and A.2): at equidistant t, with batch-norm recalibrated at each point.
"""

import copy
from itertools import product

import torch
from torch import nn

from cl.data.rows import Rows
from merging.fusion import Context, State, flatten, weighted_mean

MARGIN = 0.25  # of the plane around the three points, as a fraction of their largest distance in x or y
TRAIN, TEST, LINE_TRAIN, LINE_TEST = "train", "test", "line_train", "line_test"


def along(curve, context: Context, tasks: list[int], train: Rows, test: Rows, points: int) -> dict:
    """Losses and accuracies at `points` values of t, the length of the curve, and averages over it.

    `arc_average`: averages over the arc length, not over t. `length` of the curve and `distance` of its ends are
    Euclidean, in units of weights.
    """
    ts = [i / (points - 1) for i in range(points)]
    network = copy.deepcopy(context.network)
    ends = [curve.weights(t) for t in (0.0, 1.0)]
    found: dict = {"t": ts}
    vectors = []
    for t in context.progress("along the curve", ts):
        vectors.append(flatten(curve.weights(t), curve.names))
        line = {name: weighted_mean([end[name] for end in ends], [1 - t, t]) for name in curve.names}
        for prefix, weights in (("", curve.weights(t)), ("line_", line)):
            place(network, weights, context, tasks)
            for split, samples in ((TRAIN, train), (TEST, test)):
                for name, value in zip(("loss", "accuracy"), context.score(network, samples)):
                    found.setdefault(f"{prefix}{split}_{name}", []).append(value)
    steps = [(after - before).norm().item() for before, after in zip(vectors, vectors[1:])]
    found["length"], found["distance"] = sum(steps), (vectors[-1] - vectors[0]).norm().item()
    found["arc_average"] = {
        key: _arc_average(found[key], steps)
        for split in (TRAIN, TEST)
        for key in (f"{split}_loss", f"{split}_accuracy")
    }
    return found


def _arc_average(values: list[float], steps: list[float]) -> float:
    """The average over the arc length by the trapezoidal rule; the plain mean if the length is 0."""
    if not sum(steps):
        return sum(values) / len(values)
    return sum(step * (a + b) / 2 for step, a, b in zip(steps, values, values[1:])) / sum(steps)


def plane(curve, context: Context, tasks: list[int], samples: Rows, side: int) -> dict:
    """The loss on a grid of `side` by `side` points in the plane through both ends and the inner point.

    x runs from the first end to the last, y at a right angle to it, both in units of weights. With more than one inner
    point the third point is w(0.5), and `path` is the projection of the curve onto the plane.
    """
    network = copy.deepcopy(context.network)
    first, last = (flatten(curve.weights(t), curve.names) for t in (0.0, 1.0))
    third = flatten(curve.middle(), curve.names)
    across = last - first
    width = across.norm()
    across = across / width if width else across
    up = third - first
    up = up - (up @ across) * across
    height = up.norm()
    up = up / height if height else up

    def place_of(vector: torch.Tensor) -> tuple[float, float]:
        return ((vector - first) @ across).item(), ((vector - first) @ up).item()

    corners = [place_of(point) for point in (first, last, third)]
    reach = max(max(values) - min(values) for values in zip(*corners)) or 1.0
    xs, ys = (
        torch.linspace(middle - (0.5 + MARGIN) * reach, middle + (0.5 + MARGIN) * reach, side).tolist()
        for middle in ((max(values) + min(values)) / 2 for values in zip(*corners))
    )
    sizes = [value.numel() for value in curve.weights(0.0).values()]
    losses: list[list[float]] = [[] for _ in ys]
    for row, x in context.progress("around the curve", list(product(range(side), xs))):
        parts = (first + x * across + ys[row] * up).split(sizes)
        weights = {
            name: part.view_as(value).to(value.dtype) for part, (name, value) in zip(parts, curve.weights(0.0).items())
        }
        place(network, weights, context, tasks)
        losses[row].append(context.score(network, samples)[0])
    path = [place_of(flatten(curve.weights(i / 60), curve.names)) for i in range(61)]
    names = ["first end", "last end", "control point" if len(curve.inner) == 1 else "w(0.5)"]
    return {"x": xs, "y": ys, "loss": losses, "points": dict(zip(names, corners)), "path": path}


def place(network: nn.Module, weights: State, context: Context, tasks: list[int]) -> None:
    """Load weights into a network and recalibrate its batch-norm on the tasks."""
    network.load_state_dict(network.state_dict() | weights)
    context.recalibrate_batch_norm(network, tasks)
