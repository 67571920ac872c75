"""study.json: the rows of a study with their runs, commands and budgets. Tables and the page are made of it."""

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from merging.study.options import Budget, Options
from merging.study.rows import Facts, Row

SCHEMA = "remerge.study/1"
TOLERANCE = 0.02  # how near a row is to its budget, or says why not


@dataclass
class Done:
    """What has become of a row under a budget. `runs`: folder and results of each seed, `failed`: seed and error."""

    row: Row
    budget: Budget | None
    command: str = ""
    rate: float | None = None
    held_out: float | None = None
    tries: dict[float, float | None] = field(default_factory=dict)  # rate -> held-out accuracy; None: diverged
    multiple: float = 1.0
    why: str | None = None
    runs: list[tuple[Path, dict]] = field(default_factory=list)
    failed: list[tuple[int, str]] = field(default_factory=list)

    @property
    def title(self) -> str:
        return self.row.name if self.budget is None else f"{self.row.name}, {self.budget.name}"


def accuracy(results: dict) -> float:
    """The accuracy that the scenario asks for."""
    return results["task_average_accuracy" if results["task_aware"] else "average_accuracy"]


def content(
    options: Options, config: dict, facts: Facts, rows: Sequence[Done], seeds: Sequence[int], folder: Path,
    command: str,
) -> dict:  # fmt: skip
    """The content of study.json."""
    passes = options.passes * facts.training_samples
    budgets = [
        {
            "name": each.name,
            "kind": each.kind,
            "bytes": each.bytes or each.samples * facts.sample_bytes,
            "passes": passes,
        }
        for each in options.budgets
    ]
    search = None
    if options.search is not None:
        rates = [float(f"{factor * facts.learning_rate:.6g}") for factor in options.search.factors]
        search = {"rates": rates, "validation": options.search.validation, "seeds": list(options.search.seeds)}
    return {
        "schema": SCHEMA,
        "name": options.name,
        **{group: config[group]["name"] for group in ("scenario", "dataset", "backbone")},
        "seeds": list(seeds),
        "command": command,
        "training_samples": facts.training_samples,
        "sample_bytes": facts.sample_bytes,
        "compute": options.passes,
        "memory_share": options.memory_share,
        "budgets": budgets,
        "search": search,
        "rows": [_row(done, options, facts, folder) for done in rows],
    }


def _row(done: Done, options: Options, facts: Facts, folder: Path) -> dict:
    results = [found for _, found in done.runs]
    return {
        "name": done.row.name,
        "school": done.row.school,
        "budget": None if done.budget is None else done.budget.name,
        "command": done.command,
        "rate": done.rate,
        "held_out": done.held_out,
        "tries": [{"rate": rate, "held_out": score} for rate, score in done.tries.items()],
        "all_stored": done.row.all_stored,
        "runs": [os.path.relpath(path / "results.json", folder) for path, _ in done.runs],
        "why": done.why or (why_not(done, results, options, facts) if results else None),
        "failed": [{"seed": seed, "error": error} for seed, error in done.failed],
    }


def why_not(done: Done, results: list[dict], options: Options, facts: Facts) -> str | None:
    """Why a row is not within its budgets of memory and compute; None if it is."""
    reasons = []
    used = statistics.fmean(found["passes"] for found in results)
    compute = options.passes * facts.training_samples
    if abs(used / compute - 1) > TOLERANCE:
        words = done.row.partly or "a task has a whole number of steps"
        if done.multiple != 1:
            words = f"trained until convergence, {done.multiple:g} times the passes"
        reasons.append(f"{words} ({100 * used / compute:.0f} % of the passes)")
    memory = _memory(done, results, options, facts)
    return "; ".join([*reasons, *([memory] if memory else [])]) or None


def _memory(done: Done, results: list[dict], options: Options, facts: Facts) -> str | None:
    stored = statistics.fmean(found["persistent"]["samples"] for found in results)
    everything = facts.training_samples * facts.sample_bytes
    if done.row.all_stored or done.row.school == "bound":
        return f"stores {stored / 1000:,.1f} kB of samples" if stored else None
    if done.budget is None:
        return f"stores {stored / 1000:,.1f} kB of samples whatever the budget" if stored else None
    if done.budget.bytes is None:
        used, allowed = stored, done.budget.samples * facts.sample_bytes
    else:
        used, allowed = statistics.fmean(found["persistent_bytes"] for found in results), done.budget.bytes
    if abs(used / allowed - 1) <= TOLERANCE:
        return None
    if used < allowed and stored >= everything * (1 - TOLERANCE):
        return f"all training samples are stored ({100 * used / allowed:.0f} % of the bytes)"
    share = f"{100 * used / allowed:.0f} % of the bytes"
    if used < allowed and done.row.command == "merge":
        return f"it stores equally many samples of each task, and of no task more than there are ({share})"
    return f"its samples take {share}"
