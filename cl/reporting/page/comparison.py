"""The numbers of a page's tables: each row of a budget against er and against the best row, ranks and costs."""

from dataclasses import dataclass

from cl.reporting.page import inference
from cl.reporting.page.inference import Difference
from cl.reporting.page.schools import CONTROL, REHEARSAL
from cl.reporting.page.study import TOLERANCE, Budget, Row, Study

REFERENCE = "er"


@dataclass(frozen=True)
class Line:
    """A row of a table. Accuracies are fractions; a `_p` is after Holm over the rows of the table."""

    row: Row
    accuracy: float | None
    deviation: float | None
    reference: Difference | None  # to er
    reference_p: float | None
    best: Difference | None  # to the best row
    best_p: float | None
    rank: int | None
    forgetting: float | None
    forgetting_deviation: float | None
    bytes_of_budget: float | None  # taken / allowed
    passes_of_budget: float | None

    @property
    def is_within(self) -> bool | None:
        """Whether bytes and passes are within 2 % of the budget; None where one of them is not known."""
        shares = (self.bytes_of_budget, self.passes_of_budget)
        if None in shares:
            return None
        return all(abs(share - 1) <= TOLERANCE for share in shares)


@dataclass(frozen=True)
class Table:
    """The lines of a budget: methods, then controls, then bounds, each by their accuracy."""

    budget: Budget
    lines: tuple[Line, ...]
    reference: Row | None  # er
    best: Row | None  # the method with the best mean of those without a failed seed


def tables(study: Study) -> list[Table]:
    """A table for each budget."""
    return [_table(study, budget) for budget in study.budgets]


def _table(study: Study, budget: Budget) -> Table:
    rows, key, higher = study.at(budget), study.measure.key, study.measure.higher_is_better
    values = [row.values(key) for row in rows]
    methods = [row for row in rows if row.is_method and row.values(key)]
    may = [row for row in methods if row.may_be_best]
    best = max(may, key=lambda row: row.mean(key) if higher else -row.mean(key), default=None)
    reference = next((row for row in rows if row.school == REHEARSAL and first_word(row) == REFERENCE), None)
    to_reference, to_best = (_differences(rows, values, row) for row in (reference, best))
    rank = dict(zip(map(id, methods), inference.ranks([row.values(key) for row in methods], higher)))
    lines = []
    for place, row in enumerate(rows):
        forgetting = inference.mean_and_deviation(row.values(study.forgetting.key))
        lines.append(
            Line(
                row, *inference.mean_and_deviation(values[place]), *to_reference[place], *to_best[place],
                rank.get(id(row)), *forgetting, *shares(row, budget),
            )
        )  # fmt: skip
    lines.sort(key=lambda line: _order(line, higher))
    return Table(budget, tuple(lines), reference, best)


def first_word(row: Row) -> str:
    """A row's name up to the first comma."""
    return row.name.split(",")[0]


def shares(row: Row, budget: Budget) -> tuple[float | None, float | None]:
    """The bytes and the passes that a row took, as shares of its budget's; None where they are not known."""
    taken = row.persistent("samples") if budget.kind == "samples" else row.mean("persistent_bytes")
    passes = row.mean("passes")
    return (
        taken / budget.bytes if budget.bytes and taken is not None else None,
        passes / budget.passes if budget.passes and passes is not None else None,
    )


def _differences(rows: list[Row], values: list, other: Row | None) -> list[tuple[Difference | None, float | None]]:
    """Of each row the difference to another, and its p value after Holm over the rows."""
    if other is None:
        return [(None, None)] * len(rows)
    at = next(place for place, row in enumerate(rows) if row is other)
    found = [None if row is other else inference.paired(own, values[at]) for row, own in zip(rows, values)]
    return list(zip(found, inference.holm([None if each is None else each.p for each in found])))


def _order(line: Line, higher: bool) -> tuple:
    kind = 0 if line.row.is_method else 1 if line.row.school == CONTROL else 2
    missing = line.accuracy is None
    return kind, missing, 0 if missing else -line.accuracy if higher else line.accuracy, line.row.name
