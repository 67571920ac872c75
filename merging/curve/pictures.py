"""Pictures of curves between networks: loss and accuracy along a curve, and the loss on a plane around it."""

from pathlib import Path

from cl.reporting.plots import COLOURS, new_figure, save
from merging.curve.ends import in_lines

LEVELS = 20  # contour levels of the loss
FLOOR = 0.01  # the lowest level above the lowest loss, as a part of the range of the levels
REACH = 2  # the highest level: so many times the highest loss on curve and line, counted from the lowest
FAR = 5  # losses whose ratio is larger are drawn on a logarithmic axis
CLOSE = 0.4  # ends that are closer than this part of the plane's width
LABEL_WIDTH = 48  # characters of a line below an axis
CHOSEN = "#CC3311"  # the colour of the point that is the result


def draw_curve(folder: Path, found: dict, title: str, formats: list) -> None:
    """Write curve.* (loss and accuracy along curve and line) and curve_plane.* (the loss around them), if measured."""
    if not formats:
        return
    if "t" in found:
        save(_along(found, title), folder / "curve", formats)
    if "plane" in found:
        save(_plane(found, title), folder / "curve_plane", formats)


def _along(found: dict, title: str):
    from matplotlib.ticker import LogLocator, NullLocator

    figure, (left, right) = new_figure(7.2, 3.2, columns=2)
    first, last = found["ends"]
    for axes, name, factor in ((left, "loss", 1), (right, "accuracy", 100)):
        for colour, prefix, label in ((COLOURS[0], "", "curve"), (COLOURS[1], "line_", "straight line")):
            for style, split in (("-", "test"), ("--", "train")):
                values = [factor * value for value in found[f"{prefix}{split}_{name}"]]
                axes.plot(found["t"], values, style, color=colour, linewidth=1.4, label=f"{label}, {split}")
        axes.axvline(found["at"], color=CHOSEN, linestyle=":", linewidth=1.4, label=_chosen(found))
        parts = [f"t (0: {first},", f"1: {last})"]
        together = " ".join(parts)
        fits = len(together) <= LABEL_WIDTH
        axes.set_xlabel(together if fits else "\n".join(in_lines(part, LABEL_WIDTH) for part in parts))
        axes.set_xlim(0, 1)
        axes.grid(alpha=0.25, linewidth=0.6)
    left.set_ylabel("cross entropy")
    losses = [value for line in left.get_lines()[:4] for value in line.get_ydata()]
    if max(losses) > FAR * min(losses) > 0:
        left.set_yscale("log")  # else a high barrier of the straight line leaves the valley of the curve no room
        left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        left.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        left.yaxis.set_minor_locator(NullLocator())
    else:
        left.set_ylim(bottom=0)
    right.set_ylabel("accuracy (%)")
    right.set_ylim(0, 101)
    figure.suptitle(title, fontsize=10)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure


def _chosen(found: dict) -> str:
    return f"t = {found['at']:.3g}, the result"


def levels_of(plane: dict) -> list[float]:
    """Losses between which the plane changes its colour, so that its valley is seen.

    They are close to each other at the lowest loss, at equal ratios of what is above it, and end at REACH times what
    curve and straight line reach (the whole plane, where no loss on these is finite). The corners of the plane are
    often a hundred times as high, and a scale up to them would spend most of its colours there.
    """
    import numpy as np

    loss, xs, ys = (np.array(plane[key]) for key in ("loss", "x", "y"))
    first, last = list(plane["points"].values())[:2]
    line = [[a + t * (b - a) for a, b in zip(first, last)] for t in np.linspace(0, 1, len(plane["path"]))]
    there = [loss[np.abs(ys - y).argmin(), np.abs(xs - x).argmin()] for x, y in (*plane["path"], *line)]
    finite = loss[np.isfinite(loss)]
    reached = [value for value in there if np.isfinite(value)] or finite.tolist()
    low, high = (finite.min(), max(reached)) if finite.size else (0.0, 0.0)
    reach = max(REACH * (high - low), 1e-6 * max(1, abs(low)))
    return [float(low), *(low + reach * np.geomspace(FLOOR, 1, LEVELS - 1)).tolist()]


def place_on_path(path: list, t: float) -> tuple[float, float]:
    """The place of w(t) on a path whose points are at equally spaced t."""
    before = min(int(t * (len(path) - 1)), len(path) - 2)
    part = t * (len(path) - 1) - before
    return tuple(a + part * (b - a) for a, b in zip(path[before], path[before + 1]))


def _plane(found: dict, title: str):
    import numpy as np
    from matplotlib.colors import BoundaryNorm
    from matplotlib.patheffects import withStroke

    plane = found["plane"]
    figure, axes = new_figure(5.6, 4.2)
    levels = levels_of(plane)
    above = 2 * abs(levels[-1]) + 1  # a colour map has no colour for what is not finite
    loss = np.nan_to_num(np.array(plane["loss"]), nan=above, posinf=above)
    norm = BoundaryNorm(levels, 256, extend="max")
    filled = axes.contourf(plane["x"], plane["y"], loss, levels, cmap="viridis_r", norm=norm, extend="max")
    axes.contour(plane["x"], plane["y"], loss, levels[1::3], colors="white", linewidths=0.4, alpha=0.6)
    (first, last, third), names = plane["points"].values(), [*found["ends"], list(plane["points"])[2]]
    axes.plot(*zip(first, last), "--", color=COLOURS[1], linewidth=1.3)
    axes.plot(*zip(*plane["path"]), color=COLOURS[6], linewidth=1.6)
    outline = [withStroke(linewidth=2, foreground="white")]
    # The names of ends that are close to each other begin at them and go apart.
    close = last[0] - first[0] < CLOSE * (plane["x"][-1] - plane["x"][0])
    sides = ("right", "left", "center") if close else ("center", "center", "center")
    for name, (x, y), side, marker in zip(names, (first, last, third), sides, "oos"):
        axes.plot(x, y, marker, color="white", markeredgecolor=COLOURS[6], markersize=6)
        axes.annotate(
            in_lines(name), (x, y), textcoords="offset points", xytext=(0, 8 if marker == "s" else -8), ha=side,
            va="bottom" if marker == "s" else "top", fontsize=8, path_effects=outline,
        )  # fmt: skip
    result = place_on_path(plane["path"], found["at"])
    axes.plot(*result, "*", color=CHOSEN, markeredgecolor="white", markersize=13)
    axes.annotate(
        _chosen(found), result, textcoords="offset points", xytext=(0, -9), ha="center",
        va="top", fontsize=8, path_effects=outline,
    )  # fmt: skip
    axes.set_xlabel("distance along the straight line")
    axes.set_ylabel("distance from it")
    axes.set_title(title)
    axes.set_aspect("equal")
    bar = figure.colorbar(filled, ax=axes, label="training loss", ticks=levels[::3])
    bar.ax.set_yticklabels([f"{level:.2g}" for level in levels[::3]])
    bar.ax.minorticks_off()
    return figure
