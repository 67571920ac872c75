"""Pictures of curves between networks: loss and accuracy along a curve, and the loss on a plane around it."""

from pathlib import Path

from cl.reporting.plots import COLOURS, new_figure, save

LEVELS = 24  # contour levels of the loss, with logarithmic spacing


def draw_curve(folder: Path, found: dict, title: str, formats: list) -> None:
    """Write curve.* (loss and accuracy along curve and line) and, if measured, curve_plane.* (the loss around them)."""
    if not formats:
        return
    save(_along(found, title), folder / "curve", formats)
    if "plane" in found:
        save(_plane(found["plane"], title), folder / "curve_plane", formats)


def _along(found: dict, title: str):
    figure, (left, right) = new_figure(7.2, 3.0, columns=2)
    for axes, name, factor in ((left, "loss", 1), (right, "accuracy", 100)):
        for colour, prefix, label in ((COLOURS[0], "", "curve"), (COLOURS[1], "line_", "straight line")):
            for style, split in (("-", "test"), ("--", "train")):
                values = [factor * value for value in found[f"{prefix}{split}_{name}"]]
                axes.plot(found["t"], values, style, color=colour, linewidth=1.4, label=f"{label}, {split}")
        axes.set_xlabel("t")
        axes.set_xlim(0, 1)
        axes.grid(alpha=0.25, linewidth=0.6)
    left.set_ylabel("cross entropy")
    left.set_ylim(bottom=0)
    right.set_ylabel("accuracy (%)")
    right.set_ylim(0, 101)
    figure.suptitle(title, fontsize=10)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def _plane(plane: dict, title: str):
    import numpy as np
    from matplotlib.colors import LogNorm
    from matplotlib.patheffects import withStroke

    figure, axes = new_figure(5.4, 4.0)
    loss = np.array(plane["loss"])
    low = max(loss.min(), 1e-4)
    levels = np.geomspace(low, max(loss.max(), 2 * low), LEVELS)
    filled = axes.contourf(plane["x"], plane["y"], loss.clip(min=low), levels, cmap="viridis_r", norm=LogNorm())
    axes.contour(plane["x"], plane["y"], loss.clip(min=low), levels[::3], colors="white", linewidths=0.4, alpha=0.6)
    points = plane["points"]
    (first, last), names = list(points.values())[:2], list(points)
    axes.plot(*zip(first, last), "--", color=COLOURS[1], linewidth=1.3)
    axes.plot(*zip(*plane["path"]), color=COLOURS[6], linewidth=1.6)
    outline = [withStroke(linewidth=2, foreground="white")]
    for name, (x, y) in points.items():
        axes.plot(x, y, "s" if name == names[2] else "o", color="white", markeredgecolor=COLOURS[6], markersize=6)
        above = name == names[2]
        axes.annotate(
            name, (x, y), textcoords="offset points", xytext=(0, 8 if above else -8), ha="center",
            va="bottom" if above else "top", fontsize=8, path_effects=outline,
        )  # fmt: skip
    axes.set_xlabel("distance along the straight line")
    axes.set_ylabel("distance from it")
    axes.set_title(title)
    axes.set_aspect("equal")
    bar = figure.colorbar(filled, ax=axes, label="training loss")
    ticks = np.geomspace(low, levels[-1], 5)
    bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
    bar.ax.minorticks_off()
    return figure
