"""What a run leaves behind, in one schema: results.json and config.yaml. Tables and plots are made of it."""

import platform
import resource
import sys
from importlib import metadata
from pathlib import Path

import torch
from omegaconf import OmegaConf

from cl import versions as versions_of_remerge
from cl.atomic import atomic_write
from cl.atomic import write_json as write_json  # for those who write results
from cl.configuration.identity import as_text, config_hash, words
from cl.distributed.ranks import world_size
from cl.reporting import metrics
from cl.reporting.history import History
from cl.scenarios.base import Scenario

SCHEMA = "remerge.results/2"


def described(config: dict, kind: str) -> dict:
    """The entries of results.json that say what was run: names, seed, and the words that name the configuration."""
    names = {group: config[group]["name"] for group in ("strategy", "scenario", "dataset", "backbone")}
    ranks = world_size(config)  # also of a run that another number of ranks began, in the folder of that number
    hashed = {"group": config_hash(config, ranks), "identity": as_text(words(config, ranks))}
    return {"schema": SCHEMA, "kind": kind, **names, "seed": config["seed"], **hashed}


def measures(history: History, scenario: Scenario) -> dict:
    """The entries of results.json that follow from the accuracies, or from the errors.

    Transfer and forgetting are taken from the matrix that the scenario asks for: task-aware in
    task-incremental scenarios, over all classes in all others.
    """
    task_aware = scenario.task_aware
    evaluated = {"evaluations": history.evaluations} if history.evaluations else {}
    matrix, task_matrix = history.rows, history.task_aware_rows or None
    if history.measure == "error":
        return {
            "error_matrix": matrix,
            **metrics.measures(metrics.ERROR_METRICS, matrix, None, matrix, history.untrained, history.evaluations),
            "untrained_error": history.untrained,
            "task_aware": False,
            "task_classes": None,
            **evaluated,
        }
    own, untrained = (task_matrix, history.untrained_task_aware) if task_aware else (matrix, history.untrained)
    return {
        "accuracy_matrix": matrix,
        "task_accuracy_matrix": task_matrix,
        **metrics.measures(metrics.METRICS, matrix, task_matrix, own, untrained, history.evaluations),
        **(dict.fromkeys(metrics.OF_TASKS) if scenario.tests_all else {}),
        "untrained_accuracy": untrained,
        "task_aware": task_aware,
        "task_classes": task_classes(scenario),
        **evaluated,
    }


def task_classes(scenario: Scenario) -> list[int] | None:
    """How many classes each task of a planned scenario has of its own; None where tasks share them."""
    return [len(outputs) for outputs in scenario.task_outputs] or None


def write_config(path: Path, config: dict) -> None:
    """The resolved configuration as YAML."""
    with atomic_write(path, "w") as file:
        file.write(OmegaConf.to_yaml(OmegaConf.create(config)))


def versions() -> dict:
    """What the numbers were made with."""
    return {
        **versions_of_remerge.this(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a type of its own, which ranks do not exchange
        "horovod": next((found.version for found in metadata.distributions(name="horovod")), None),
    }


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory on a CUDA device, elsewhere of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
