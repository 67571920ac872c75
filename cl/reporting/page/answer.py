"""The answer in sentences, made from the numbers by a rule; docs/reports.md states it, and so does every page."""

from collections.abc import Callable
from dataclasses import dataclass

from cl.reporting.page import inference, text
from cl.reporting.page.comparison import shares
from cl.reporting.page.inference import Difference
from cl.reporting.page.study import CONTROL, TOLERANCE, Budget, Row, Study

REHEARSAL, MERGING, BOTH = "rehearsal", "merging", "both"
UNTRAINED = "untrained"  # begins the names of controls that do not start from a trained network


@dataclass(frozen=True)
class Claim:
    """Two rows compared at a budget: `first` minus `second`; `p` is after Holm over the budgets."""

    budget: Budget
    first: Row | None
    second: Row | None
    difference: Difference | None
    p: float | None

    @property
    def is_shown(self) -> bool:
        """Whether one is better than the other."""
        return self.p is not None and self.p < inference.SIGNIFICANT


@dataclass(frozen=True)
class Answer:
    """The claims of each question, one a budget; none where the study has no rows of both kinds."""

    main: tuple[Claim, ...]  # merging against rehearsal at the same budget
    equal_bytes: tuple[Claim, ...]  # merging against rehearsal that keeps no more bytes than the merge
    both: tuple[Claim, ...]  # both at once against rehearsal
    control: tuple[Claim, ...]  # merging against an untrained network on the same samples

    @property
    def claims(self) -> list[Claim]:
        return [*self.main, *self.equal_bytes, *self.both, *self.control]


def answer(study: Study) -> Answer:
    """All claims of a study."""

    def at(school: str) -> Callable[[Budget], Row | None]:
        return lambda budget: champion(study, [row for row in study.at(budget) if row.school == school], budget)

    def equal_bytes(budget: Budget) -> Row | None:
        limit = (merging := at(MERGING)(budget)) and merging.mean("persistent_bytes")
        if limit is None:
            return None
        rows = [row for row in study.rows if row.school == REHEARSAL and _keeps(row, limit * (1 + TOLERANCE))]
        return champion(study, rows, Budget(budget.name, passes=budget.passes))

    def control(budget: Budget) -> Row | None:
        rows = [row for row in study.at(budget) if row.school == CONTROL and row.name.lower().startswith(UNTRAINED)]
        return champion(study, rows, budget)

    return Answer(
        _claims(study, at(MERGING), at(REHEARSAL)),
        _claims(study, at(MERGING), equal_bytes),
        _claims(study, at(BOTH), at(REHEARSAL)),
        _claims(study, at(MERGING), control),
    )


def champion(study: Study, rows: list[Row], budget: Budget) -> Row | None:
    """The row that stands for some: the best on held-out data, without a search the best mean accuracy.

    Rows without a finished run, and rows that take over 2 % more than the budget, do not stand for others. Where some
    rows were searched for, so must be the champion.
    """
    sign = 1 if study.measure.higher_is_better else -1
    rows = [row for row in rows if row.values(study.measure.key) and _fits(row, budget)]
    searched = [row for row in rows if row.held_out is not None]
    if searched:
        return max(searched, key=lambda row: sign * row.held_out)
    return max(rows, key=lambda row: sign * row.mean(study.measure.key), default=None)


def _fits(row: Row, budget: Budget) -> bool:
    return all(share is None or share <= 1 + TOLERANCE for share in shares(row, budget))


def _keeps(row: Row, most: float) -> bool:
    taken = row.mean("persistent_bytes")
    return taken is not None and taken <= most


def _claims(study: Study, first: Callable, second: Callable) -> tuple[Claim, ...]:
    """A claim for each budget, if any of them has both rows."""
    key = study.measure.key
    pairs = [(budget, first(budget), second(budget)) for budget in study.budgets]
    if not any(one and other for _, one, other in pairs):
        return ()
    found = [inference.paired(one.values(key), other.values(key)) if one and other else None for _, one, other in pairs]
    adjusted = inference.holm([None if each is None else each.p for each in found])
    return tuple(Claim(*pair, difference, p) for pair, difference, p in zip(pairs, found, adjusted))


def label(row: Row, at: Budget) -> str:
    """A row's name, with its budget where that is another."""
    return row.name if row.budget in (None, at.name) else f"{row.name} ({row.budget})"


def sentences(study: Study, claims: tuple[Claim, ...], at_bytes: bool = False) -> list[str]:
    """A sentence for each claim; `at_bytes`: these compare at the bytes that the first row keeps."""
    return [_sentence(study, claim, _place(claim, at_bytes)) for claim in claims]


def _place(claim: Claim, at_bytes: bool) -> str:
    place = f"At {claim.budget.name}" if claim.budget.kind else f"Among {claim.budget.name}"
    if not at_bytes or claim.first is None:
        return place
    kept = text.kilobytes(claim.first.mean("persistent_bytes"))
    return f"{place}, with no more bytes than the {kept} kB of {label(claim.first, claim.budget)}"


def _sentence(study: Study, claim: Claim, place: str) -> str:
    """What may be said: nothing without an interval, and a difference only where it is significant after Holm."""
    found, metric = claim.difference, study.measure
    if found is None:
        return f"{place}: {_missing(claim)}."
    first, second = (label(row, claim.budget) for row in (claim.first, claim.second))
    unit, digits = text.points(metric), max(0, metric.digits - 1)
    if found.low is None:
        means = (text.number(metric.factor * row.mean(metric.key), digits) for row in (claim.first, claim.second))
        why = (
            f"{found.seeds} seed has both, and an interval needs two or more"
            if found.seeds < 2
            else f"all {found.seeds} seeds differ by the same amount"
        )
        sides = " and ".join(f"{name} has {mean}{metric.unit}" for name, mean in zip((first, second), means))
        return f"{place}, {sides}; no interval can be given ({why}), so nothing is claimed."
    if claim.is_shown and (found.mean > 0) != metric.higher_is_better:
        first, second = second, first
    if claim.is_shown:
        found = found if found.mean > 0 else Difference(-found.mean, -found.high, -found.low, found.p, found.seeds)
        amount = text.number(metric.factor * found.mean, digits)
        says = f"{first} is better than {second} by {amount}{unit} ("
    else:
        amount = text.difference(found, metric, digits)
        says = (
            f"no difference between {first} and {second} could be shown (the first minus the second: {amount}{unit}, "
        )
    within = text.interval(found, metric, digits)
    return f"{place}, {says}95 % interval {within}; p {text.probability(claim.p)}, {found.seeds} seeds)."


def _missing(claim: Claim) -> str:
    """Why two rows cannot be compared."""
    if claim.first is None or claim.second is None:
        return "nothing can be compared, as one side has no finished row within the budget"
    return f"{label(claim.first, claim.budget)} and {label(claim.second, claim.budget)} have no seed in common"
