"""Tables of text in aligned columns; one that is wider than the terminal is folded into blocks that are not."""

import shutil
import sys
import textwrap

GAP = 2  # spaces between columns


def terminal_width() -> int | None:
    """Characters in a line of the terminal (COLUMNS, where it is set); None where the output goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def wrapped(text: str, width: int | None) -> str:
    """Text in lines of that width, broken at spaces; a word that is wider begins a line and is broken at its end."""
    if width is None:
        return text
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(line[start : start + width] for line in lines for start in range(0, len(line), width))


def table(heading: list[str], cells: list[list[str]], names: int, width: int | None = None) -> str:
    """The table as text.

    Where it is wider than `width`, its columns are shared out among blocks below each other. Each block begins with the
    first `names` columns, which say what a row is; where these leave no room, with the number of the row. A cell that
    is wider than all this is wrapped, one of a name beside the names before it if its words fit there.
    """
    widths = [max(map(len, column)) for column in zip(heading, *cells)]
    if width is None or sum(widths) + GAP * (len(widths) - 1) <= width:
        return "\n".join(_block([heading, *cells]))
    words = names
    if sum(widths[:names]) + GAP * names + max(widths[names:], default=0) > width:
        heading, cells = ["#", *heading], [[str(number), *row] for number, row in enumerate(cells, start=1)]
        names, words, widths = 1, names + 1, [max(map(len, ("#", str(len(cells))))), *widths]
    room = max(1, width - sum(widths[:names]) - GAP * names)
    blocks: list[dict[int, int]] = []  # columns and their widths
    left = 0
    for column in range(names, len(heading)):
        needed = min(widths[column], room)
        if needed > left and column < words and _longest_word([row[column] for row in (heading, *cells)]) <= left:
            needed = left
        if not blocks or needed > left:
            blocks.append({})
            left = room
        blocks[-1][column] = needed
        left -= needed + GAP
    parts = []
    for block in blocks:
        lines = [
            row[:names] + [wrapped(row[column], size) for column, size in block.items()] for row in (heading, *cells)
        ]
        parts.append("\n".join(_block(lines)))
    return "\n\n".join(parts)


def _longest_word(cells: list[str]) -> int:
    return max((len(word) for cell in cells for word in cell.split()), default=0)


def _block(rows: list[list[str]]) -> list[str]:
    """Aligned lines with a rule below the heading; a cell may have several lines."""
    split = [[cell.splitlines() or [""] for cell in row] for row in rows]
    widths = [max(len(line) for cell in column for line in cell) for column in zip(*split)]
    lines = []
    for number, row in enumerate(split):
        for which in range(max(map(len, row))):
            parts = [(cell[which] if which < len(cell) else "").ljust(size) for cell, size in zip(row, widths)]
            lines.append((" " * GAP).join(parts).rstrip())
        if number == 0:
            lines.append((" " * GAP).join("-" * size for size in widths))
    return lines
