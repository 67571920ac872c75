"""Tables of groups of runs: for a terminal, in Markdown, as CSV. Columns follow from the entries of the metrics."""

import csv
import io
import statistics
from dataclasses import dataclass

from cl.reporting import custom
from cl.reporting.groups import ABOUT, Group
from cl.reporting.metrics import ERROR_METRICS, METRICS, Metric
from cl.reporting.published import Published
from cl.versions import made_with


@dataclass(frozen=True)
class Cost:
    """A column that is no measure of the accuracies."""

    key: str
    title: str
    factor: float = 1
    digits: int = 0


TRAIN_SECONDS = Cost("train_seconds", "train s", digits=1)
# In a table that compares merging with training: what each row was given, in place of the measures over tasks.
MERGING = ("average_accuracy", "task_average_accuracy", "forgetting")
COSTS = (
    Cost("labelled_samples", "labelled samples"),
    Cost("merge_labelled_samples", "of these to merge"),
    Cost("unlabelled_samples", "unlabelled"),
    Cost("gradient_steps", "steps"),
    Cost("buffer_bytes", "stored kB", 1e-3),
)


def columns(groups: list[Group], everything: bool = False) -> list[Metric | Cost]:
    """The columns of measures and costs: those for which a run has a value, or `everything` that a table may have."""
    metrics = [metric for metric in (*METRICS, *ERROR_METRICS) if metric.heading]
    merging = any(run["kind"] == "merge" for group in groups for run in group.runs)
    if merging and not everything:
        metrics = [metric for metric in metrics if metric.key in MERGING]
    asked = custom.of_runs([run for group in groups for run in group.runs])
    found = [*metrics, *asked, *(COSTS if merging else ()), TRAIN_SECONDS]
    return found if everything else [column for column in found if any(group.values(column.key) for group in groups)]


def rows(groups: list[Group], published: Published | None = None) -> tuple[list[str], list[list[str]]]:
    """Heading and printed cells; a column that says the same in every row is left out."""
    names = [*ABOUT, "with"]
    names = [name for name in names if name == "strategy" or len({g.label.get(name) for g in groups}) > 1]
    names = [name for name in names if any(group.label.get(name) for group in groups)]
    heading = [*names, "seeds"]
    cells = [[*(group.label.get(name, "") for name in names), str(len(group.runs))] for group in groups]
    for column in columns(groups):
        key, factor, digits = column.key, column.factor, column.digits
        heading.append(column.title)
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
    lines += [f"- {column.name}: {column.formula}" for column in columns(groups) if isinstance(column, Metric)]
    if published is not None:
        lines += ["", f"Published: {published.source}"]
    if note := mixed_versions(groups):
        lines += ["", note]
    return "\n".join(lines) + "\n"


def as_csv(groups: list[Group]) -> str:
    """One line per group, all columns, numbers unrounded."""
    out = io.StringIO()
    keys = [column.key for column in columns(groups, everything=True)]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*ABOUT, "with", "seeds", *(f"{key}_{what}" for key in keys for what in ("mean", "std"))])
    for group in groups:
        numbers = []
        for key in keys:
            values = group.values(key)
            numbers += [statistics.fmean(values) if values else "", statistics.stdev(values) if len(values) > 1 else ""]
        writer.writerow([*(group.label.get(name, "") for name in (*ABOUT, "with")), len(group.runs), *numbers])
    return out.getvalue()
