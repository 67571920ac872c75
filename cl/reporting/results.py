"""What a run leaves behind, in one schema: results.json, metrics.csv, config.yaml. Tables and plots are made of it."""

import csv
import io
import platform
import resource
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import torch
from omegaconf import OmegaConf

from cl import versions as versions_of_remerge
from cl.atomic import atomic_write
from cl.atomic import write_json as write_json  # for those who write results
from cl.configuration.identity import as_text, config_hash, words
from cl.reporting import metrics
from cl.reporting.history import History

SCHEMA = "remerge.results/2"
METRIC_COLUMNS = (
    "stage", "epoch", "step", "loss", "learning_rate", "samples_per_second", "replay_wait_seconds", "buffer_records",
)  # fmt: skip
STRATEGY_COLUMNS = ("stage", "epoch", "step", "name", "value")


def described(config: dict, kind: str) -> dict:
    """The entries of results.json that say what was run: names, seed, and the words that name the configuration."""
    names = {group: config[group]["name"] for group in ("strategy", "scenario", "dataset", "backbone")}
    hashed = {"group": config_hash(config), "identity": as_text(words(config))}
    return {"schema": SCHEMA, "kind": kind, **names, "seed": config["seed"], **hashed}


def measures(history: History, task_aware: bool) -> dict:
    """The entries of results.json that follow from the accuracies, or from the errors.

    Transfer and forgetting are taken from the matrix that the scenario asks for: task-aware in
    task-incremental scenarios, over all classes in all others.
    """
    matrix, task_matrix = history.rows, history.task_aware_rows or None
    if history.measure == "error":
        return {
            "error_matrix": matrix,
            **metrics.measures(metrics.ERROR_METRICS, matrix, None, matrix, history.untrained),
            "untrained_error": history.untrained,
            "task_aware": False,
        }
    own, untrained = (task_matrix, history.untrained_task_aware) if task_aware else (matrix, history.untrained)
    return {
        "accuracy_matrix": matrix,
        "task_accuracy_matrix": task_matrix,
        **metrics.measures(metrics.METRICS, matrix, task_matrix, own, untrained),
        "untrained_accuracy": untrained,
        "task_aware": task_aware,
    }


def write_config(path: Path, config: dict) -> None:
    """The resolved configuration as YAML."""
    with atomic_write(path, "w") as file:
        file.write(OmegaConf.to_yaml(OmegaConf.create(config)))


class MetricsFile:
    """metrics.csv, a row per interval, appended as training goes; a failed write leaves whole rows only.

    What a strategy logs goes to strategy_metrics.csv beside it, a row per name, if it logs anything.
    """

    def __init__(self, path: Path, keep_steps: int):
        """Continues files after their rows up to step `keep_steps` (0 starts again): a resumed run repeats the rest."""
        self.path, self.strategy_path = path, path.with_name(f"strategy_{path.name}")
        _shorten(path, METRIC_COLUMNS, keep_steps)
        if self.strategy_path.is_file():
            _shorten(self.strategy_path, STRATEGY_COLUMNS, keep_steps)

    def append(self, row: dict) -> None:
        assert tuple(row) == METRIC_COLUMNS, tuple(row)
        _append(self.path, [row.values()])

    def append_logged(self, row: dict, logged: dict[str, float]) -> None:
        """What the strategy has logged in the interval of `row`."""
        if not logged:
            return
        if not self.strategy_path.is_file():
            _shorten(self.strategy_path, STRATEGY_COLUMNS, 0)
        place = [row[name] for name in STRATEGY_COLUMNS[:3]]
        _append(self.strategy_path, [[*place, name, value] for name, value in logged.items()])


def _shorten(path: Path, columns: tuple[str, ...], keep_steps: int) -> None:
    """Leave a heading and the rows up to a step."""
    lines = path.read_text().splitlines()[1:] if keep_steps and path.is_file() else []
    lines = [line for line in lines if int(line.split(",")[columns.index("step")]) <= keep_steps]
    with atomic_write(path, "w") as file:
        file.write("\n".join([",".join(columns), *lines]) + "\n")


def _append(path: Path, rows: Iterable[Iterable]) -> None:
    """Some rows, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in rows)
    with open(path, "a") as file:
        end = file.tell()
        try:
            file.write(text.getvalue())
            file.flush()
        except OSError as error:
            file.truncate(end)
            raise OSError(error.errno, error.strerror, str(path)) from error


def versions() -> dict:
    """What the numbers were made with."""
    return {
        **versions_of_remerge.this(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "horovod": next((found.version for found in metadata.distributions(name="horovod")), None),
    }


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory on a CUDA device, elsewhere of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
