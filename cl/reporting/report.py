"""Tables and plots of finished runs.

    python -m cl.report multirun/class10_digits_mlp
    python -m cl.report multirun/*/er_* --output er
    python -m cl.report multirun/skewed2_mnist_mlp --published docs/published/skewed_mnist.yaml
    python -m cl.report multirun/class5_digits_mlp --metric my_metrics.worst_task
    python -m cl.report multirun/class5_digits_mlp --page
    python -m cl.report multirun/class5_digits_mlp --wandb --tensorboard
    python -m cl.report multirun/class5_digits_mlp --format pdf,svg --no-titles

Takes any folders or results.json files, puts the seeds of each configuration together (mean +- sample standard
deviation), prints the table and writes report.md, report.tex, report.csv and report.png, and report_anytime.png where
runs were tested at intervals. Beside merged networks there is a row for those that were merged; beside published
figures, how far off they are. Needs no torch.
"""

import argparse
import os
import statistics
import sys
from pathlib import Path

from cl.atomic import atomic_write
from cl.configuration.place import program
from cl.reporting import backfill, custom, plots, screen
from cl.reporting.groups import Group, load
from cl.reporting.published import Published
from cl.reporting.tables import as_csv, as_latex, as_markdown, caption, names, show

BOUNDS = ("finetune", "joint")  # what the other methods lie between


def shown(groups: list[Group]) -> list[Group]:
    """The groups that a picture has room for: all, or the best of each bound and the best of the others.

    The best: highest average accuracy, lowest average error, in the mean over seeds.
    """
    order = sorted(groups, key=lambda group: statistics.fmean(_final(run) for run in group.runs), reverse=True)
    first = {name: id(group) for group in reversed(order) if (name := group.label["strategy"]) in BOUNDS}.values()
    chosen = [*first, *(id(group) for group in order if id(group) not in first)][: plots.MOST_LINES]
    return [group for group in groups if id(group) in chosen]


def _final(run: dict) -> float:
    """The higher, the better."""
    return -run["average_error"] if "average_error" in run else run["average_accuracy"]


def left_out(groups: list[Group]) -> str:
    """What the picture does not show; "" where it shows all."""
    if len(shown(groups)) == len(groups):
        return ""
    strategies = {group.label["strategy"] for group in groups}
    bounds = [f"the best of {name}" for name in BOUNDS if name in strategies]
    rule = " and ".join(filter(None, [", ".join(bounds), "the best of the others" if bounds else "the best"]))
    return f"Of {len(groups)} rows of the table the picture shows {plots.MOST_LINES}: {rule}."


def curves(groups: list[Group]) -> list[dict]:
    """A line per group that is shown: accuracy so far, or the one value of a run with a single stage."""
    named = names(groups)
    lines = []
    for group in shown(groups):
        series = [_so_far(run) for run in group.runs]
        points = list(zip(*series))
        std = [statistics.stdev(point) for point in points] if len(series) > 1 else None
        label = " ".join(group.label[name] for name in named if group.label.get(name, "-") not in ("-", ""))
        lines.append({"label": label, "mean": [statistics.fmean(point) for point in points], "std": std})
    return lines


def _so_far(run: dict) -> list[float]:
    of = "error" if "average_error" in run else "accuracy"
    return run[f"{of}_so_far"] or [run[f"average_{of}"]]


def anytime_curves(groups: list[Group]) -> list[dict]:
    """A line per group that is shown and has tests at intervals, at the steps of its first run.

    Tests of the other seeds, which need not be after the same steps, are interpolated.
    """
    import numpy as np

    lines = []
    for group, line in zip(shown(groups), curves(groups)):
        runs = [np.array(run["evaluations"]) for run in group.runs if run.get("evaluations")]
        if runs:
            steps = runs[0][:, 0]
            values = np.array([np.interp(steps, run[:, 0], run[:, 1]) for run in runs])
            std = values.std(0, ddof=1).tolist() if len(runs) > 1 else None
            lines.append({"label": line["label"], "steps": steps.tolist(), "mean": values.mean(0).tolist(), "std": std})
    return lines


def picture_text(groups: list[Group], formats: list[str], measure: str) -> str:
    """The picture in Markdown with its caption."""
    kinds = sorted(formats, key=("svg", "png", "pdf").index)  # Markdown does not show a PDF
    said = [plots.overlay_caption(curves(groups), measure), left_out(groups)]
    shows = "" if kinds[0] == "pdf" else "!"
    return f"\n{shows}[average {measure} over tasks](report.{kinds[0]})\n\n{' '.join(filter(None, said))}\n"


def _formats(text: str) -> list[str]:
    """`png,svg`: formats of pictures."""
    found = list(dict.fromkeys(text.split(",")))
    if unknown := [name for name in found if name not in plots.FORMATS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(plots.FORMATS)}")
    return found


def main() -> None:
    """Entry point of `python -m cl.report`."""
    if os.getcwd() not in sys.path:  # for the user's own metrics, also where the command is a script elsewhere
        sys.path.append(os.getcwd())
    parser = argparse.ArgumentParser(prog=program("report"), description="tables and plots of finished runs")
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="folders of runs, or results.json files")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder for the report (default: the one path that is given, else the current folder)",
    )
    parser.add_argument("--published", type=Path, help="file with published figures, to stand beside these")
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="MODULE.FUNCTION",
        help="a function of (matrix, untrained), computed of each run for a column of its name; can be repeated",
    )
    parser.add_argument("--page", action="store_true", help="write report/index.html as well (docs/reports.md)")
    parser.add_argument(
        "--format",
        type=_formats,
        default=["png"],
        metavar="FORMAT[,FORMAT]",
        help=f"of the plot, one or more of {', '.join(plots.FORMATS)} (default: png)",
    )
    parser.add_argument("--no-titles", action="store_true", help="plots without titles, for papers")
    backfill.add_arguments(parser)
    arguments = parser.parse_args()
    try:
        send, paths = backfill.sender(arguments), arguments.paths
        if arguments.page:
            screen.say(f"a page of the runs at or below {', '.join(map(screen.place, paths))}")
            from cl.reporting.page import page  # imports scipy, which takes a second

            if not (paths := page.write_studies(paths)):
                send(arguments.paths)
                return
        published = None if arguments.published is None else Published.read(arguments.published)
        groups = load(paths, () if published is None else published.strategies)
        custom.ask_of_runs([run for group in groups for run in group.runs], arguments.metric)
        measures = {"error" if "average_error" in run else "accuracy" for group in groups for run in group.runs}
        if len(measures) > 1:
            raise ValueError("some of these runs measure an accuracy and others an error: make a report of each kind")
        (measure,) = measures
        output = arguments.output or (arguments.paths[0] if len(arguments.paths) == 1 else Path())
        output = output.parent if output.is_file() else output
        if arguments.page:
            print()
        show(groups, published, rest="report.csv has all")
        if not arguments.page:
            print()
        written = {
            "report.md": as_markdown(groups, published) + picture_text(groups, arguments.format, measure),
            "report.tex": as_latex(groups, published),
            "report.csv": as_csv(groups),
        }
        for name, text in written.items():
            with atomic_write(output / name, "w") as file:
                file.write(text)
        title = "" if arguments.no_titles else caption(groups)
        plots.draw_overlay(output / "report", curves(groups), title, arguments.format, measure)
        pictures = ["report"]
        if lines := anytime_curves(groups):
            plots.draw_anytime(output / "report_anytime", lines, title, arguments.format, measure)
            pictures.append("report_anytime")
        if arguments.page:
            page.write_groups(output, groups)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    files = ", ".join([*written, *(f"{picture}.{kind}" for picture in pictures for kind in arguments.format)])
    screen.say(f"written: {files} in {screen.place(output)}")
    if note := left_out(groups):
        screen.say(note)
    try:
        send(arguments.paths)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
