"""The columns of a page's tables: of each a number to sort by, the printed text, and a smaller text below it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from cl.reporting.metrics import Metric, says_something
from cl.reporting.page import text
from cl.reporting.page.comparison import Line, Table
from cl.reporting.page.study import Budget, Row, Study

PARTS = ("networks", "start", "samples", "statistics")
EDGE = "*"  # of a rate: the lowest or the highest of the search
PASSES = (
    ("forward_passes", "forward"),
    ("backward_passes", "backward"),
    ("unlabelled_forward_passes", "unlabelled forward"),
    ("unlabelled_backward_passes", "unlabelled backward"),
)


@dataclass(frozen=True)
class Column:
    """A column of the page; `below` is left out where it is empty."""

    key: str
    heading: str
    value: Callable[[Line], float | str | None]  # to sort by
    print: Callable[[Line], str]
    below: Callable[[Line], str] = lambda line: ""
    ascending: bool = True  # what the first click sorts by
    folded: bool = False  # the page shows the smaller text only when the row's details are opened


def columns(study: Study, table: Table) -> list[Column]:
    """The columns of a table; those of budgets and searches where the study has any."""
    metric, forgetting = study.measure, study.forgetting

    def against(name: str, of: str) -> Column:
        def found(line):
            return getattr(line, name)

        def below(line):
            if found(line) is None or found(line).low is None:
                return ""
            p = text.probability(getattr(line, f"{name}_p"))
            return f"{text.interval(found(line), metric, metric.digits)}; p {p}"

        return Column(
            f"{name}_difference", f"minus {of}{',' * bool(metric.unit)}{text.points(metric)}",
            lambda line: found(line) and metric.factor * found(line).mean,
            lambda line: text.difference(found(line), metric, metric.digits), below, not metric.higher_is_better,
        )  # fmt: skip

    found = [
        Column("name", "row", lambda line: line.row.name, lambda line: line.row.name),
        Column("school", "school", lambda line: line.row.school, lambda line: line.row.school),
        Column(
            metric.key, metric.title,
            lambda line: line.accuracy and metric.factor * line.accuracy,
            lambda line: text.spread(line.accuracy, line.deviation, metric.digits, metric.factor),
            ascending=not metric.higher_is_better,
        ),
        against("reference", table.reference.name if table.reference else "er"),
        against("best", "the best"),
        Column("rank", "rank", lambda line: line.rank, lambda line: text.number(line.rank)),
        Column(
            "forgetting", forgetting.title,
            lambda line: line.forgetting and forgetting.factor * line.forgetting,
            lambda line: text.spread(
                line.forgetting, line.forgetting_deviation, forgetting.digits, forgetting.factor
            ),
        ),
        Column(
            "persistent_bytes", "kept kB", lambda line: line.row.mean("persistent_bytes"),
            lambda line: text.kilobytes(line.row.mean("persistent_bytes")), _parts, folded=True,
        ),
        _mean("optimizer_bytes", "optimizer kB", text.kilobytes),
        Column("passes", "passes", lambda line: line.row.mean("passes"),
               lambda line: text.number(line.row.mean("passes")), _passes, folded=True),
        _mean("flops", "GFLOPs", lambda value: text.number(value and value / 1e9, 2)),
        _mean("train_seconds", "train s", lambda value: text.number(value, 1)),
        Column("rate", "learning rate", lambda line: line.row.rate,
               lambda line: _rate(study, line.row), lambda line: _held_out(line, metric)),
        Column("seeds", "seeds", lambda line: len(line.row.runs), lambda line: str(len(line.row.runs)),
               lambda line: f"{len(line.row.failed)} failed" if line.row.failed else "", ascending=False),
        Column("within", "within 2 %", _within, _within, lambda line: _shares(line, table.budget)),
    ]  # fmt: skip
    left_out = {"rate", "within"} if table.budget.kind is None else set()
    runs = [run for row in study.rows for run in row.runs.values()]
    if any(row.values(forgetting.key) for row in study.rows) and not says_something(forgetting.key, runs):
        left_out.add("forgetting")  # the tasks alone decide it
    return [column for column in found if column.key not in left_out]


def _mean(key: str, heading: str, show: Callable) -> Column:
    return Column(key, heading, lambda line: line.row.mean(key), lambda line: show(line.row.mean(key)))


def _parts(line: Line) -> str:
    """The parts of what persists that are not empty."""
    found = [(part, line.row.persistent(part)) for part in PARTS]
    return ", ".join(f"{part} {text.kilobytes(value)}" for part, value in found if value)


def _passes(line: Line) -> str:
    found = [(name, line.row.mean(key)) for key, name in PASSES]
    return ", ".join(f"{name} {text.number(value)}" for name, value in found if value)


def _within(line: Line) -> str:
    """Of a row that is the same at every budget the passes, which have one budget."""
    if not line.row.runs:
        return text.NONE
    if line.row.budget is None:
        return text.NONE if line.passes_of_budget is None else f"passes {text.share(line.passes_of_budget)}"
    if line.is_within is None:
        return "no" if line.row.why else text.NONE
    return "yes" if line.is_within else "no"


def _shares(line: Line, budget: Budget) -> str:
    """What was taken of the budget, and why that is not all of it."""
    parts = [("bytes of samples" if budget.kind == "samples" else "bytes", line.bytes_of_budget)]
    if line.row.budget is not None:
        parts.append(("passes", line.passes_of_budget))
    taken = ", ".join(f"{name} {text.share(value)}" for name, value in parts if value is not None)
    alike = "the same at every budget" if line.row.budget is None else None
    return "; ".join(part for part in (taken, line.row.why or alike) if part)


def at_edge(study: Study, row: Row) -> bool:
    """Whether a row got the lowest or the highest rate of the search, so that a better one may lie beyond."""
    rates = (study.search or {}).get("rates", ())
    if row.rate is None or len(rates) < 2:
        return False
    return any(math.isclose(row.rate, end, rel_tol=1e-6) for end in (min(rates), max(rates)))


def _rate(study: Study, row: Row) -> str:
    return text.NONE if row.rate is None else f"{row.rate:g}{EDGE if at_edge(study, row) else ''}"


def tries(row: Row, metric: Metric) -> str:
    """Each rate that was tried with its result on held-out data."""
    found = ((each["rate"], each["held_out"]) for each in row.tries)
    return ", ".join(
        f"{rate:g}: {'training diverged' if value is None else _level(value, metric)}" for rate, value in found
    )


def details(study: Study, table: Table, line: Line) -> list[tuple[str, str]]:
    """What the page shows of a row when it is opened: headings and texts."""
    folded = [(column.heading, column.below(line)) for column in columns(study, table) if column.folded]
    shown = [*folded, ("learning rates, on held-out data", tries(line.row, study.measure))]
    return [(heading, words) for heading, words in shown if words]


def _held_out(line: Line, metric: Metric) -> str:
    return "" if line.row.held_out is None else f"held out {_level(line.row.held_out, metric)}"


def _level(value: float, metric: Metric) -> str:
    return text.number(metric.factor * value, metric.digits) + metric.unit
