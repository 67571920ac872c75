"""What fits a terminal: sentences and tables that are no wider, in signs that it can show.

Into a file or a pipe all is written at full width and without escape codes. rich lays out tables; it is imported when
there is one, as that takes a twentieth of a second. Bars are in cl/reporting/progress.py.
"""

import io
import os
import shutil
import sys
import textwrap
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TextIO

GAP = 2  # spaces between columns
# Lines of a table: none but the rule below the heading. rich reads the signs by their places.
LINES = "    \n    \n -- \n    \n    \n    \n    \n    \n"
PLAIN = {"±": "+-", "–": "-", "\N{MINUS SIGN}": "-", "×": "x", "→": "->"}  # for encodings that lack them


def width(stream: TextIO | None = None) -> int | None:
    """Characters in a line of the terminal (COLUMNS, where it is set); None where the stream (the output) is none."""
    return shutil.get_terminal_size().columns if (stream or sys.stdout).isatty() else None


def is_plain(stream: TextIO) -> bool:
    """Whether a stream takes ASCII only: by its encoding, or as LC_ALL=C asks for."""
    encoding = (getattr(stream, "encoding", None) or "utf-8").lower()
    return not encoding.startswith("utf") or os.environ.get("LC_ALL") in ("C", "POSIX")


def printable(text: str, stream: TextIO | None = None) -> str:
    """The text in signs that a stream (default: the output) can take."""
    stream = stream or sys.stdout
    if not is_plain(stream):
        return text
    for sign, plain in PLAIN.items():
        text = text.replace(sign, plain)
    encoding = getattr(stream, "encoding", None) or "ascii"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def wrapped(text: str, width: int | None) -> str:
    """Text in lines of that width, broken at spaces; a word that is wider, such as a path, stays whole to be copied."""
    if width is None:
        return text
    return "\n".join(
        part
        for line in text.splitlines()
        for part in textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) or [""]
    )


def say(text: str, stream: TextIO | None = None) -> None:
    """Print sentences at once, no wider than the terminal."""
    lines = printable(wrapped(text, width(stream)), stream)
    print(f"{lines}\n", end="", file=stream, flush=True)  # in one piece: jobs of a sweep share a terminal


def place(path: Path | str) -> str:
    """A path as the user would write it: from the current folder, if it is below that."""
    absolute, here = Path(path).absolute(), Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(path)


def fitting(
    heading: Sequence[str], cells: Sequence[Sequence[str]], names: int, first_out: Collection[int], width: int | None
) -> list[int]:
    """The columns of a table that there is room for.

    Columns go in the order of `first_out`, until the others fit. The first `names` say what a row is: they stay, and
    may be broken at spaces. What is not in `first_out` stays as well.
    """
    shown = list(range(len(heading)))
    if width is None:
        return shown
    least = _least(heading, cells, names, width)
    for at in first_out:
        if _needed([least[at] for at in shown]) <= width:
            break
        shown.remove(at)
    return shown


def _least(heading: Sequence[str], cells: Sequence[Sequence[str]], names: int, width: int) -> list[int]:
    """The least width of each column: names may be broken at spaces, to half their length, and to a third of a line."""
    columns = [[title, *(row[at] for row in cells)] for at, title in enumerate(heading)]
    whole = [max(map(len, column)) for column in columns]
    for at, column in enumerate(columns[:names]):
        whole[at] = min(max(max(map(_longest_word, column)), -(-whole[at] // 2)), width // 3)
    return whole


def _needed(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _longest_word(cell: str) -> int:
    return max(map(len, cell.split()), default=0)


def table(
    heading: Sequence[str], cells: Sequence[Sequence[str]], names: int, width: int | None = None, styled: bool = False
) -> str:
    """The table as text, laid out by rich: the first `names` columns are words, the others numbers.

    What is wider than `width` is broken within its cell. `styled`: for the output as it is, which may be a terminal.
    """
    from rich.box import Box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    stream = sys.stdout if styled else io.StringIO()
    lines = LINES.replace("-", "─") if styled and stream.isatty() and not is_plain(stream) else LINES
    laid = Table(
        box=Box(lines), show_edge=False, padding=(0, GAP - 1, 0, 0), pad_edge=False, safe_box=False,
        header_style="bold" if styled else "",
    )  # fmt: skip
    fits = width is None or _needed(_least(heading, cells, names, width)) <= width
    for column, title in enumerate(heading):
        number = column >= names
        laid.add_column(
            Text(_for(title, stream, styled)), justify="right" if number else "left", no_wrap=number and fits,
            overflow="fold",
        )  # fmt: skip
    for row in cells:
        laid.add_row(*(Text(_for(cell, stream, styled)) for cell in row))
    terminal = None if styled else False
    console = Console(
        file=stream, width=width or 1_000_000, force_terminal=terminal, force_jupyter=False, highlight=False
    )
    with console.capture() as captured:
        console.print(laid)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _for(text: str, stream: TextIO, styled: bool) -> str:
    return printable(text, stream) if styled else text
