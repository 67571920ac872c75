"""What the ends of a curve are, in words: with more than two networks the first end is a merge itself."""

import textwrap

WIDTH = 20  # characters of a line in a picture


def names_of_ends(number: int, merged: int, start: str, ends: str) -> tuple[str, str]:
    """The names of both ends of the curve to state `number` (from 0) of those that are merged one after the other.

    `merged`: how many networks the first state is a merge of (Models.merged); `start`, `ends`: options of CurveFinding.
    """
    kind, before = ("untrained network", number) if ends == "untrained" else ("network", max(1, merged) + number - 1)
    last = f"{kind} {before + 1}"
    first = f"{kind} 1" if before == 1 else f"merge of {kind}s 1 {'and' if before == 2 else 'to'} {before}"
    if start == "average":
        first = f"average of {kind}s 1 and 2" if before == 1 else f"average of {last} and the {first}"
    return first, last


def in_lines(name: str, width: int = WIDTH) -> str:
    """A name in short lines."""
    return textwrap.fill(name, width, break_on_hyphens=False)
