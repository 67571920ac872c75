"""A bar in the terminal: steps that are done, of how many, how many a second, and the time that is left (rich)."""

import functools
import sys

from rich.console import Console
from rich.constrain import Constrain
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from cl.reporting.screen import is_plain


class _Plain(Console):
    encoding = "ascii"


@functools.cache
def _console() -> Console:
    """One for all bars: the bar of a training within another stands below that."""
    return (_Plain if is_plain(sys.stderr) else Console)(stderr=True, highlight=False, markup=False)


class _Figures(ProgressColumn):
    def render(self, task: Task) -> Text:
        unit, speed = task.fields["unit"], task.speed
        parts = [f"{task.completed:.0f}/{task.total:.0f}"]
        if speed and speed >= 1:
            parts.append(f"{speed:.{0 if speed >= 10 else 1}f} {unit}s/s")
        elif speed:
            parts.append(f"{1 / speed:.1f} s/{unit}")
        if task.time_remaining is not None:
            minutes, seconds = divmod(round(task.time_remaining), 60)
            hours, minutes = divmod(minutes, 60)
            parts.append(f"{hours}:{minutes:02d}:{seconds:02d} left")
        return Text("  ".join([*parts, *filter(None, [task.fields["note"]])]))


class _Bars(Progress):
    def get_renderable(self) -> Constrain:
        """All bars, with room for the ^C that a terminal writes behind them: else it would move them to a new line."""
        return Constrain(super().get_renderable(), max(1, _console().width - 2))


class Bar:
    """The bar, from its start until `close`, which leaves nothing of it.

    Only `draw` draws: a thread that did would take time from training. What is printed meanwhile stands above the bar.
    """

    def __init__(self, title: str, total: int, done: int, unit: str):
        self._progress = _Bars(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None, table_column=Column(ratio=1)), _Figures(Column(no_wrap=True)),
            console=_console(), auto_refresh=False, transient=True, expand=True, redirect_stdout=sys.stdout.isatty(),
        )  # fmt: skip
        self._task = self._progress.add_task(title, total=total, completed=done, unit=unit, note="")
        self._progress.start()

    def draw(self, total: int, done: int, note: str) -> None:
        """Show these numbers."""
        self._progress.update(self._task, total=total, completed=done, note=note)
        self._progress.refresh()

    def close(self) -> None:
        """Remove the bar."""
        self._progress.stop()
