"""Tables and plots of finished runs.

    python -m cl.report multirun/class10_digits_mlp
    python -m cl.report multirun/*/er_* --output er
    python -m cl.report multirun/skewed2_mnist_mlp --published docs/published/skewed_mnist.yaml

Takes any folders or results.json files, puts the seeds of each configuration together (mean +- sample standard
deviation), prints the table and writes report.md, report.csv and report.png. Beside merged networks there is a row for
each of those that were merged; beside published figures, how far off they are. Needs no torch.
"""

import argparse
import csv
import io
import json
import os
import re
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from cl.atomic import atomic_write
from cl.configuration.identity import words
from cl.configuration.settings import MERGE_KEYS
from cl.reporting import plots
from cl.reporting.metrics import ERROR_FORMULAS, FORMULAS
from cl.reporting.published import Published
from cl.versions import made_with

# Columns of measures: key in results.json, heading, factor for print, digits.
MEASURES = (
    ("average_accuracy", "accuracy %", 100, 2),
    ("average_error", "error", 1, 4),
    ("task_average_accuracy", "task-aware %", 100, 2),
    ("forgetting", "forgetting %", 100, 2),
    ("backward_transfer", "backward %", 100, 2),
    ("forward_transfer", "forward %", 100, 2),
    ("error_forgetting", "forgetting", 1, 4),
    ("error_backward_transfer", "backward", 1, 4),
    ("error_forward_transfer", "forward", 1, 4),
    ("train_seconds", "train s", 1, 1),
)
# In a table that compares merging with training: what each row was given, in place of the measures over tasks.
COSTS = (
    ("labelled_samples", "labelled samples", 1, 0),
    ("merge_labelled_samples", "of these to merge", 1, 0),
    ("unlabelled_samples", "unlabelled", 1, 0),
    ("gradient_steps", "steps", 1, 0),
    ("buffer_bytes", "stored kB", 1e-3, 0),
)
MODELS_SHOWN = 5  # of more networks than these the mean has a row, not each
ABOUT = ("scenario", "dataset", "backbone", "strategy", "buffer")


@dataclass
class Group:
    """The runs of one configuration over its seeds."""

    runs: list[dict]
    label: dict[str, str]  # heading -> value of the columns that name it

    def values(self, key: str) -> list[float]:
        return [run[key] for run in self.runs if run.get(key) is not None]


def load(paths: list[Path]) -> list[Group]:
    """The groups of all results at or below the paths, in order of first appearance.

    A run that lies in several folders counts once. Raises FileNotFoundError where there is no run, ValueError for a
    file that is no result and for two files of one run with different numbers.
    """
    files: list[Path] = []
    for path in paths:
        found = [path] if path.is_file() else sorted(path.rglob("results.json"), key=_by_number)
        if not found:
            raise FileNotFoundError(f"no results.json at or below {path}: give folders of finished runs")
        files += found
    by_group: dict[str, dict[int, tuple[dict, Path]]] = {}  # of each seed the run, and where it was found first
    for file in files:
        try:
            run = json.loads(file.read_text())
            for each in (*_models_alone(run), run):
                found, where = by_group.setdefault(each["kind"] + each["group"], {}).setdefault(
                    each["seed"], (each, file)
                )
                if _numbers(found) != _numbers(each):
                    raise TwoResults(
                        f"{where} and {file} are the same run (seed {each['seed']} of the same configuration) with "
                        "different numbers: give the folder of the one that is to be counted"
                    )
        except TwoResults:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is not a result of remerge ({type(error).__name__}: {error})") from error
    groups = [Group(runs, _about(runs[0])) for runs in ([run for run, _ in of.values()] for of in by_group.values())]
    _add_what_differs(groups)
    return groups


class TwoResults(ValueError):
    """The same run twice, with different numbers."""


def _numbers(run: dict) -> tuple:
    """What is equal in two files of one run."""
    return tuple(run.get(key) for key in ("accuracy_matrix", "error_matrix", "average_accuracy", "average_error"))


def _by_number(path: Path) -> list:
    """Sorts seed2 before seed10."""
    return [[int(word) if word.isdigit() else word for word in re.split(r"(\d+)", part)] for part in path.parts]


def _models_alone(run: dict) -> list[dict]:
    """The networks that were merged, each as if it were a run; fusions of the same ones have the same."""
    values = run.get("model_accuracies", [])
    names = [f"network {number} alone" for number in range(1, len(values) + 1)]
    if len(values) > MODELS_SHOWN:
        names, values = [f"a network alone (mean of {len(values)})"], [sum(values) / len(values)]
    told = {key: run[key] for key in ("scenario", "dataset", "backbone", "seed", "world_size")}
    told["config"] = {key: value for key, value in run["config"].items() if key not in MERGE_KEYS}
    return [
        told | {
            "kind": "network", "group": f"{run['models_group']}{name}", "strategy": name, "buffer_capacity": None,
            "accuracy_so_far": None, "average_accuracy": value,
        }
        for name, value in zip(names, values)
    ]  # fmt: skip


def _about(run: dict) -> dict[str, str]:
    capacity = run["buffer_capacity"]
    about = {key: str(run[key]) for key in ABOUT[:4]} | {"buffer": "-" if capacity is None else str(capacity)}
    return about | {"strategy": run["fusion"]} if run["kind"] == "merge" else about


def _add_what_differs(groups: list[Group]) -> None:
    """Tell groups with the same columns apart by the configuration keys in which they differ."""
    alike: dict[tuple, list[Group]] = {}
    for group in groups:
        alike.setdefault(tuple(group.label.values()), []).append(group)
    for same in alike.values():
        if len(same) == 1:
            continue
        settings = [_settings(group.runs[0]) for group in same]
        keys = sorted(set().union(*settings) - {"schema"})
        differ = [key for key in keys if len({json.dumps(setting.get(key)) for setting in settings}) > 1]
        for group, setting in zip(same, settings):
            shown = ((key, _value(group.runs[0], key, setting)) for key in differ)
            group.label["with"] = " ".join(f"{key}={value}" for key, value in shown if value is not UNSET)


UNSET = object()


def _settings(run: dict) -> dict:
    """The words that name a run's configuration."""
    return words(run["config"], run["world_size"])


def _value(run: dict, key: str, setting: dict):
    """A setting of a run, from its configuration where its name leaves it out."""
    if key in setting:
        return setting[key]
    node = run["config"] if key != "ranks" else {"ranks": run["world_size"]}
    for name in key.split("."):
        node = node.get(name, UNSET) if isinstance(node, dict) else UNSET
    return node.get("name", UNSET) if isinstance(node, dict) else node


def rows(groups: list[Group], published: Published | None = None) -> tuple[list[str], list[list[str]]]:
    """Heading and printed cells; a column that says the same in every row is left out."""
    names = [*ABOUT, "with"]
    names = [name for name in names if name == "strategy" or len({g.label.get(name) for g in groups}) > 1]
    names = [name for name in names if any(group.label.get(name) for group in groups)]
    shown = [measure for measure in _measures(groups) if any(group.values(measure[0]) for group in groups)]
    heading = [*names, "seeds"]
    cells = [[*(group.label.get(name, "") for name in names), str(len(group.runs))] for group in groups]
    for key, title, factor, digits in shown:
        heading.append(title)
        for group, row in zip(groups, cells):
            row.append(_mean_and_std(group.values(key), factor, digits))
        if published is None or key not in published.measures:
            continue
        heading += ["published", "off by, in its std"]
        for group, row in zip(groups, cells):
            figure = published.of(group.runs[0]["config"], group.label, key)
            row += ["-", "-"] if figure is None else [
                f"{figure.mean:.{digits}f} ± {figure.std:.{digits}f}",
                f"{(factor * statistics.fmean(group.values(key)) - figure.mean) / figure.std:+.1f}",
            ]  # fmt: skip
    return heading, cells


def _measures(groups: list[Group]) -> tuple:
    if not any(run["kind"] == "merge" for group in groups for run in group.runs):
        return MEASURES
    names = ("average_accuracy", "task_average_accuracy", "forgetting")
    kept = [measure for measure in MEASURES if measure[0] in names]
    return (*kept, *COSTS, MEASURES[-1])


def _mean_and_std(values: list[float], factor: float, digits: int) -> str:
    if not values:
        return "-"
    text = f"{factor * statistics.fmean(values):.{digits}f}"
    same = len(set(values)) == 1 and digits == 0
    return text if len(values) == 1 or same else f"{text} ± {factor * statistics.stdev(values):.{digits}f}"


def caption(groups: list[Group]) -> str:
    """What all rows have in common."""
    common = [f"{name} {groups[0].label[name]}" for name in ABOUT if len({g.label[name] for g in groups}) == 1]
    return ", ".join(common)


def mixed_versions(groups: list[Group]) -> str:
    """Which versions made the runs, where that is more than one: their numbers need not be comparable; else nothing."""
    made: dict[str, list[str]] = {}
    for group in groups:
        name = " ".join(text for text in group.label.values() if text != "-")
        for run in group.runs:
            if "versions" in run:  # a row for a network that was merged has none
                made.setdefault(made_with(run["versions"]), []).append(f"{name} seed {run['seed']}")
    if len(made) < 2:
        return ""
    parts = (f"{version}: {runs[0]}{f' and {len(runs) - 1} more' * (len(runs) > 1)}" for version, runs in made.items())
    return f"Made with {len(made)} versions: {'; '.join(parts)}."


def as_text(groups: list[Group], published: Published | None = None) -> str:
    """The table in aligned columns, for a terminal."""
    heading, cells = rows(groups, published)
    widths = [max(map(len, column)) for column in zip(heading, *cells)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in (heading, *cells)]
    lines.insert(1, "  ".join("-" * width for width in widths))
    note = mixed_versions(groups)
    return "\n".join([caption(groups), *lines, *(["", note] if note else [])])


def as_markdown(groups: list[Group], published: Published | None = None) -> str:
    """The table in Markdown, with the formulas of its measures."""
    heading, cells = rows(groups, published)
    lines = [caption(groups), "", "| " + " | ".join(heading) + " |", "|" + "---|" * len(heading)]
    lines += ["| " + " | ".join(row) + " |" for row in cells]
    errors = any(group.values("average_error") for group in groups)
    matrix = "E[i,j]: error" if errors else "A[i,j]: accuracy"
    lines += ["", f"Mean ± sample standard deviation over seeds. {matrix} on task j after training on task i."]
    formulas = ERROR_FORMULAS if errors else FORMULAS
    lines += [f"- {name.replace('_', ' ')}: {formula}" for name, formula in formulas.items()]
    if published is not None:
        lines += ["", f"Published: {published.source}"]
    if note := mixed_versions(groups):
        lines += ["", note]
    return "\n".join(lines) + "\n"


def as_csv(groups: list[Group]) -> str:
    """One line per group, all columns, numbers unrounded."""
    out = io.StringIO()
    keys = [key for key, *_ in dict.fromkeys((*MEASURES, *_measures(groups)))]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*ABOUT, "with", "seeds", *(f"{key}_{what}" for key in keys for what in ("mean", "std"))])
    for group in groups:
        numbers = []
        for key in keys:
            values = group.values(key)
            numbers += [statistics.fmean(values) if values else "", statistics.stdev(values) if len(values) > 1 else ""]
        writer.writerow([*(group.label.get(name, "") for name in (*ABOUT, "with")), len(group.runs), *numbers])
    return out.getvalue()


def curves(groups: list[Group]) -> list[dict]:
    """A line per group for the overlay plot: accuracy so far, or the one value of a run with a single stage."""
    names = [name for name in (*ABOUT, "with") if len({g.label.get(name) for g in groups}) > 1] or ["strategy"]
    lines = []
    for group in groups:
        series = [_so_far(run) for run in group.runs]
        points = list(zip(*series))
        std = [statistics.stdev(point) for point in points] if len(series) > 1 else None
        label = " ".join(group.label[name] for name in names if group.label.get(name, "-") != "-")
        lines.append({"label": label, "mean": [statistics.fmean(point) for point in points], "std": std})
    return lines


def _so_far(run: dict) -> list[float]:
    of = "error" if "average_error" in run else "accuracy"
    return run[f"{of}_so_far"] or [run[f"average_{of}"]]


def main() -> None:
    """Entry point of `python -m cl.report`."""
    parser = argparse.ArgumentParser(prog="python -m cl.report", description="tables and plots of finished runs")
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="folders of runs, or results.json files")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder for the report (default: the one path that is given, else the current folder)",
    )
    parser.add_argument("--published", type=Path, help="file with published figures, to stand beside these")
    parser.add_argument("--format", default="png", choices=plots.FORMATS, help="of the plot (default: png)")
    arguments = parser.parse_args()
    try:
        groups = load(arguments.paths)
        measures = {"error" if "average_error" in run else "accuracy" for group in groups for run in group.runs}
        if len(measures) > 1:
            raise ValueError("some of these runs measure an accuracy and others an error: make a report of each kind")
        published = None if arguments.published is None else Published.read(arguments.published)
        output = arguments.output or (arguments.paths[0] if len(arguments.paths) == 1 else Path())
        output = output.parent if output.is_file() else output
        for name, text in (("report.md", as_markdown(groups, published)), ("report.csv", as_csv(groups))):
            with atomic_write(output / name, "w") as file:
                file.write(text)
        plots.draw_overlay(output / "report", curves(groups), caption(groups), [arguments.format], *measures)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(as_text(groups, published))
    print(f"\nwritten: report.md, report.csv, report.{arguments.format} in {os.path.relpath(output)}")
