"""How numbers are printed on the page and in its other forms: one place, so that all say the same."""

from cl.reporting.metrics import Metric
from cl.reporting.page.inference import Difference

NONE = "-"  # not measured, or not defined
MINUS = "\N{MINUS SIGN}"


def number(value: float | None, digits: int = 0, sign: bool = False) -> str:
    """With separators of thousands; `sign`: a plus as well as a minus. A rounded zero has no minus."""
    if value is None:
        return NONE
    text = f"{value:{'+' if sign else ''},.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = ("+" if sign else "") + text.lstrip("+-")
    return text.replace("-", MINUS)


def spread(mean: float | None, deviation: float | None, digits: int, factor: float = 1) -> str:
    """`mean ± deviation`, or the mean alone."""
    text = number(mean and factor * mean, digits)
    return text if deviation is None else f"{text} ± {number(factor * deviation, digits)}"


def probability(p: float | None) -> str:
    """`< 0.001` or three digits."""
    return NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def difference(found: Difference | None, metric: Metric, digits: int) -> str:
    """The mean of a paired difference with its sign, in the unit of the metric."""
    return number(found and metric.factor * found.mean, digits, sign=True)


def interval(found: Difference | None, metric: Metric, digits: int, between: str = " to ") -> str:
    """`low to high` of a paired difference."""
    if found is None or found.low is None:
        return NONE
    low, high = sorted(metric.factor * bound for bound in (found.low, found.high))
    return number(low, digits) + between + number(high, digits)


def kilobytes(value: float | None) -> str:
    """Bytes in thousands, with a digit."""
    return number(value and value / 1e3, 1)


def share(value: float | None) -> str:
    """A fraction in percent."""
    return NONE if value is None else f"{100 * value:.1f} %"


def points(metric: Metric) -> str:
    """The unit of a difference, with a space before it; errors have none."""
    return " points" if metric.unit.strip() == "%" else ""
