"""Accuracy against what it costs: points of all rows, lines of a few, and the Pareto front. For matplotlib."""

import io
import math
import re
import textwrap
from dataclasses import dataclass
from html import escape

from cl.reporting import plots
from cl.reporting.page import inference, text
from cl.reporting.page.answer import Answer
from cl.reporting.page.comparison import Table
from cl.reporting.page.schools import BOUND
from cl.reporting.page.study import Row, Study

# Okabe & Ito 2008 without the yellow, which is too pale on white. The last is the ink of the page.
INK = "#101418"
COLOURS = (*plots.COLOURS[:6], INK)
MARKERS, DASHES = (styles[: len(COLOURS)] for styles in (plots.MARKERS, plots.DASHES))
GREY = "#8a8f98"  # readable on white and on black
WIDTH, HEIGHT = 7.6, 5.4  # inches
BAND = 1.5  # a row has a band if its dearest budget costs more than so many times its cheapest, else bars
SAME_COST, SHIFT = 1.03, 8  # costs that differ by less than this factor lie side by side, at so many points


@dataclass(frozen=True)
class Picture:
    """What is drawn: accuracy against the mean of a key of results.json, times a factor."""

    name: str  # of its files
    key: str
    axis: str
    factor: float = 1


MEMORY = Picture("accuracy_bytes", "persistent_bytes", "bytes that persist (kB)", 1e-3)
COMPUTE = Picture("accuracy_passes", "passes", "training passes (samples forward and backward)")


@dataclass(frozen=True)
class Point:
    """A row in a picture; `half` is half of its 95 % interval, None for a single seed."""

    row: Row
    x: float
    y: float
    half: float | None


def points(study: Study, picture: Picture) -> list[Point]:
    """The rows that have both numbers."""
    metric, found = study.measure, []
    for row in study.rows:
        x, y = row.mean(picture.key), row.mean(metric.key)
        if x is None or y is None or x <= 0:  # nothing has no place on a logarithmic axis
            continue
        half = inference.half_width(row.values(metric.key))
        found.append(Point(row, picture.factor * x, metric.factor * y, half and metric.factor * half))
    return found


def front(found: list[Point], higher_is_better: bool) -> list[Point]:
    """The methods that no other one beats in both, by growing cost.

    Bounds, controls and rows with a failed seed take no part.
    """
    sign, best, kept = (1 if higher_is_better else -1), float("-inf"), []
    methods = [point for point in found if point.row.may_be_best]
    for point in sorted(methods, key=lambda point: (point.x, -sign * point.y)):
        if sign * point.y > best:
            best = sign * point.y
            kept.append(point)
    return kept


@dataclass(frozen=True)
class Series:
    """The names of the rows that are drawn in colour, in the order of the study, and those that set the view."""

    names: tuple[str, ...]
    main: frozenset[str]  # those that the answer speaks of, er and the best


def series(study: Study, tables: list[Table], answer: Answer, found: list[list[Point]]) -> Series:
    """At most as many names as can be told apart, for all pictures the same.

    First those that the answer speaks of, then er and the best of each table, the best bound, and the fronts.
    """
    main = [row for claim in answer.claims for row in (claim.first, claim.second)]
    main += [row for table in tables for row in (table.reference, table.best)]
    higher = study.measure.higher_is_better
    bounds = [point for each in found for point in each if point.row.school == BOUND]
    bounds.sort(key=lambda point: point.y, reverse=higher)
    wanted = [*main, *(point.row for point in bounds[:1]), *(p.row for each in found for p in front(each, higher))]
    there = {point.row.name for each in found for point in each}
    names = list(dict.fromkeys(row.name for row in wanted if row is not None and row.name in there))[: len(COLOURS)]
    order = [row.name for row in study.rows]
    return Series(tuple(sorted(names, key=order.index)), frozenset(row.name for row in main if row is not None))


def reach(study: Study) -> tuple[float, float]:
    """The values that the measure can have, as they are printed: an interval by Student's t knows no such ends."""
    return 0.0, study.measure.factor if study.measure.unit.strip() == "%" else math.inf


def ends(study: Study, point: Point) -> tuple[float, float]:
    """The 95 % interval of a point, as far as the measure can go; the point itself without one."""
    least, most = reach(study)
    half = point.half or 0
    return max(least, point.y - half), min(most, point.y + half)


def limits(study: Study, found: list[Point], shown: Series) -> tuple[float, float]:
    """The vertical axis: the rows that the answer speaks of and all better ones; one bad row does not press it flat."""
    kept = [point for point in found if point.row.name in shown.main] or found
    worst = (min if study.measure.higher_is_better else max)(point.y for point in kept)
    kept = kept + [point for point in found if (point.y > worst) == study.measure.higher_is_better]
    low, high = min(ends(study, point)[0] for point in kept), max(ends(study, point)[1] for point in kept)
    margin = 0.06 * (high - low) or 0.01 * abs(high) or 1
    least, most = reach(study)
    return max(least, low - margin), min(most, high + margin)


def outside(study: Study, found: list[Point], shown: Series) -> list[Point]:
    """The points that are beyond the vertical axis."""
    low, high = limits(study, found, shown)
    return [point for point in found if not low <= point.y <= high]


def figure(study: Study, picture: Picture, found: list[Point], shown: Series):
    """The matplotlib figure; points have ids p0, p1, ... in the order of `found`."""
    import matplotlib

    with matplotlib.rc_context():
        drawn, axes = plots.new_figure(WIDTH, HEIGHT)
        _draw(axes, study, found, shown)
    spread = max(point.x for point in found) / min(point.x for point in found)
    if picture is MEMORY or spread > 10:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
        if spread < 100:  # a decade has one number; with few decades the steps within them need theirs
            axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 3, 5)))
            axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    else:
        axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.update_datalim([(point.x, point.y) for point in found])  # what stands beside its place has no part in these
    axes.margins(x=0.09)
    axes.autoscale_view()
    axes.set_ylim(*limits(study, found, shown))
    axes.set_xlabel(picture.axis + (", logarithmic" if axes.get_xscale() == "log" else ""))
    axes.set_ylabel(f"{study.measure.heading}{' (%)' if study.measure.unit else ''}")
    axes.grid(alpha=0.25, linewidth=0.6, color=GREY)
    drawn.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    for words in drawn.findobj(matplotlib.text.Text):
        words.set_color(INK)
    for spine in axes.spines.values():
        spine.set_color(INK)
    axes.tick_params(which="both", color=INK)
    return drawn


def _draw(axes, study: Study, found: list[Point], shown: Series) -> None:
    from matplotlib.transforms import offset_copy

    names, beyond = shown.names, {id(point) for point in outside(study, found, shown)}

    numbers = {id(point): number for number, point in enumerate(found)}
    grey = [point for point in found if point.row.name not in names]
    for point in grey:
        filled = {} if point.row.is_method else {"markerfacecolor": "none"}
        style = {"color": GREY, "markersize": 4, "alpha": 0.8, "clip_on": id(point) in beyond} | filled
        (dot,) = axes.plot([point.x], [point.y], "o", **style)  # a mark at 100 % is whole
        dot.set_gid(f"p{numbers[id(point)]}")
    best = front(found, study.measure.higher_is_better)
    if len(best) > 1:
        axes.plot(
            [point.x for point in best], [point.y for point in best], drawstyle="steps-post", color=GREY, linewidth=5,
            alpha=0.3, solid_capstyle="round", label="Pareto front of the methods", zorder=1,
        )  # fmt: skip
    rows = {name: sorted((p for p in found if p.row.name == name), key=lambda point: point.x) for name in names}
    shifts = _side_by_side({name: of[0].x for name, of in rows.items() if of and not _has_band(of)})
    for place, (name, of) in enumerate(rows.items()):
        if not of:  # it has no such cost
            continue
        move = {"transform": offset_copy(axes.transData, axes.figure, x=SHIFT * shifts.get(name, 0), units="points")}
        style = {"color": COLOURS[place], "marker": MARKERS[place], "linestyle": DASHES[place]}
        filled = {} if of[0].row.is_method else {"markerfacecolor": "none"}
        school = "" if of[0].row.is_method else f" ({of[0].row.school})"
        label = "\n".join(textwrap.wrap(name + school, plots.LABEL_WIDTH))
        axes.plot([], [], **style, **filled, markersize=6, linewidth=1.5, label=label)
        x, y, half = ([getattr(point, key) for point in of] for key in ("x", "y", "half"))
        low, high = zip(*(ends(study, point) for point in of))
        if _has_band(of) and None not in half:
            axes.fill_between(x, low, high, color=COLOURS[place], alpha=0.15, linewidth=0)
        elif None not in half:
            bars = [[value - end for value, end in zip(y, low)], [end - value for value, end in zip(y, high)]]
            axes.errorbar(x, y, bars, ecolor=COLOURS[place], elinewidth=1.2, fmt="none", **move)
        if len(of) > 1:
            axes.plot(x, y, **style | {"marker": ""}, linewidth=1.5, **move)
        for point in of:
            marked = style | filled | move | {"linestyle": "", "clip_on": id(point) in beyond}
            (dot,) = axes.plot(point.x, point.y, markersize=6, zorder=3, **marked)
            dot.set_gid(f"p{numbers[id(point)]}")
    if grey:
        axes.plot([], [], ls="", marker="o", ms=4, color=GREY, label="other rows, see the tables (hollow: no method)")


def _has_band(of: list[Point]) -> bool:
    """Whether a row's costs, in growing order, are far enough apart for a band: steep ones would hide each other."""
    return of[-1].x > BAND * of[0].x


def _side_by_side(costs: dict[str, float]) -> dict[str, float]:
    """Steps to the right for rows of the same cost, which would hide each other."""
    shifts, group = {}, []
    for name, cost in [*sorted(costs.items(), key=lambda item: item[1]), (None, float("inf"))]:
        if group and cost > SAME_COST * costs[group[0]]:
            shifts |= {member: place - (len(group) - 1) / 2 for place, member in enumerate(group)}
            group = []
        group.append(name)
    return shifts


def describe(study: Study, picture: Picture, found: list[Point], point: Point) -> str:
    """A point in words."""
    row, metric = point.row, study.measure
    half = "" if point.half is None else f" ± {text.number(point.half, metric.digits)} (95 % interval)"
    where = f" at {row.budget}" if row.budget else ""
    return (
        f"{row.name}{where}: {metric.heading} {text.number(point.y, metric.digits)}{metric.unit}{half}, "
        f"{picture.axis} {text.number(point.x, 1)}"
    )


def render(drawn, form: str) -> bytes:
    """The figure as png or svg, without the time at which it was made, so that equal pictures are equal files."""
    import matplotlib

    out = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "remerge"}):
        drawn.savefig(out, format=form, metadata={"Date": None} if form == "svg" else None)
    return out.getvalue()


def inline(svg: bytes, name: str, title: str, description: str, labels: list[str]) -> str:
    """An svg made to stand in a page: ids of its own, the page's ink, a title, and each point's label as a tooltip."""
    content = svg.decode()
    content = content[content.index("<svg") :]
    content = re.sub(r"<metadata>.*?</metadata>", "", content, flags=re.DOTALL)
    for number, label in enumerate(labels):
        mark = f'<g id="p{number}">'
        content = content.replace(mark, f"{mark}<title>{escape(label)}</title>")
    content = re.sub(r'\bid="', f'id="{name}-', content)
    content = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", content)
    content = content.replace(INK, "currentColor").replace("fill: #ffffff", "fill: none")  # the page shows through
    head, _, rest = content.partition(">")
    head = re.sub(r' (width|height)="[^"]*pt"', "", head)
    return (
        f'{head} role="img" aria-labelledby="{name}-title {name}-desc"><title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-desc">{escape(description)}</desc>{rest}'
    )
