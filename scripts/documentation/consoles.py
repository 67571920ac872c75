"""Runs the commands of `console` blocks and compares, or writes, what they print: a page shows what really comes out.

    python -m scripts.documentation.consoles                    compare all pages
    python -m scripts.documentation.consoles --write PAGE...    write the output into pages

In a block, a command follows `$ ` and its output stands below it, to the next command or the end: what it prints, then
its errors. All commands of a page run one after the other in one folder that is empty before, except for what a
checkout has. Numbers have to be equal, except seconds and dates, which are masked on both sides.

A line before the block says which lines are shown, `<!-- shown: first 3, last 8 -->`, or `from WORDS` for those from
the last line on that has these words; `...` stands for the others.

The language `pycon` is the same for Python: `>>> ` begins a statement and `... ` goes on with it. A page's statements
run after its commands, in one interpreter.

`<!-- picture: FILE as NAME -->` names a picture that the commands above it have drawn (FILE may have `*`); writing
copies it to NAME beside the page.
"""

import argparse
import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from scripts.documentation import blocks

ROOT = Path(__file__).resolve().parent.parent.parent
# What the commands find in their folder, as in a checkout.
SHOWN_FILES = ("run.py", "merge.py", "cl", "merging", "remerge", "conf", "docs", "examples", "scripts", "benchmarks")
SELECTION = re.compile(r"<!-- shown: (?:first (?P<first>\d+)(?:, )?)?(?:last (?P<last>\d+)|from (?P<text>.+?))? -->")
BAR = re.compile(r"\d+%\|.*\| *\d+/\d+ \[")  # a progress bar, of which a terminal shows the last state only
PICTURE = re.compile(r"<!-- picture: (\S+) as (\S+) -->")
# Seconds have their unit behind them, or are the last column of a table: one decimal, perhaps with a deviation.
MASKS = (
    (re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?)?"), "DATE"),
    (re.compile(r"(?<![\d.])\d+(\.\d+)? ?(?=(?:s|ms|min|seconds|minutes)\b)"), "T "),
    (re.compile(r"(?<![\d.])\d+\.\d(?: ± \d+\.\d)?(?=\s*[|│┃]?\s*$)", re.MULTILINE), "T"),
    (re.compile(r"[-─━═]{3,}"), "---"),
    (re.compile(r"[ \t]+"), " "),
)

Runner = Callable[[str, Path], str]  # runs a command line in a folder, and returns what it prints


def masked(text: str) -> list[str]:
    """The lines of an output without seconds, dates and the widths of columns."""
    for pattern, word in MASKS:
        text = pattern.sub(word, text)
    return [line.strip() for line in text.splitlines()]


def environment() -> dict[str, str]:
    """That of the commands: plain text in lines of 100 characters, and this interpreter under the name python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "COLUMNS": "100", "OMP_NUM_THREADS": "1"}


def in_a_shell(line: str, folder: Path) -> str:
    """What a command line prints, run by bash: its output, then its errors."""
    return _output(["bash", "-c", line], folder)


def rewritten(text: str, run: Runner, pictures: Path | None = None) -> str:
    """A page with the output of its commands as it is now.

    `pictures`: the folder to copy the page's pictures into; without it they only have to be there. Raises ValueError
    for a picture that no command has drawn.
    """
    lines = text.splitlines()
    found = [block for block in blocks.fenced(text) if block.language in ("console", "pycon")]
    limits = [SELECTION.search(lines[block.start - 2]) if block.start >= 2 else None for block in found]
    now: dict[int, list[str]] = {}  # by the place in `found`
    with tempfile.TemporaryDirectory(prefix="documentation") as name:
        folder = Path(name)
        for shown in SHOWN_FILES:
            if (ROOT / shown).exists():
                (folder / shown).symlink_to(ROOT / shown)
        taken = 0  # lines of the page whose pictures are taken
        for place, block in enumerate(found):
            _take_pictures("\n".join(lines[taken : block.start]), folder, pictures)
            taken = block.start
            if block.language == "console":
                now[place] = _console(block, folder, run, limits[place])
        _take_pictures("\n".join(lines[taken:]), folder, pictures)
        statements = {place: _statements(block) for place, block in enumerate(found) if block.language == "pycon"}
        printed = iter(_printed_by(sum(statements.values(), []), folder) if statements else [])
        for place, block in statements.items():
            shown = [[*statement, *_selected(next(printed, []), limits[place])] for statement in block]
            now[place] = sum(shown, [])
    for place in sorted(now, reverse=True):
        lines[found[place].start : found[place].end] = now[place]
    return "\n".join(lines) + "\n"


def _take_pictures(text: str, folder: Path, pictures: Path | None) -> None:
    """Find, and perhaps copy, what this part of a page shows of what the commands before it have drawn."""
    for source, name in PICTURE.findall(text):
        drawn = sorted(folder.glob(source))
        if len(drawn) != 1:
            raise ValueError(f"the picture {name} should be {source}: expected one file of that name, got {len(drawn)}")
        if pictures is not None:
            shutil.copyfile(drawn[0], pictures / name)


def _console(block: blocks.Block, folder: Path, run: Runner, limits: re.Match | None) -> list[str]:
    now, typed = [], []
    for line in block.lines:
        if not typed and not line.startswith("$ "):
            continue  # earlier output
        typed.append(line)
        if not line.endswith("\\"):
            command = "\n".join(typed)[2:]
            now += [*typed, *_selected(_plain(run(command, folder)), limits)]
            typed = []
    return now


def _statements(block: blocks.Block) -> list[list[str]]:
    """The statements of a pycon block, each with its prompts."""
    found = []
    for line in block.lines:
        if line.startswith(">>> "):
            found.append([line])
        elif line.rstrip() == "..." or line.startswith("... "):
            found[-1].append(line)
    return found


def _printed_by(statements: list[list[str]], folder: Path) -> list[list[str]]:
    """What each of these statements prints, one after the other in one interpreter."""
    end = "\x1e"  # after each output; no text has this character
    source = "import code\nshell = code.InteractiveConsole({'__name__': '__main__'})\n"
    for statement in statements:
        typed = "\n".join(line[4:] for line in statement)
        source += f"shell.runsource({typed!r} + '\\n', symbol='single')\nprint({end!r}, flush=True)\n"
    outputs = _output([sys.executable, "-c", source], folder).split(f"{end}\n")
    return [_plain(output) for output in outputs[: len(statements)]]


def _output(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600
    )
    return done.stdout + done.stderr


def _plain(output: str) -> list[str]:
    """The lines of an output as a terminal leaves them: what a carriage return goes over is not shown."""
    lines = [line.rpartition("\r")[2].rstrip() for line in output.replace("\r\n", "\n").split("\n")]
    lines = [line for line in lines if not BAR.search(line)]
    while lines and not lines[-1]:
        lines.pop()
    while lines and not lines[0]:
        lines.pop(0)
    return lines


def _selected(lines: list[str], limits: re.Match | None) -> list[str]:
    """The lines that the page shows, with `...` in place of the others."""
    if limits is None:
        return lines
    first, last = int(limits["first"] or 0), int(limits["last"] or 0)
    if limits["text"]:
        starts = [number for number, line in enumerate(lines) if limits["text"] in line]
        if not starts:
            raise ValueError(f"expected a line with {limits['text']!r}, got:\n" + "\n".join(lines))
        last = len(lines) - starts[-1]
    if first + last >= len(lines):
        return lines
    return [*lines[:first], "...", *lines[len(lines) - last :]]


def difference(text: str, run: Runner) -> list[str]:
    """Where the output in a page is not what its commands print now, as lines of a diff; empty if it is."""
    now = rewritten(text, run)
    if masked(text) == masked(now):
        return []
    return list(difflib.unified_diff(masked(text), masked(now), "in the page", "printed now", lineterm="", n=1))


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the console blocks of pages, and compare or write their output.")
    parser.add_argument("--write", action="store_true", help="write the output into the pages")
    parser.add_argument("pages", nargs="*", type=Path, help="default: all that have such blocks")
    arguments = parser.parse_args()
    differs = False
    for page in arguments.pages or blocks.pages(ROOT):
        text = page.read_text()
        if not any(block.language in ("console", "pycon") for block in blocks.fenced(text)):
            continue
        if arguments.write:
            now = rewritten(text, in_a_shell, page.parent)
            page.write_text(now)
            print(f"{page}: {'changed' if now != text else 'as it was'}")
        elif lines := difference(text, in_a_shell):
            differs = True
            print(f"{page}:", *lines, sep="\n")
    sys.exit(differs)


if __name__ == "__main__":
    main()
