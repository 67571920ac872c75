"""A metric of one's own (docs/metrics.md).

python run.py +metrics.worst_task._target_=my_metrics.worst_task trust=[my_metrics]
"""


def worst_task(matrix: list[list[float]], untrained: list[float], first: int = 1) -> float | None:
    """The lowest accuracy at the end, over the tasks from number `first` on; None if there is no such task."""
    return min(matrix[-1][first - 1 :], default=None)
