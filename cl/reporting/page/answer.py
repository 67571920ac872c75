"""The answer in sentences, made from the numbers by a rule; docs/reports.md states it, and so does every page."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from cl.reporting.page import inference, text
from cl.reporting.page.comparison import shares
from cl.reporting.page.inference import Difference
from cl.reporting.page.schools import BOTH, CONTROL, FEATURES, MERGING, REHEARSAL
from cl.reporting.page.study import TOLERANCE, Budget, Row, Study

SCHOOLS = (REHEARSAL, MERGING, BOTH, FEATURES)
UNTRAINED = "untrained"  # begins the names of controls that do not start from a trained network


@dataclass(frozen=True)
class Claim:
    """Two rows compared at a budget: `first` minus `second`; `p` is after Holm over the pairs of all budgets."""

    budget: Budget
    first: Row | None
    second: Row | None
    difference: Difference | None
    p: float | None

    @property
    def is_shown(self) -> bool:
        """Whether one is better than the other."""
        return self.p is not None and self.p < inference.SIGNIFICANT

    @property
    def pair(self) -> tuple[int, int] | None:
        """Equal for claims of the same two rows."""
        return (id(self.first), id(self.second)) if self.first and self.second else None


@dataclass(frozen=True)
class Answer:
    """The claims of each question, one a budget; none where the study has no rows of both kinds."""

    main: tuple[Claim, ...]  # merging against rehearsal at the same budget
    equal_bytes: tuple[Claim, ...]  # merging against rehearsal that keeps no more bytes than the merge
    both: tuple[Claim, ...]  # both at once against rehearsal
    features: tuple[Claim, ...]  # statistics of frozen features against rehearsal
    control: tuple[Claim, ...]  # merging against an untrained network on the same samples

    @property
    def claims(self) -> list[Claim]:
        return [*self.main, *self.equal_bytes, *self.both, *self.features, *self.control]


def answer(study: Study) -> Answer:
    """All claims of a study."""

    def at(school: str) -> Callable[[Budget], Row | None]:
        return lambda budget: champion(study, _of(study, school, budget), budget)

    def equal_bytes(budget: Budget) -> Row | None:
        limit = (merging := at(MERGING)(budget)) and merging.mean("persistent_bytes")
        if limit is None:
            return None
        # Replay of all samples is a control beside a budget of samples, and rehearsal like any other beside bytes.
        rows = [row for row in study.rows if row.school == REHEARSAL or row.school == CONTROL and row.all_stored]
        rows = [row for row in rows if _keeps(row, limit * (1 + TOLERANCE))]
        return champion(study, rows, Budget(budget.name, passes=budget.passes))

    def with_samples(budget: Budget) -> Row | None:
        return champion(study, [row for row in _of(study, MERGING, budget) if row.persistent("samples")], budget)

    def control(budget: Budget) -> Row | None:
        rows = [row for row in _of(study, CONTROL, budget) if row.name.lower().startswith(UNTRAINED)]
        if budget.kind is None and (merging := with_samples(budget)):  # no budget has made their samples equal
            stored = merging.persistent("samples")
            rows = [row for row in rows if abs((row.persistent("samples") or 0) / stored - 1) <= TOLERANCE]
        return champion(study, rows, budget)

    return Answer(
        _claims(study, at(MERGING), at(REHEARSAL)),
        _claims(study, at(MERGING), equal_bytes),
        _claims(study, at(BOTH), at(REHEARSAL)),
        _claims(study, at(FEATURES), at(REHEARSAL)),
        _claims(study, with_samples, control),
    )


def champion(study: Study, rows: list[Row], budget: Budget) -> Row | None:
    """The row that stands for some: of the candidates the best on held-out data, or the best mean accuracy."""
    sign = 1 if study.measure.higher_is_better else -1
    rows = candidates(study, rows, budget)
    if any(row.held_out is not None for row in rows):
        return max(rows, key=lambda row: sign * row.held_out)
    return max(rows, key=lambda row: sign * row.mean(study.measure.key), default=None)


def candidates(study: Study, rows: list[Row], budget: Budget) -> list[Row]:
    """The rows that may stand for others.

    Not those without a finished run or with a failed one, and not those that take over 2 % more than the budget. Where
    some were searched for, only these.
    """
    rows = [row for row in rows if row.values(study.measure.key) and not row.failed and _fits(row, budget)]
    return [row for row in rows if row.held_out is not None] or rows


def chosen_from(study: Study, budget: Budget) -> dict[str, int]:
    """From how many rows the champion of each school was chosen."""
    return {school: len(candidates(study, _of(study, school, budget), budget)) for school in SCHOOLS}


def _of(study: Study, school: str, budget: Budget) -> list[Row]:
    return [row for row in study.at(budget) if row.school == school]


def _fits(row: Row, budget: Budget) -> bool:
    return all(share is None or share <= 1 + TOLERANCE for share in shares(row, budget))


def _keeps(row: Row, most: float) -> bool:
    taken = row.mean("persistent_bytes")
    return taken is not None and taken <= most


def _claims(study: Study, first: Callable, second: Callable) -> tuple[Claim, ...]:
    """A claim for each budget, if any of them has both rows; a pair that stands for several budgets is one test."""
    key = study.measure.key
    claims = [Claim(budget, first(budget), second(budget), None, None) for budget in study.budgets]
    pairs = {claim.pair: claim for claim in claims if claim.pair}
    if not pairs:
        return ()
    found = {pair: inference.paired(of.first.values(key), of.second.values(key)) for pair, of in pairs.items()}
    adjusted = dict(zip(found, inference.holm([None if each is None else each.p for each in found.values()])))
    return tuple(replace(claim, difference=found.get(claim.pair), p=adjusted.get(claim.pair)) for claim in claims)


def label(row: Row, at: Budget) -> str:
    """A row's name, with its budget where that is another, and what it keeps."""
    budget = [] if row.budget in (None, at.name) else [row.budget]
    kept = row.mean("persistent_bytes")
    about = [*budget, *([] if kept is None else [f"{text.kilobytes(kept)} kB kept"])]
    return f"{row.name} ({', '.join(about)})" if about else row.name


def sentences(study: Study, claims: tuple[Claim, ...], at_bytes: bool = False, above: tuple[Claim, ...] = ()) -> list:
    """A sentence for each claim; `at_bytes`: rehearsal may keep what the merge does; `above`: what was said before."""
    said = {claim.pair: "above" for claim in above if claim.difference is not None}
    found = []
    for claim in claims:
        place = f"At {claim.budget.name}" if claim.budget.kind else f"Among {claim.budget.name}"
        start = f"{place}, with no more bytes than the merge" if at_bytes else place
        found.append(
            f"{start}: the same rows as {said[claim.pair]}." if claim.pair in said else _sentence(study, claim, start)
        )
        if claim.difference is not None:
            said.setdefault(claim.pair, place[0].lower() + place[1:])
    return found


def _sentence(study: Study, claim: Claim, place: str) -> str:
    """What may be said: nothing without an interval, and a difference only where it is significant after Holm."""
    found, metric = claim.difference, study.measure
    if missing := _missing(claim):
        return f"{place}: {missing}."
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


def _missing(claim: Claim) -> str | None:
    """Why two rows cannot be compared."""
    if claim.first is None or claim.second is None:
        return "nothing can be compared, as one side has no row that finished within the budget without failed seeds"
    both = f"{label(claim.first, claim.budget)} and {label(claim.second, claim.budget)}"
    if claim.difference is None:
        return f"{both} have no seed in common"
    if None in (claim.first.mean("persistent_bytes"), claim.second.mean("persistent_bytes")):
        return f"{both} are not compared, as the results do not say how many bytes each of them keeps"
    return None
