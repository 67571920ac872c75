"""Statistics over seeds: pure functions of one value per seed.

Two rows are compared by the seeds that both have: the same seed is the same order of the data and the same start, so
the values are pairs. scipy is slow to import, so what needs no page does not import this file.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import special

CONFIDENCE = 0.95
SIGNIFICANT = 0.05  # a p value below is significant
SAME = 1e-12  # values that differ by less, relative to the largest, differ by rounding only

Values = Mapping[int, float]  # seed -> value


@dataclass(frozen=True)
class Difference:
    """The mean of one row minus another's over the seeds that both have.

    `low` to `high`: 95 % interval of the mean; `p`: of the two-sided paired t test. They are None for fewer than two
    common seeds, and where all seeds differ by the same amount other than zero: without spread there is no t.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    seeds: int


def mean_and_deviation(values: Values) -> tuple[float | None, float | None]:
    """Mean and sample deviation; None where too few values define it."""
    found = list(values.values())
    return statistics.fmean(found) if found else None, statistics.stdev(found) if len(found) > 1 else None


def half_width(values: Values) -> float | None:
    """Half of the 95 % interval of the mean by Student's t; None for fewer than two values."""
    _, deviation = mean_and_deviation(values)
    if deviation is None:
        return None
    return _half_width(deviation, len(values))


def _half_width(deviation: float, count: int) -> float:
    """Student's interval of a mean: the quantile of t times the standard error."""
    return float(special.stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * deviation / math.sqrt(count)


def paired(values: Values, other: Values) -> Difference | None:
    """`values` minus `other` by seed; None without a common seed."""
    seeds = sorted(values.keys() & other.keys())
    if not seeds:
        return None
    differences = [values[seed] - other[seed] for seed in seeds]
    mean = statistics.fmean(differences)
    if len(seeds) < 2:
        return Difference(mean, None, None, None, len(seeds))
    largest = max(abs(value) for row in (values, other) for value in (row[seed] for seed in seeds))
    if max(differences) - min(differences) <= SAME * largest:
        equal = abs(mean) <= SAME * largest
        return (
            Difference(mean, mean, mean, 1.0, len(seeds)) if equal else Difference(mean, None, None, None, len(seeds))
        )
    deviation = statistics.stdev(differences)
    t = mean / (deviation / math.sqrt(len(seeds)))
    half = _half_width(deviation, len(seeds))
    p = 2 * float(special.stdtr(len(seeds) - 1, -abs(t)))  # of the statistic of this size or larger, to both sides
    return Difference(mean, mean - half, mean + half, p, len(seeds))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p values in the same order (Holm 1979, A simple sequentially rejective multiple test procedure).

    The k-th smallest of m is multiplied by m - k + 1, is at least its predecessor and at most 1. None stays None and
    does not count as a test.
    """
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    least = 0.0
    for place, (p, index) in enumerate(order):
        least = max(least, min(1.0, (len(order) - place) * p))
        adjusted[index] = least
    return adjusted


def ranks(rows: Sequence[Values], higher_is_better: bool = True) -> list[int | None]:
    """Rank of each row, with ties: 1 + the number of rows that are significantly better.

    Significant: p < 5 % in the paired t test of the row against each other, after Holm over these. So a row that is as
    good as all others has a rank other than 1 in at most 5 % of cases. None for a row that has no test.
    """
    found: list[int | None] = []
    for place, row in enumerate(rows):
        others = [paired(other, row) for index, other in enumerate(rows) if index != place]
        adjusted = holm([None if each is None else each.p for each in others])
        if others and all(p is None for p in adjusted):  # alone it is the first
            found.append(None)
            continue
        better = [
            p is not None and p < SIGNIFICANT and (each.mean > 0) == higher_is_better
            for each, p in zip(others, adjusted)
        ]
        found.append(1 + sum(better))
    return found
