"""Metrics of one's own: functions of (matrix, untrained) that a configuration names, computed from a results.json.

    python run.py +metrics.worst_task._target_=my_metrics.worst_task +metrics.worst_task.first=2 \
        trust=[my_metrics]

`matrix` is what the scenario asks for, as `cl.reporting.metrics` describes it (errors where it measures errors), and
`untrained` the row of the network before training; the result is a number or None. As nothing else is needed, a metric
is no part of what names a run: a finished run that lacks one gets it without training. Needs no torch.
"""

import copy
import inspect
import math
import numbers
from collections.abc import Callable
from functools import partial
from inspect import Parameter
from pathlib import Path

from cl.atomic import write_json
from cl.build import LABELS, checked_options, locate
from cl.reporting.metrics import ERROR_METRICS, METRICS, Matrix, Metric, Row, measured
from cl.reporting.reading import read_results

# Keys of results.json that are no metric of ours; a metric of a user must have another name.
OTHER_KEYS = (
    "schema", "kind", "fusion", "strategy", "scenario", "dataset", "backbone", "buffer", "buffer_capacity", "seed",
    "group", "identity", "models_group", "world_size", "accuracy_matrix", "task_accuracy_matrix", "untrained_accuracy",
    "task_aware", "task_classes", "error_matrix", "untrained_error", "model_accuracies", "mean_model_accuracy",
    "model_accuracy_matrix", "evaluations", "one_pass",
    "train_seconds", "merge_seconds", "eval_seconds", "samples_per_second", "replay_wait_seconds", "buffer_bytes",
    "peak_memory_bytes", "gradient_steps", "labelled_samples", "merge_gradient_steps", "merge_labelled_samples",
    "unlabelled_samples", "forward_passes", "backward_passes", "unlabelled_forward_passes",
    "unlabelled_backward_passes", "passes", "flops", "stage_passes", "stage_counts", "stage_costs", "merge_passes",
    "persistent", "persistent_bytes", "optimizer_bytes", "curve", "batch_norm", "merged_batch_norm", "versions",
    "files", "config", "checksum",
)  # fmt: skip
RESERVED = {metric.key for metric in (*METRICS, *ERROR_METRICS)} | set(OTHER_KEYS)


def check(nodes: dict) -> None:
    """Raise ValueError for a name that results.json has already, and for what is no function or has wrong options."""
    for name, node in nodes.items():
        if name in RESERVED:
            raise ValueError(f"metrics.{name}: results.json has a {name} already; choose another name, my_{name}")
        _function(name, node)


def try_out(nodes: dict, num_stages: int, num_tasks: int) -> None:
    """Compute each metric of a matrix of the shape that a run will have, of plausible numbers.

    Raises ValueError for one that fails, or returns something else than a number.
    """
    check(nodes)
    matrix, untrained = _plausible(num_stages, num_tasks)
    for name, node in nodes.items():
        evaluate(name, node, matrix, untrained)


def evaluate(name: str, node: dict, matrix: Matrix, untrained: Row) -> float | None:
    """The value of one metric; raises ValueError that names it, for all that can go wrong in it."""
    what = f"metrics.{name} ({node['_target_']})"
    function = _function(name, node)
    try:
        value = function(copy.deepcopy(matrix), list(untrained))
    except Exception as error:
        shape = f"{len(matrix)} x {len(matrix[0])}"
        raise ValueError(
            f"{what} failed with a matrix of {shape}: {type(error).__name__}: {error}; correct it, or return None "
            "where it is not defined"
        ) from error
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ValueError(f"{what} must return a finite number or None, got {value!r}")
    return float(value)


def missing(content: dict, nodes: dict) -> dict:
    """Those of the metrics that a results.json lacks, or has of another function or other options."""
    recorded = content["config"].get("metrics", {}) if nodes else {}
    return {name: node for name, node in nodes.items() if name not in content or recorded.get(name) != node}


def add(folder: Path, nodes: dict) -> dict:
    """Compute what a finished run lacks of these metrics from its matrices, and add it to its results.json.

    A metric that was computed by another function, or with other options, is replaced. Returns what was added.
    """
    if not nodes:
        return {}
    path = folder / "results.json"
    content = read_results(path)
    lacking = missing(content, nodes)
    if not lacking:
        return {}
    check(lacking)
    matrix, untrained = measured(content)
    try:
        added = {name: evaluate(name, node, matrix, untrained) for name, node in lacking.items()}
    except ValueError as error:
        raise ValueError(
            f"{error} (all else is in {path}, and the same command adds the metric without training)"
        ) from error
    content["config"]["metrics"] = content["config"].get("metrics", {}) | lacking
    write_json(path, content | added)
    return added


def of_runs(runs: list[dict]) -> list[Metric]:
    """Entries for the metrics of users that the runs have; raises ValueError for one name with two meanings."""
    nodes: dict[str, dict] = {}
    for run in runs:
        for name, node in run["config"].get("metrics", {}).items():
            if nodes.setdefault(name, node) != node:
                raise ValueError(
                    f"{name} is {_call(nodes[name])} in some of these runs and {_call(node)} in others: give one of "
                    "them another name, or repeat the commands with one of the two"
                )
    return [
        Metric(
            name, partial(evaluate, name, node), _call(node), heading=name.replace("_", " "), unit="", factor=1,
            digits=4,
        )
        for name, node in nodes.items()
    ]  # fmt: skip


def ask_of_runs(runs: list[dict], targets: list[str]) -> None:
    """Give the runs a metric for each dotted name of a function, under the last part of its name; files stay as is."""
    for target in targets:
        name, node = target.rpartition(".")[2], {"_target_": target}
        check({name: node})
        for run in runs:
            run["config"] = run["config"] | {"metrics": run["config"].get("metrics", {}) | {name: node}}
            if "accuracy_matrix" in run or "error_matrix" in run:  # networks that were merged have none
                run[name] = evaluate(name, node, *measured(run))


def _function(name: str, node: dict) -> Callable[[Matrix, Row], object]:
    """What the node names, with its options."""
    group = f"metrics.{name}"
    function = locate(node, group)
    parameters = inspect.signature(function).parameters
    positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    given = [parameter.name for parameter in parameters.values() if parameter.kind in positional][:2]
    if len(given) < 2:
        found = f"{function.__name__}({', '.join(parameters)})"
        raise ValueError(f"{group}._target_={node['_target_']} must take (matrix, untrained), and it is {found}")
    return partial(function, **checked_options(node, group, parameters, given))


def _call(node: dict) -> str:
    """A metric in words: its function with its options."""
    options = ", ".join(f"{key}={value}" for key, value in node.items() if key not in LABELS)
    return f"{node['_target_']}({options})" if options else node["_target_"]


def _plausible(num_stages: int, num_tasks: int) -> tuple[Matrix, Row]:
    """Accuracies that fall as tasks grow old, all different within a row; a single row is that of the last task."""

    def accuracy(i: int, j: int) -> float:
        age = i + max(0, num_tasks - num_stages) - j
        return 0.5 + 0.4 / (1 + age) - 0.1 * j / num_tasks if age >= 0 else 0.1 + 0.1 * j / num_tasks

    matrix = [[accuracy(i, j) for j in range(num_tasks)] for i in range(num_stages)]
    return matrix, [0.1 - 0.05 * j / num_tasks for j in range(num_tasks)]
