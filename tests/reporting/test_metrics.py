"""The measures of continual learning on matrices whose answers can be worked out by hand."""

from dataclasses import replace

import pytest
from support import ROOT

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
    assert measure(matrix, UNTRAINED) == (None if expected is None else pytest.approx(expected, abs=1e-12))


def test_forgetting_uses_the_best_accuracy_before_the_last_task_not_the_one_just_after_learning():
    matrix = [[0.5, 0.0, 0.0], [0.9, 0.6, 0.0], [0.3, 0.6, 0.8]]
    assert metrics.forgetting(matrix, []) == pytest.approx(((0.9 - 0.3) + (0.6 - 0.6)) / 2)
    assert metrics.backward_transfer(matrix, []) == pytest.approx(((0.3 - 0.5) + (0.6 - 0.6)) / 2)


def test_forward_transfer_is_measured_against_the_untrained_network():
    assert metrics.forward_transfer(MATRIX, UNTRAINED) == pytest.approx(((0.2 - 0.05) + (0.3 - 0.2)) / 2)
    assert metrics.forward_transfer(JOINT, UNTRAINED) is None


def test_measures_of_errors_equal_the_hand_computed_values():
    errors, untrained = [[0.1, 0.7], [0.4, 0.2]], [0.8, 0.9]
    found = metrics.measures(metrics.ERROR_METRICS, errors, None, errors, untrained)
    assert found == {
        "average_error": pytest.approx(0.3),
        "error_forgetting": pytest.approx(0.4 - 0.1),  # the error of task 1 has grown
        "error_backward_transfer": pytest.approx(0.1 - 0.4),
        "error_forward_transfer": pytest.approx(0.9 - 0.7),  # training on task 1 has helped task 2
        "learning_error": pytest.approx((0.1 + 0.2) / 2),
        "error_so_far": pytest.approx([0.1, 0.3]),
    }


def test_of_errors_what_is_better_is_turned_for_levels_alone():
    better = {metric.key: metric.higher_is_better for metric in (*metrics.METRICS, *metrics.ERROR_METRICS)}
    assert better["average_accuracy"] and not better["average_error"] and not better["learning_error"]
    assert not better["forgetting"] and not better["error_forgetting"]
    assert better["forward_transfer"] and better["error_forward_transfer"]


def test_a_measure_is_taken_of_the_accuracies_that_its_entry_names():
    entries = [replace(metrics.METRICS[0], key=kind, accuracies=kind) for kind in ("all_classes", "task_aware")]
    found = metrics.measures((*entries, metrics.METRICS[2]), [[0.1]], [[0.2]], MATRIX, UNTRAINED)
    assert found == {"all_classes": 0.1, "task_aware": 0.2, "forgetting": pytest.approx(0.3)}
    assert metrics.measures(metrics.METRICS, [[0.1]], None, [[0.1]], [0.0])["task_average_accuracy"] is None


def test_keys_are_different():
    keys = [metric.key for metric in (*metrics.METRICS, *metrics.ERROR_METRICS)]
    assert len(set(keys)) == len(keys)


def test_the_table_of_the_documentation_is_that_of_the_entries():
    text = (ROOT / "docs" / "metrics.md").read_text().partition("## Tables and pictures")[0]
    rows = [
        f"| `{metric.key}` | {metric.formula} | {'higher' if metric.higher_is_better else 'lower'} | "
        f"{metric.source or '-'} |"
        for metric in (*metrics.METRICS, *metrics.ERROR_METRICS)
    ]
    assert [line for line in text.splitlines() if line.startswith("| `")] == rows
