"""The measures of continual learning on matrices whose answers can be worked out by hand."""

import pytest

from cl.reporting import metrics

# after task 1, 2, 3 (rows) on task 1, 2, 3 (columns)
MATRIX = [
    [0.9, 0.2, 0.1],
    [0.6, 0.8, 0.3],
    [0.4, 0.7, 1.0],
]
UNTRAINED = [0.1, 0.05, 0.2]
# Replay can help an old task: task 1 is best at the end, so forgetting is negative.
IMPROVING = [[0.5, 0.0], [0.7, 0.6]]
JOINT = [[0.9, 0.8, 0.7]]
ONE_TASK = [[0.9]]


@pytest.mark.parametrize(
    "measure, matrix, expected",
    [
        (metrics.average_accuracy, MATRIX, (0.4 + 0.7 + 1.0) / 3),
        (metrics.average_accuracy, JOINT, 0.8),
        (metrics.average_accuracy, ONE_TASK, 0.9),
        (metrics.forgetting, MATRIX, ((0.9 - 0.4) + (0.8 - 0.7)) / 2),
        (metrics.forgetting, IMPROVING, -0.2),
        (metrics.forgetting, JOINT, None),
        (metrics.forgetting, ONE_TASK, None),
        (metrics.backward_transfer, MATRIX, ((0.4 - 0.9) + (0.7 - 0.8)) / 2),
        (metrics.backward_transfer, IMPROVING, 0.2),
        (metrics.backward_transfer, JOINT, None),
        (metrics.learning_accuracy, MATRIX, (0.9 + 0.8 + 1.0) / 3),
        (metrics.learning_accuracy, JOINT, None),
        (metrics.accuracy_so_far, MATRIX, [0.9, 0.7, 0.7]),
        (metrics.accuracy_so_far, JOINT, None),
    ],
)
def test_measure_equals_the_hand_computed_value(measure, matrix, expected):
    assert measure(matrix) == (None if expected is None else pytest.approx(expected, abs=1e-12))


def test_forgetting_uses_the_best_accuracy_before_the_last_task_not_the_one_just_after_learning():
    matrix = [[0.5, 0.0, 0.0], [0.9, 0.6, 0.0], [0.3, 0.6, 0.8]]
    assert metrics.forgetting(matrix) == pytest.approx(((0.9 - 0.3) + (0.6 - 0.6)) / 2)
    assert metrics.backward_transfer(matrix) == pytest.approx(((0.3 - 0.5) + (0.6 - 0.6)) / 2)


def test_forward_transfer_is_measured_against_the_untrained_network():
    assert metrics.forward_transfer(MATRIX, UNTRAINED) == pytest.approx(((0.2 - 0.05) + (0.3 - 0.2)) / 2)
    assert metrics.forward_transfer(JOINT, UNTRAINED) is None


def test_every_measure_of_the_tables_has_its_formula():
    for name in metrics.FORMULAS:
        assert callable(getattr(metrics, name))
