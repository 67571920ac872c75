"""Tables and plots of finished runs.

    python -m cl.report multirun/class10_digits_mlp
    python -m cl.report multirun/*/er_* --output er
    python -m cl.report multirun/skewed2_mnist_mlp --published docs/published/skewed_mnist.yaml
    python -m cl.report multirun/class5_digits_mlp --metric my_metrics.worst_task
    python -m cl.report multirun/class5_digits_mlp --page

Takes any folders or results.json files, puts the seeds of each configuration together (mean +- sample standard
deviation), prints the table and writes report.md, report.csv and report.png. Beside merged networks there is a row for
each of those that were merged; beside published figures, how far off they are. Needs no torch.
"""

import argparse
import os
import statistics
import sys
from pathlib import Path

from cl.atomic import atomic_write
from cl.reporting import custom, plots
from cl.reporting.groups import ABOUT, Group, load
from cl.reporting.published import Published
from cl.reporting.tables import as_csv, as_markdown, as_text, caption


def curves(groups: list[Group]) -> list[dict]:
    """A line per group for the overlay plot: accuracy so far, or the one value of a run with a single stage."""
    names = [name for name in (*ABOUT, "with") if len({g.label.get(name) for g in groups}) > 1] or ["strategy"]
    lines = []
    for group in groups:
        series = [_so_far(run) for run in group.runs]
        points = list(zip(*series))
        std = [statistics.stdev(point) for point in points] if len(series) > 1 else None
        label = " ".join(group.label[name] for name in names if group.label.get(name, "-") != "-")
        lines.append({"label": label, "mean": [statistics.fmean(point) for point in points], "std": std})
    return lines


def _so_far(run: dict) -> list[float]:
    of = "error" if "average_error" in run else "accuracy"
    return run[f"{of}_so_far"] or [run[f"average_{of}"]]


def main() -> None:
    """Entry point of `python -m cl.report`."""
    parser = argparse.ArgumentParser(prog="python -m cl.report", description="tables and plots of finished runs")
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
    parser.add_argument("--format", default="png", choices=plots.FORMATS, help="of the plot (default: png)")
    arguments = parser.parse_args()
    try:
        paths = arguments.paths
        if arguments.page:
            from cl.reporting.page import page  # imports scipy, which takes a second

            if not (paths := page.write_studies(paths)):
                return
        groups = load(paths)
        custom.ask_of_runs([run for group in groups for run in group.runs], arguments.metric)
        measures = {"error" if "average_error" in run else "accuracy" for group in groups for run in group.runs}
        if len(measures) > 1:
            raise ValueError("some of these runs measure an accuracy and others an error: make a report of each kind")
        published = None if arguments.published is None else Published.read(arguments.published)
        output = arguments.output or (arguments.paths[0] if len(arguments.paths) == 1 else Path())
        output = output.parent if output.is_file() else output
        for name, text in (("report.md", as_markdown(groups, published)), ("report.csv", as_csv(groups))):
            with atomic_write(output / name, "w") as file:
                file.write(text)
        plots.draw_overlay(output / "report", curves(groups), caption(groups), [arguments.format], *measures)
        if arguments.page:
            page.write_groups(output, groups)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(as_text(groups, published))
    print(f"\nwritten: report.md, report.csv, report.{arguments.format} in {os.path.relpath(output)}")
