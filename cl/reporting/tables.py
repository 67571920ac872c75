"""Tables of groups of runs: for a terminal, in HTML, Markdown, LaTeX, CSV. Columns follow from the metrics."""

import csv
import html
import io
import statistics
from dataclasses import dataclass

from cl.reporting import custom, latex, screen
from cl.reporting.groups import ABOUT, Group
from cl.reporting.metrics import ERROR_METRICS, METRICS, Metric, says_something
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
COUNTED = (
    Cost("passes", "passes"),
    Cost("merge_passes", "of these to merge"),
    Cost("persistent_bytes", "kept kB", 1e-3),
)
COUNTED_BEFORE = (  # what results of earlier versions have in place of these
    Cost("labelled_samples", "labelled samples"),
    Cost("merge_labelled_samples", "labelled to merge"),
    Cost("unlabelled_samples", "unlabelled"),
    Cost("gradient_steps", "steps"),
    Cost("buffer_bytes", "stored kB", 1e-3),
)
IN_CSV = tuple(  # of each run, in report.csv only
    Cost(key, key.replace("_", " "))
    for key in (
        "forward_passes", "backward_passes", "unlabelled_forward_passes", "unlabelled_backward_passes", "flops",
        "optimizer_bytes",
    )
)  # fmt: skip
# Where a terminal has no room for all columns these go, the first ones first, and after them the metrics of users and
# published figures. What a row is, the seeds, and average accuracy or error stay; the task-aware one where the scenario
# asks for it.
FIRST_OUT = (
    "forward_transfer", "error_forward_transfer", "train_seconds", "backward_transfer", "error_backward_transfer",
    *(cost.key for cost in COUNTED_BEFORE), "merge_passes", "task_average_accuracy", "forgetting", "error_forgetting",
    "passes", "persistent_bytes",
)  # fmt: skip
REPORT = "python -m cl.report writes all"
SPREAD = "Mean ± sample standard deviation over seeds."


def columns(groups: list[Group], everything: bool = False) -> list[Metric | Cost]:
    """The columns of measures and costs: those in which some run says something, or `everything` that a table may have.

    A cost that is zero for all says nothing, nor does a measure that the tasks alone decide (`metrics.constant`).
    """
    runs = [run for group in groups for run in group.runs]
    metrics = [metric for metric in (*METRICS, *ERROR_METRICS) if metric.heading]
    merging = any(run["kind"] == "merge" for run in runs)
    if merging and not everything:
        metrics = [metric for metric in metrics if metric.key in MERGING]
    if everything:
        return [*metrics, *custom.of_runs(runs), *COUNTED, *IN_CSV, *COUNTED_BEFORE, TRAIN_SECONDS]
    counted = all("passes" in run for run in runs if run["kind"] != "network")
    costs = () if not merging else COUNTED if counted else (*COUNTED, *COUNTED_BEFORE)
    found = [*metrics, *custom.of_runs(runs), *costs, TRAIN_SECONDS]
    values = {column.key: [value for group in groups for value in group.values(column.key)] for column in found}
    return [
        column for column in found
        if (any(values[column.key]) if column in costs else says_something(column.key, runs))
    ]  # fmt: skip


def names(groups: list[Group]) -> list[str]:
    """The columns that say what a row is; one that says the same in every row is left out."""
    found = [name for name in (*ABOUT, "with") if name == "strategy" or len({g.label.get(name) for g in groups}) > 1]
    return [name for name in found if any(group.label.get(name) for group in groups)]


@dataclass(frozen=True)
class Printed:
    """A column as it is printed; `key` is empty where it says what a row is, or how many seeds it has."""

    key: str
    heading: str
    cells: list[str]


def printed(groups: list[Group], published: Published | None = None) -> list[Printed]:
    """The columns of `names`, then numbers."""
    found = [Printed("", name, [group.label.get(name, "") for group in groups]) for name in names(groups)]
    found.append(Printed("", "seeds", [str(len(group.runs)) for group in groups]))
    for column in columns(groups):
        key, factor, digits = column.key, column.factor, column.digits
        values = [group.values(key) for group in groups]
        printed = [_mean_and_std(each, factor, digits) for each in values]
        # Of fewer seeds than the row has: a metric that was added to some of its runs.
        printed = [
            f"{text} ({len(each)} of {len(group.runs)})" if 0 < len(each) < len(group.runs) else text
            for text, each, group in zip(printed, values, groups)
        ]
        found.append(Printed(key, column.title, printed))
        if published is None or key not in published.measures:
            continue
        figures = [published.of(group.runs[0]["config"], group.label, key) for group in groups]
        means = ["-" if figure is None else f"{figure.mean:.{digits}f} ± {figure.std:.{digits}f}" for figure in figures]
        off = [
            "-" if figure is None else f"{(factor * statistics.fmean(each) - figure.mean) / figure.std:+.1f}"
            for figure, each in zip(figures, values)
        ]
        found += [Printed(f"published {key}", "published", means), Printed(f"off {key}", "off by, in its std", off)]
    return found


def rows(groups: list[Group], published: Published | None = None) -> tuple[list[str], list[list[str]]]:
    """Heading and printed cells, row by row."""
    found = printed(groups, published)
    return [column.heading for column in found], [list(row) for row in zip(*(column.cells for column in found))]


def _mean_and_std(values: list[float], factor: float, digits: int) -> str:
    if not values:
        return "-"
    text = f"{factor * statistics.fmean(values):.{digits}f}"
    same = len(set(values)) == 1 and digits == 0
    return text if len(values) == 1 or same else f"{text} ± {factor * statistics.stdev(values):.{digits}f}"


def caption(groups: list[Group]) -> str:
    """What all rows have in common."""
    common = {name: {group.label[name] for group in groups} for name in ABOUT}
    return ", ".join(f"{name} {value}" for name, (value, *more) in common.items() if not more and value != "-")


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


def as_text(groups: list[Group], published: Published | None = None, width: int | None = None) -> str:
    """The table in aligned columns, for a terminal of that width; None: as wide as it is."""
    return _text(groups, published, width, REPORT, styled=False)


def show(groups: list[Group], published: Published | None = None, rest: str = REPORT) -> None:
    """Print the table, no wider than the terminal; `rest`: where the columns are that it has no room for."""
    print(screen.printable(_text(groups, published, screen.width(), rest, styled=True)), flush=True)


def _text(groups: list[Group], published: Published | None, width: int | None, rest: str, styled: bool) -> str:
    """`styled`: for the output as it is."""
    found, count = printed(groups, published), len(names(groups))
    stay = {"", "average_accuracy", "average_error"}
    if any(run.get("task_aware") for group in groups for run in group.runs):
        stay.add("task_average_accuracy")
    keys = [column.key for column in found]
    order = [place for key in FIRST_OUT for place in range(len(keys)) if keys[place] == key and key not in stay]
    order += [place for place, key in enumerate(keys) if key not in stay and key not in FIRST_OUT]
    heading = [column.heading for column in found]
    cells = [[cell or "-" for cell in row] for row in zip(*(column.cells for column in found))]
    places = screen.fitting(heading, cells, count, order, width)
    chosen = [[row[place] for place in places] for row in (heading, *cells)]
    parts = [screen.wrapped(caption(groups), width)]
    parts.append(screen.table(chosen[0], chosen[1:], count, width, styled))
    if missing := [title for place, title in enumerate(heading) if place not in places]:
        parts.append(screen.wrapped(f"not shown for want of width: {', '.join(missing)}; {rest}", width))
    if note := mixed_versions(groups):
        parts += ["", screen.wrapped(note, width)]
    return "\n".join(parts)


def as_html(groups: list[Group], published: Published | None = None) -> str:
    """The table in HTML, for notebooks: what all rows have in common as its caption."""
    heading, cells = rows(groups, published)
    count = len(names(groups))

    def line(kind: str, row: list[str]) -> str:
        styles = ["text-align: left"] * count + ["text-align: right"] * (len(row) - count)
        inner = (f'<{kind} style="{style}">{html.escape(cell)}</{kind}>' for style, cell in zip(styles, row))
        return f"<tr>{''.join(inner)}</tr>"

    lines = [
        "<table>",
        f"<caption>{html.escape(caption(groups))}</caption>",
        "<thead>",
        line("th", heading),
        "</thead>",
    ]
    lines += ["<tbody>", *(line("td", row) for row in cells), "</tbody>", "</table>"]
    if note := mixed_versions(groups):
        lines.append(f"<p>{html.escape(note)}</p>")
    return "\n".join(lines) + "\n"


def as_markdown(groups: list[Group], published: Published | None = None) -> str:
    """The table in Markdown, with the formulas of its measures."""
    heading, cells = rows(groups, published)
    heading, *cells = ([cell.replace("|", r"\|") for cell in row] for row in (heading, *cells))
    lines = [caption(groups), "", "| " + " | ".join(heading) + " |", "|" + "---|" * len(heading)]
    lines += ["| " + " | ".join(row) + " |" for row in cells]
    errors = any(group.values("average_error") for group in groups)
    matrix = "E[i,j]: error" if errors else "A[i,j]: accuracy"
    lines += ["", f"{SPREAD} {matrix} on task j after training on task i."]
    lines += [f"- {column.name}: {column.formula}" for column in columns(groups) if isinstance(column, Metric)]
    if published is not None:
        lines += ["", f"Published: {published.source}"]
    if note := mixed_versions(groups):
        lines += ["", note]
    return "\n".join(lines) + "\n"


def as_latex(groups: list[Group], published: Published | None = None) -> str:
    """The table in LaTeX."""
    common = caption(groups)
    said = [f"{common[:1].upper()}{common[1:]}."] if common else []
    said += [SPREAD] if published is None else [SPREAD, f"Published: {published.source}."]
    return latex.table(*rows(groups, published), len(names(groups)), " ".join(said))


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
            values = values if len(values) == len(group.runs) else []  # a mean over all seeds of the row, or none
            numbers += [statistics.fmean(values) if values else "", statistics.stdev(values) if len(values) > 1 else ""]
        writer.writerow([*(group.label.get(name, "") for name in (*ABOUT, "with")), len(group.runs), *numbers])
    return out.getvalue()
