"""Finished runs as a table of pandas, a row for each run."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from cl.reporting import groups

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("kind", "scenario", "dataset", "backbone", "strategy", "fusion", "buffer", "buffer_capacity", "seed")


def load(paths: str | Path | Iterable[str | Path] = "multirun") -> "pd.DataFrame":
    """All finished runs and merges at or below some paths: names, then measures and costs, then words and folder.

    Columns are the numbers of results.json by their names (accuracies in [0, 1], seconds, bytes), the words that differ
    between the runs (`optimizer.lr`), and `folder`. Raises FileNotFoundError for a path without runs, ValueError for
    what is no result and for one run with two different numbers.
    """
    import pandas as pd

    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    found = groups.load([Path(path) for path in paths])
    every = [(run, file.parent) for group in found for run, file in zip(group.runs, group.files)]
    every = [(run, folder) for run, folder in every if run["kind"] != "network"]  # those that were merged are no runs
    frame = pd.DataFrame([_row(run, folder) for run, folder in every])
    words = [_words(run) for run, _ in every]
    for key in sorted({key for each in words for key in each}):
        values = [each.get(key) for each in words]
        if key not in frame and len({json.dumps(value) for value in values}) > 1:
            frame[key] = values
    folders = frame.pop("folder")
    return frame.assign(folder=folders)


def _row(run: dict, folder: Path) -> dict:
    named = {name: run.get(name) for name in NAMES if run.get(name) is not None}
    numbers = {key: value for key, value in run.items() if isinstance(value, int | float) and key not in named}
    return named | numbers | {"folder": str(folder)}


def _words(run: dict) -> dict[str, object]:
    """The words that name a run: `{"optimizer.lr": 0.1}`."""
    found = {}
    for word in run["identity"]:
        key, _, text = word.partition("=")
        try:
            found[key] = json.loads(text)
        except json.JSONDecodeError:  # text is written as it is
            found[key] = text
    return found
