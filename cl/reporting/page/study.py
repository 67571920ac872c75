"""What a page is made of: budgets and rows, from study.json or from any groups of runs, and the runs' results.json."""

import datetime
from dataclasses import dataclass, field
from pathlib import Path

from cl.checksums import DamagedError
from cl.reporting.groups import ABOUT, Group
from cl.reporting.metrics import ERROR_METRICS, METRICS, Metric, says_something
from cl.reporting.page.schools import BOUND, CONTROL, school
from cl.reporting.reading import read_results
from cl.reporting.tables import caption

SCHEMA = "remerge.study/1"
TOLERANCE = 0.02  # of a budget


@dataclass(frozen=True)
class Budget:
    """Bytes (of the stored samples, or of all that persists) and training passes that a row may take."""

    name: str
    kind: str | None = None  # "samples" or "bytes"; None: no budget, the table of any set of runs
    bytes: float | None = None
    passes: float | None = None


@dataclass(frozen=True)
class Row:
    """One method at one budget (None: at each alike), with the results of its seeds."""

    name: str
    school: str
    budget: str | None
    runs: dict[int, dict]  # seed -> content of results.json
    command: str | None = None
    rate: float | None = None
    held_out: float | None = None
    why: str | None = None  # it is not within its budget
    failed: tuple[dict, ...] = ()
    all_stored: bool = False  # it stores all samples, whatever the budget
    tries: tuple[dict, ...] = ()  # of the search: {"rate", "held_out"}, which is None where training diverged

    @property
    def is_method(self) -> bool:
        return self.school not in (BOUND, CONTROL)

    @property
    def may_be_best(self) -> bool:
        """Whether it can stand for others: the seeds that survived may be those with luck."""
        return self.is_method and not self.failed

    def values(self, key: str) -> dict[int, float]:
        """Of each seed that has it."""
        return {seed: run[key] for seed, run in self.runs.items() if run.get(key) is not None}

    def mean(self, key: str) -> float | None:
        values = self.values(key).values()
        return sum(values) / len(values) if values else None

    def persistent(self, part: str) -> float | None:
        """Mean bytes of a part of what persists."""
        values = [run["persistent"][part] for run in self.runs.values() if part in (run.get("persistent") or {})]
        return sum(values) / len(values) if values else None


@dataclass(frozen=True)
class Study:
    """Everything that the page shows; `budgets` in the order of its tables."""

    title: str
    about: str
    budgets: tuple[Budget, ...]
    rows: tuple[Row, ...]
    command: str | None = None
    seeds: tuple[int, ...] = ()
    search: dict | None = None
    training_samples: int | None = None
    dates: tuple[str, str] | None = None  # of the oldest and the newest results.json
    measure: Metric = field(default=METRICS[0])
    forgetting: Metric = field(default=next(metric for metric in METRICS if metric.key == "forgetting"))

    @property
    def has_budgets(self) -> bool:
        """False for the page of any set of runs."""
        return any(budget.kind for budget in self.budgets)

    def at(self, budget: Budget) -> list[Row]:
        """The rows of a budget's table."""
        return [row for row in self.rows if row.budget in (None, budget.name)]


def read(folder: Path, study: dict) -> Study:
    """The content of a study.json, with the results that it names by paths from `folder`.

    Raises ValueError for what is no study or no result, FileNotFoundError for a result that is not there.
    """
    if study.get("schema") != SCHEMA:
        raise ValueError(f"{folder / 'study.json'} must have schema {SCHEMA}, got {study.get('schema')}")
    try:
        budgets = tuple(
            Budget(*(entry[key] for key in ("name", "kind", "bytes", "passes"))) for entry in study["budgets"]
        )
        files, rows = [], []
        for entry in study["rows"]:
            paths = [folder / path for path in entry["runs"]]
            files += paths
            told = {key: entry.get(key) for key in ("command", "rate", "held_out", "why")}
            rows.append(
                Row(
                    entry["name"], entry["school"], entry["budget"], _by_seed(entry["name"], paths), **told,
                    failed=tuple(entry.get("failed", ())), all_stored=bool(entry.get("all_stored")),
                    tries=tuple({key: each[key] for key in ("rate", "held_out")} for each in entry.get("tries") or ()),
                )
            )  # fmt: skip
        about = f"scenario {study['scenario']}, dataset {study['dataset']}, backbone {study['backbone']}"
        title = study["name"].replace("_", " ")
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / 'study.json'} is not a study of remerge ({type(error).__name__}: {error})"
        ) from error
    unknown = sorted({row.budget for row in rows if row.budget} - {budget.name for budget in budgets})
    if unknown:
        raise ValueError(f"{folder / 'study.json'}: rows are of a budget {unknown[0]!r}, which it does not list")
    return Study(
        title, about, budgets, tuple(rows), study["command"], tuple(study["seeds"]), study["search"],
        study.get("training_samples"), _dates(files), *_measures(rows),
    )  # fmt: skip


def of_groups(groups: list[Group]) -> Study:
    """Any runs: one table without a budget; a school follows from what the runs did.

    Networks alone are no row: they are parts of the merges.
    """
    groups = [group for group in groups if group.runs[0]["kind"] != "network"]
    files = [file for group in groups for file in group.files]
    varies = [name for name in (*ABOUT, "with") if len({group.label.get(name) for group in groups}) > 1]
    rows = []
    for group in groups:
        words = [group.label["strategy"], *(f"{name} {group.label[name]}" for name in varies if name in group.label)]
        words = [word for word in words if not word.startswith("strategy ") and word != "buffer -"]
        name = ", ".join(word.removeprefix("with ") for word in words)
        rows.append(Row(name, school(group.runs[0], files), None, {run["seed"]: run for run in group.runs}))
    seeds = sorted({seed for row in rows for seed in row.runs})
    return Study(
        "comparison of runs", caption(groups), (Budget("all runs"),), tuple(rows), None, tuple(seeds),
        dates=_dates(files), **dict(zip(("measure", "forgetting"), _measures(rows))),
    )  # fmt: skip


def _by_seed(name: str, paths: list[Path]) -> dict[int, dict]:
    """The results in some files by their seeds."""
    found: dict[int, dict] = {}
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}, a run of row {name!r} in study.json, is not there: run the study again")
        try:
            run = read_results(path)
            seed = run["seed"]
        except DamagedError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a result of remerge ({type(error).__name__}: {error})") from error
        if seed in found:
            raise ValueError(f"row {name!r} in study.json names two results of seed {seed}; the second is {path}")
        found[seed] = run
    return dict(sorted(found.items()))


def _measures(rows: list[Row]) -> tuple[Metric, Metric]:
    """What the runs are compared by, and its forgetting: errors or accuracies, as the scenario asks for them."""
    runs = [run for row in rows for run in row.runs.values()]
    errors = {run.get("average_error") is not None for run in runs}
    if len(errors) > 1:
        raise ValueError("some of these runs measure an accuracy and others an error: make a page of each kind")
    entries = {metric.key: metric for metric in (*METRICS, *ERROR_METRICS)}
    if errors == {True}:
        return entries["average_error"], entries["error_forgetting"]
    aware = all(run.get("task_aware") for run in runs) and says_something("task_average_accuracy", runs)
    return entries["task_average_accuracy" if aware else "average_accuracy"], entries["forgetting"]


def _dates(files: list[Path]) -> tuple[str, str] | None:
    """The days on which the oldest and the newest of the files were written, in UTC."""
    times = [file.stat().st_mtime for file in files]
    if not times:
        return None
    oldest, newest = (datetime.datetime.fromtimestamp(of(times), datetime.timezone.utc) for of in (min, max))
    return oldest.date().isoformat(), newest.date().isoformat()
