"""What loggers are told, by name: the same in training, for a finished run, and in every logger. Needs no torch."""

import csv
from collections.abc import Iterator
from pathlib import Path

from cl.reporting.loggers.base import Logger

UNTOLD = ("config", "versions", "files")  # entries of results.json that hold numbers which are no measures
TRAINING = ("train", "strategy", "anytime")  # the first parts of the names of what is told in training
TEST = ("accuracy", "task_aware_accuracy", "error")  # and of what is told of a test


def of_row(row: dict, logged: dict[str, float]) -> dict[str, float]:
    """A row of metrics.csv without its step, and what the strategy has logged in its interval."""
    values = {f"train/{name}": value for name, value in row.items() if name != "step"}
    return values | {f"strategy/{name}": value for name, value in logged.items()}


def of_anytime(measure: str, value: float) -> dict[str, float]:
    """A test at an interval or after a stage: the measure (accuracy, or error) of what has been seen so far."""
    return {f"anytime/{measure}": value}


def of_test(measure: str, row: list[float], task_aware_row: list[float] | None, stage: int, stages: int) -> dict:
    """The test after one of `stages` stages: each task, and the mean over the tasks so far.

    `measure`: accuracy, in [0, 1], or error. The mean is left out where stages are not tasks.
    """
    found: dict[str, float] = {}
    for name, values in ((measure, row), (f"task_aware_{measure}", task_aware_row)):
        if values is None:
            continue
        if stages == len(values) or stages == 1:
            seen = values[: stage + 1] if stages == len(values) else values
            found[f"{name}/so_far"] = sum(seen) / len(seen)
        found |= {f"{name}/task_{task:0{_digits(values)}}": value for task, value in enumerate(values)}
    return found


def numbers(results: dict) -> dict[str, float]:
    """The numbers of a results.json: measures, costs, the user's own metrics; a number within another as a/b."""
    found = {}
    for name, value in results.items():
        inner = value.items() if isinstance(value, dict) and name not in UNTOLD else ()
        found |= {f"{name}/{key}": each for key, each in inner if _is_number(each)}
        if _is_number(value) and name != "checksum":
            found[name] = value
    return found


def tables(folder: Path, results: dict) -> dict[str, tuple[list[str], list[list]]]:
    """Columns and rows of each table: the matrices of a run or merge, or the rows of a study from its report.csv."""
    if "kind" not in results:
        lines = list(rows(folder / "report" / "report.csv"))
        content = [[read(cell) if cell else None for cell in line.values()] for line in lines]
        return {"study": (list(lines[0]), content)} if lines else {}
    found = {}
    for name in ("accuracy_matrix", "task_accuracy_matrix", "error_matrix"):
        if matrix := results.get(name):
            tasks = [f"task_{task:0{_digits(matrix[0])}}" for task in range(len(matrix[0]))]
            found[name] = ["stage", *tasks], [[stage, *row] for stage, row in enumerate(matrix)]
    return found


def pictures(folder: Path, results: dict) -> list[Path]:
    """The pictures (PNG) of a run, merge or study, where its configuration asks for them."""
    if "kind" not in results:
        return sorted(folder.glob("report/*.png"))
    asked = results["config"].get("pictures", [])
    return sorted(folder.glob("*.png")) if "png" in (asked if isinstance(asked, list) else [asked]) else []


def replay(logger: Logger, folder: Path, results: dict) -> None:
    """Tell a logger all that a finished run or merge has told while it trained, from its files."""
    measure = "error" if "error_matrix" in results else "accuracy"
    matrix, task_aware = results[f"{measure}_matrix"], results.get("task_accuracy_matrix") or []
    logged: dict[tuple, dict[str, float]] = {}
    for row in rows(folder / "strategy_metrics.csv"):
        logged.setdefault((row["stage"], row["epoch"], row["step"]), {})[row["name"]] = float(row["value"])
    for row in rows(folder / "metrics.csv"):
        told = logged.get((row["stage"], row["epoch"], row["step"]), {})
        values = {name: read(value) for name, value in row.items()}
        logger.log_training(values["step"], of_row(values, told))
    for row in rows(folder / "anytime.csv"):
        logger.log_training(read(row["step"]), of_anytime(measure, float(row["so_far"])))
    for stage, row in enumerate(matrix):
        aware = task_aware[stage] if task_aware else None
        logger.log_test(stage, of_test(measure, row, aware, stage, len(matrix)))


def rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a CSV file, none where there is no file."""
    if path.is_file():
        with path.open(newline="") as file:
            yield from csv.DictReader(file)


def begun_without(folder: Path) -> bool:
    """Whether a run in this folder is under way and has rows already, which a logger that begins now has not seen."""
    return not (folder / "results.json").exists() and next(rows(folder / "metrics.csv"), None) is not None


def read(text: str) -> int | float | str:
    """A number, or the text itself."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _digits(row: list) -> int:
    return max(2, len(str(len(row) - 1)))  # names are sorted by text


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
