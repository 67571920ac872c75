"""The end of a command: the table of its runs, their folder, and their pictures or the command for a report."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from cl.configuration.place import program
from cl.reporting import screen, tables
from cl.reporting.groups import load
from cl.reporting.plots import FORMATS


def show(folders: Sequence[Path]) -> None:
    """Print the table of finished runs and merges, and where they are."""
    common = Path(os.path.commonpath([folder.absolute() for folder in folders]))
    report = f"{program('report')} {shlex.quote(screen.place(common))}"
    several = len(folders) > 1
    print()
    tables.show(load(list(folders)), rest=f"{'a report' if several else 'results.json'} has all")
    print()
    if several:
        screen.say(f"{len(folders)} runs below {screen.place(common)}; for a report of what is there:\n    {report}")
        return
    pictures = sorted(path.name for path in common.iterdir() if path.suffix[1:] in FORMATS)
    screen.say(f"in {screen.place(common)}: {', '.join(pictures) or 'results.json'}")
