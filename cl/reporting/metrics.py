"""Measures of continual learning: pure functions of a matrix, and one table of all that is said of them.

A[i][j]: accuracy on task j after training on task i, i and j from 0, T tasks, all in [0, 1]. Suites differ in just
these formulas, so each one is written out; a measure that a matrix does not define (one row, one task) is None.

A new measure is one entry of METRICS. results.json, the tables, the formulas below them and those of the documentation
follow from it, and so do the measures of scenarios that measure an error E.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

Row = list[float]
Matrix = list[Row]


def average_accuracy(matrix: Matrix, untrained: Row) -> float:
    """Mean of the last row: all tasks count the same."""
    return _mean(matrix[-1])


def forgetting(matrix: Matrix, untrained: Row) -> float | None:
    """Mean over all tasks but the last of their best earlier accuracy minus their final one.

    The last row is not in the maximum, so it can be negative.
    """
    if not _is_square(matrix):
        return None
    return _mean([max(row[j] for row in matrix[:-1]) - matrix[-1][j] for j in range(len(matrix) - 1)])


def backward_transfer(matrix: Matrix, untrained: Row) -> float | None:
    """Mean over all tasks but the last of final accuracy minus that just after learning the task."""
    if not _is_square(matrix):
        return None
    return _mean([matrix[-1][j] - matrix[j][j] for j in range(len(matrix) - 1)])


def forward_transfer(matrix: Matrix, untrained: Row) -> float | None:
    """Mean over all tasks but the first of the accuracy just before learning it minus that of the untrained network."""
    if not _is_square(matrix):
        return None
    return _mean([matrix[j - 1][j] - untrained[j] for j in range(1, len(matrix))])


def learning_accuracy(matrix: Matrix, untrained: Row) -> float | None:
    """Mean of the diagonal: how well each task was learned when its turn came."""
    if not _is_square(matrix):
        return None
    return _mean([matrix[j][j] for j in range(len(matrix))])


def accuracy_so_far(matrix: Matrix, untrained: Row) -> Row | None:
    """After each task, the mean accuracy over the tasks seen until then."""
    if not _is_square(matrix):
        return None
    return [_mean(row[: i + 1]) for i, row in enumerate(matrix)]


def anytime_accuracy(evaluations: Matrix, untrained: Row) -> float:
    """The area under the curve of tests [step, accuracy so far], by the last step.

    Each test stands for the steps since the one before. At equal distances that is the mean of all tests.
    """
    before = [0, *(step for step, _ in evaluations)]
    area = sum(value * (step - last) for (step, value), last in zip(evaluations, before))
    return area / evaluations[-1][0]


@dataclass(frozen=True)
class Metric:
    """An entry of the table.

    A difference of accuracies, such as forgetting, is None of `level`; an accuracy itself is a level. What is measured
    of errors is the same function of the negated errors, and a level is negated once more: more forgetting and less
    transfer are worse, also of errors.
    """

    key: str  # in results.json
    function: Callable[[Matrix, Row], float | Row | None]  # of the matrix and the accuracies before training
    formula: str
    error_formula: str = ""  # of errors; empty: not measured of them
    source: str = ""
    heading: str = ""  # of its column in tables, without the unit; empty: in results.json and report.csv only
    higher_is_better: bool = True
    level: bool = False
    # Which accuracies: `scenario`: those that the scenario asks for, task-aware in task-incremental scenarios;
    # `evaluations`: in place of a matrix, [step, accuracy so far] of each test with `eval_every`.
    accuracies: Literal["scenario", "all_classes", "task_aware", "evaluations"] = "scenario"
    unit: str = " %"
    factor: float = 100  # for print
    digits: int = 2

    @property
    def title(self) -> str:
        """The heading with its unit."""
        return self.heading + self.unit

    @property
    def name(self) -> str:
        """The key in words."""
        return self.key.replace("_", " ")

    def of_errors(self) -> "Metric":
        """The entry of the same measure of errors."""
        sign = -1 if self.level else 1

        by_step = self.accuracies == "evaluations"

        def function(matrix: Matrix, untrained: Row) -> float | Row | None:
            if by_step:
                return self.function(matrix, untrained)
            value = self.function([[-error for error in row] for row in matrix], [-error for error in untrained])
            if isinstance(value, list):
                return [sign * item for item in value]
            return None if value is None else sign * value

        return replace(
            self,
            key=self.key.replace("accuracy", "error") if self.level else f"error_{self.key}",
            function=function,
            formula=self.error_formula,
            source=f"as {self.key}",
            heading=self.heading.replace("accuracy", "error"),
            higher_is_better=self.higher_is_better != self.level,
            accuracies="evaluations" if by_step else "scenario",
            unit="",
            factor=1,
            digits=4,
        )


METRICS = (
    Metric(
        "average_accuracy", average_accuracy, "mean over j of A[T,j]", "mean over j of E[T,j]",
        source="Lopez-Paz & Ranzato 2017 (GEM), eq. 2", heading="accuracy", level=True, accuracies="all_classes",
    ),
    Metric(
        "task_average_accuracy", average_accuracy, "mean over j of A[T,j], A: over the classes of task j alone",
        source="van de Ven et al. 2022 (three types), task-incremental", heading="task-aware", level=True,
        accuracies="task_aware",
    ),
    Metric(
        "forgetting", forgetting, "mean over j<T of (max over i<T of A[i,j]) - A[T,j]",
        "mean over j<T of E[T,j] - min over i<T of E[i,j]",
        source="Chaudhry et al. 2018 (Riemannian Walk), eq. 3", heading="forgetting", higher_is_better=False,
    ),
    Metric(
        "backward_transfer", backward_transfer, "mean over j<T of A[T,j] - A[j,j]", "mean over j<T of E[j,j] - E[T,j]",
        source="Lopez-Paz & Ranzato 2017 (GEM), eq. 3", heading="backward",
    ),
    Metric(
        "forward_transfer", forward_transfer, "mean over j>1 of A[j-1,j] - A0[j], A0: the untrained network",
        "mean over j>1 of E0[j] - E[j-1,j], E0: the untrained network",
        source="Lopez-Paz & Ranzato 2017 (GEM), eq. 4", heading="forward",
    ),
    Metric(
        "learning_accuracy", learning_accuracy, "mean over j of A[j,j]", "mean over j of E[j,j]",
        source="Riemer et al. 2019 (MER)", level=True,
    ),
    Metric(
        "accuracy_so_far", accuracy_so_far, "for each i, mean over j<=i of A[i,j]",
        "for each i, mean over j<=i of E[i,j]", level=True,
    ),
    Metric(
        "anytime_accuracy", anytime_accuracy, "sum over tests k of a[k] (s[k] - s[k-1]) / s[K], a: accuracy so far "
        "after s steps", "sum over tests k of e[k] (s[k] - s[k-1]) / s[K], e: error so far after s steps",
        source="Koh et al. 2022 (i-Blurry), A_AUC", heading="anytime accuracy", level=True, accuracies="evaluations",
    ),
)  # fmt: skip
# Measures of single tasks, not defined where all are tested on the same samples (`Scenario.tests_all`).
OF_TASKS = ("forgetting", "backward_transfer", "forward_transfer", "learning_accuracy")
ERROR_METRICS = tuple(metric.of_errors() for metric in METRICS if metric.error_formula)


def measures(
    metrics: tuple[Metric, ...], all_classes: Matrix, task_aware: Matrix | None, own: Matrix, untrained: Row,
    evaluations: Matrix | None = None,
) -> dict:  # fmt: skip
    """The value of each entry by its key; None where its accuracies are not there.

    `own`: those that the scenario asks for, `untrained`: theirs before training. `evaluations`: [step, accuracy so far]
    of each test with `eval_every`; without, what is measured of them is no entry.
    """
    matrices = {
        "all_classes": all_classes, "task_aware": task_aware, "scenario": own, "evaluations": evaluations,
    }  # fmt: skip
    found = {}
    for metric in metrics:
        matrix = matrices[metric.accuracies]
        if metric.accuracies == "evaluations" and not matrix:
            continue
        found[metric.key] = metric.function(matrix, untrained) if matrix else None
    return found


def measured(results: dict) -> tuple[Matrix, Row]:
    """From the content of a results.json: the matrix that its scenario asks for, and the row before training."""
    if "error_matrix" in results:
        return results["error_matrix"], results["untrained_error"]
    matrix = results["task_accuracy_matrix" if results["task_aware"] else "accuracy_matrix"]
    return matrix, results["untrained_accuracy"]


def constant(task_classes: list[int] | None, task_aware: bool) -> set[str]:
    """The keys of measures of accuracy that tasks of so many classes decide by themselves, whatever a method does.

    With one class per task the right class is known once the task is, and forward transfer, which is measured on a
    class that nothing has been learned of, is that of the untrained network. Of a single task, the task-aware accuracy
    is the accuracy. `task_classes`: None where tasks share their classes.
    """
    if not task_classes:
        return set()
    found = set()
    if len(task_classes) == 1:
        found.add("task_average_accuracy")
    elif max(task_classes[1:]) == 1:
        found.add("forward_transfer")
    if max(task_classes) == 1:
        known = ("task_aware", "scenario") if task_aware else ("task_aware",)
        found |= {metric.key for metric in METRICS if metric.accuracies in known}
    return found


def says_something(key: str, runs: list[dict]) -> bool:
    """Whether some of these results have a value of a measure or cost that was not decided by their tasks alone."""
    return any(
        run.get(key) is not None and key not in constant(run.get("task_classes"), run.get("task_aware", False))
        for run in runs
    )


def _is_square(matrix: Matrix) -> bool:
    return len(matrix) == len(matrix[0]) > 1


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
