"""Pictures: a run's accuracy matrix, and average accuracy over tasks for one run or many.

matplotlib is imported when something is drawn, and without pyplot: no window, no global state.
"""

import contextlib
import textwrap
from collections.abc import Sequence
from pathlib import Path

from cl.atomic import atomic_write

FORMATS = ("png", "pdf", "svg")
STYLE = {
    "font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 200,
    "svg.hashsalt": "remerge",
}  # fmt: skip
# Okabe & Ito 2008 without their yellow, which is pale on white, and Tol's wine: told apart also by readers who do not
# see red and green. Of what is drawn in one picture, each has a colour, a dash and a marker that no other has.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255")
DASHES = (
    "-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (10, 3)), (0, (3, 1.2, 3, 4)),
    (0, (6, 1.5, 1.5, 1.5, 1.5, 1.5)), (0, (0.8, 3)),
)  # fmt: skip
MARKERS = "osD^vPX*"
MOST_LINES = 8  # in a picture: there are no more of the above that can be told apart
LABEL_WIDTH = 48  # characters of a line in a legend
MOST_STAGE_LINES, MOST_MARKED_TESTS = 50, 60  # more of them hide the curve of tests
MOST_NUMBERED_TASKS = 12  # with more, the numbers in the cells of a matrix cannot be read


@contextlib.contextmanager
def after_results(folder: Path):
    """Where pictures are drawn of results that are on disk: an error says that these are complete."""
    try:
        yield
    except Exception as error:
        raise OSError(
            f"the results in {folder} are complete, but the pictures of them could not be drawn: {error}; "
            "pictures=[] draws none"
        ) from error


def draw_run(folder: Path, results: dict, formats: list, titles: bool = True) -> None:
    """accuracy_matrix (or of errors) in each of the formats.

    Where a run has several stages, average_accuracy too, and with tests at intervals anytime_accuracy.
    """
    if not formats:
        return
    measure = "error" if "error_matrix" in results else "accuracy"
    known = results["task_aware"]
    matrix = results[f"{'task_' if known else ''}{measure}_matrix"]
    method = results.get("fusion", results["strategy"])
    title = f"{method}, {results['scenario']} on {results['dataset']}" + (", task-aware" if known else "")
    title = title if titles else ""
    save(_matrix_figure(matrix, title, measure), folder / f"{measure}_matrix", formats)
    if results[f"{measure}_so_far"] is not None:
        line = {"label": method, "mean": results[f"{measure}_so_far"], "std": None}
        save(_curves_figure([line], title, measure), folder / f"average_{measure}", formats)
    if results.get("evaluations"):
        ends, steps = [], 0
        for stage in results["stage_costs"]:
            steps += stage["gradient_steps"]
            ends.append(steps)
        steps, values = zip(*results["evaluations"])
        line = {"label": method, "steps": steps, "mean": values, "std": None}
        save(
            _anytime_figure([line], title, measure, ends[:-1] if steps[-1] == ends[-1] else []),
            folder / f"anytime_{measure}",
            formats,
        )


def draw_overlay(path: Path, lines: list[dict], title: str, formats: list, measure: str = "accuracy") -> None:
    """Mean accuracy (or error) over tasks of several methods; a line has `label`, `mean`, `std` or None, one per stage.

    A line with a single value (joint training) is drawn as a level. At most MOST_LINES lines; no title where it is "".
    """
    assert len(lines) <= MOST_LINES, f"{len(lines)} lines"
    save(_curves_figure(lines, title, measure), path, formats)


def draw_anytime(path: Path, lines: list[dict], title: str, formats: list, measure: str = "accuracy") -> None:
    """Tests at intervals of several methods; a line has `label`, `steps`, and `mean` and `std` or None of each."""
    assert len(lines) <= MOST_LINES, f"{len(lines)} lines"
    save(_anytime_figure(lines, title, measure), path, formats)


def overlay_caption(lines: list[dict], measure: str = "accuracy") -> str:
    """What the picture of these lines shows, to stand below it."""
    stages, levels = max(len(line["mean"]) for line in lines), [line for line in lines if len(line["mean"]) == 1]
    unit = " in per cent" if measure == "accuracy" else ""
    said = [
        "Horizontal axis: the number of tasks trained on.",
        f"Vertical axis: {measure}{unit}, the mean over these tasks and over seeds.",
    ]
    if levels and stages > 1:
        said.append("A horizontal line with one marker: a network that was tested after all tasks only.")
    if any(line["std"] is not None and len(line["mean"]) > 1 for line in lines):
        said.append("Shaded: one sample standard deviation over seeds to both sides.")
    return " ".join(said)


def _matrix_figure(matrix: list, title: str, measure: str):
    figure, axes = new_figure(1.6 + 0.42 * len(matrix[0]), 1.5 + 0.42 * len(matrix))
    rows, columns = len(matrix), len(matrix[0])
    # Of errors as of accuracies, what is good is light.
    most = 1 if measure == "accuracy" else max(map(max, matrix))
    colours = "viridis" if measure == "accuracy" else "viridis_r"
    image = axes.imshow(matrix, vmin=0, vmax=most, cmap=colours, aspect="auto")
    if columns <= MOST_NUMBERED_TASKS:
        for i, row in enumerate(matrix):
            for j, value in enumerate(row):
                light = value > 0.6 if measure == "accuracy" else value < 0.4 * most
                text = f"{100 * value:.0f}" if measure == "accuracy" else f"{value:.2f}"
                axes.text(j, i, text, ha="center", va="center", fontsize=7, color="black" if light else "white")
    if rows == columns > 1:  # left of and below the steps: tasks that were trained on
        steps_x = [x - 0.5 for i in range(1, rows) for x in (i, i)]
        steps_y = [y - 0.5 for i in range(1, rows) for y in (i - 1, i)]
        axes.plot([*steps_x, columns - 0.5], [*steps_y, rows - 1.5], color="white", linewidth=1.5)
    every = range(0, columns, max(1, columns // MOST_NUMBERED_TASKS))
    axes.set_xticks(list(every), [str(j + 1) for j in every])
    axes.set_yticks([i for i in every if i < rows], [str(i + 1) for i in every if i < rows] if rows > 1 else ["all"])
    axes.set_xlabel(f"{measure} on task")
    axes.set_ylabel("after training on task")
    axes.set_title(title)
    axes.spines[:].set_visible(False)
    if measure == "accuracy":
        bar = figure.colorbar(image, ax=axes, ticks=[0, 0.5, 1], format=lambda value, _: f"{100 * value:.0f} %")
    else:
        bar = figure.colorbar(image, ax=axes)
    bar.outline.set_visible(False)
    return figure


def _curves_figure(lines: list[dict], title: str, measure: str):
    labels, legend = _legend(lines)
    figure, axes = new_figure(4.6 + legend, max(3.2, 0.5 + 0.16 * len("\n".join(labels).splitlines())))
    stages = max(len(line["mean"]) for line in lines)
    factor = 100 if measure == "accuracy" else 1
    for i, line in enumerate(lines):
        style = {"color": COLOURS[i], "linestyle": DASHES[i], "marker": MARKERS[i], "markersize": 4, "label": labels[i]}
        mean = [factor * value for value in line["mean"]]
        if len(mean) == 1 < stages:
            # Its marker is at a place of its own, as levels may be close to each other.
            x = [0.8, 0.8 + (i + 0.5) / len(lines) * (stages - 0.6), stages + 0.2]
            axes.plot(x, 3 * mean, linewidth=1.0, markevery=[1], **style)
            continue
        x = list(range(1, len(mean) + 1))
        axes.plot(x, mean, linewidth=1.4, **style)
        _shade(axes, x, line, factor, COLOURS[i])
    axes.set_xlim(0.8, stages + 0.2)
    axes.set_ylim(0, 101 if measure == "accuracy" else 1.05 * axes.get_ylim()[1])
    axes.set_xticks(range(1, stages + 1, max(1, stages // MOST_NUMBERED_TASKS)))
    axes.set_xlabel("tasks trained on")
    axes.set_ylabel(f"{measure}, mean over these tasks" + (" (%)" if measure == "accuracy" else ""))
    axes.set_title(title)
    axes.grid(alpha=0.25, linewidth=0.6)
    if len(lines) > 1:
        figure.legend(loc="outside right upper", frameon=False, fontsize=8, handlelength=4)
    return figure


def _anytime_figure(lines: list[dict], title: str, measure: str, ends: Sequence[int] = ()):
    """Tests against the step; `ends`: steps at which a stage ends, each with a line."""
    labels, legend = _legend(lines)
    figure, axes = new_figure(4.6 + legend, max(3.2, 0.5 + 0.16 * len("\n".join(labels).splitlines())))
    for end in ends if len(ends) <= MOST_STAGE_LINES else ():
        axes.axvline(end, color="0.75", linewidth=0.8, zorder=0)
    factor = 100 if measure == "accuracy" else 1
    for i, line in enumerate(lines):
        marker = MARKERS[i] if len(line["steps"]) <= MOST_MARKED_TESTS else None
        style = {"color": COLOURS[i], "linestyle": DASHES[i], "marker": marker, "markersize": 3, "label": labels[i]}
        axes.plot(line["steps"], [factor * value for value in line["mean"]], linewidth=1.2, **style)
        _shade(axes, line["steps"], line, factor, COLOURS[i])
    axes.set_xlim(0, max(line["steps"][-1] for line in lines))
    axes.set_ylim(0, 101 if measure == "accuracy" else 1.05 * axes.get_ylim()[1])
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel(f"{measure} of what has been seen" + (" (%)" if measure == "accuracy" else ""))
    axes.set_title(title)
    axes.grid(axis="y", alpha=0.25, linewidth=0.6)
    if len(lines) > 1:
        figure.legend(loc="outside right upper", frameon=False, fontsize=8, handlelength=4)
    return figure


def _legend(lines: list[dict]) -> tuple[list[str], float]:
    """The labels of the lines, broken into rows, and the inches that a legend of them takes."""
    labels = [textwrap.fill(line["label"], LABEL_WIDTH) for line in lines]
    longest = max(len(row) for label in labels for row in label.splitlines())
    return labels, 0.0 if len(lines) == 1 else max(1.4, 0.3 + 0.068 * longest)


def _shade(axes, x: Sequence, line: dict, factor: float, colour: str) -> None:
    """One standard deviation to both sides of a line, where it has one."""
    if line["std"] is not None:
        low, high = ([factor * (m + sign * s) for m, s in zip(line["mean"], line["std"])] for sign in (-1, 1))
        axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def new_figure(width: float, height: float, columns: int = 1, rows: int = 1):
    """A figure of so many inches with one pair of axes, or an array of them: side by side, or [rows, columns]."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(STYLE)
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=rows == 1)


def save(figure, stem: Path, formats: list) -> None:
    """The figure in each of the formats."""
    for name in formats:
        with atomic_write(stem.with_name(f"{stem.name}.{name}")) as file:
            figure.savefig(file, format=name)
