"""Measures of continual learning, as pure functions of an accuracy matrix.

A[i][j]: accuracy on task j after training on task i, i and j from 0, T tasks, all in [0, 1]. Suites differ in just
these formulas, so each one is written out; a measure that a matrix does not define (one row, one task) is None.
"""

Matrix = list[list[float]]

# Shown beside the numbers in tables.
FORMULAS = {
    "average_accuracy": "mean over j of A[T,j]",
    "forgetting": "mean over j<T of (max over i<T of A[i,j]) - A[T,j]",
    "backward_transfer": "mean over j<T of A[T,j] - A[j,j]",
    "forward_transfer": "mean over j>1 of A[j-1,j] - A0[j], A0: the untrained network",
    "learning_accuracy": "mean over j of A[j,j]",
}
# Of scenarios that measure an error.
ERROR_FORMULAS = {
    "average_error": "mean over j of E[T,j]",
    "error_forgetting": "mean over j<T of E[T,j] - min over i<T of E[i,j]",
    "error_backward_transfer": "mean over j<T of E[j,j] - E[T,j]",
    "error_forward_transfer": "mean over j>1 of E0[j] - E[j-1,j], E0: the untrained network",
    "learning_error": "mean over j of E[j,j]",
}


def average_accuracy(matrix: Matrix) -> float:
    """Mean of the last row: all tasks count the same."""
    return _mean(matrix[-1])


def forgetting(matrix: Matrix) -> float | None:
    """Mean over all tasks but the last of their best earlier accuracy minus their final one.

    The last row is not in the maximum, so it can be negative (Chaudhry et al. 2018, Riemannian Walk, eq. 3).
    """
    if not _is_square(matrix):
        return None
    return _mean([max(row[j] for row in matrix[:-1]) - matrix[-1][j] for j in range(len(matrix) - 1)])


def backward_transfer(matrix: Matrix) -> float | None:
    """Mean over all tasks but the last of final accuracy minus that just after learning the task.

    Lopez-Paz & Ranzato 2017, Gradient Episodic Memory, eq. 3.
    """
    if not _is_square(matrix):
        return None
    return _mean([matrix[-1][j] - matrix[j][j] for j in range(len(matrix) - 1)])


def forward_transfer(matrix: Matrix, untrained: list[float]) -> float | None:
    """Mean over all tasks but the first of the accuracy just before learning it minus that of the untrained network.

    Lopez-Paz & Ranzato 2017, eq. 4.
    """
    if not _is_square(matrix):
        return None
    return _mean([matrix[j - 1][j] - untrained[j] for j in range(1, len(matrix))])


def learning_accuracy(matrix: Matrix) -> float | None:
    """Mean of the diagonal: how well each task was learned when its turn came."""
    if not _is_square(matrix):
        return None
    return _mean([matrix[j][j] for j in range(len(matrix))])


def accuracy_so_far(matrix: Matrix) -> list[float] | None:
    """After each task, the mean accuracy over the tasks seen until then."""
    if not _is_square(matrix):
        return None
    return [_mean(row[: i + 1]) for i, row in enumerate(matrix)]


def _is_square(matrix: Matrix) -> bool:
    return len(matrix) == len(matrix[0]) > 1


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
