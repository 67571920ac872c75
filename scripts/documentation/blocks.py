"""The code blocks of a page of documentation, and the commands in them.

Commands that a reader can run stand in blocks: indented by four spaces, or fenced. A fenced block of the language
`console` has commands after `$ ` and below each what it prints; scripts/documentation/consoles.py runs these.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^(```+)(\w*)\s*$")
# What starts a run: our scripts and our installed commands, perhaps behind a launcher or variables.
COMMAND = re.compile(
    r"(?:python (?:-m remerge\.)?(?P<script>run|merge)(?:\.py)?|remerge-(?P<installed>run|merge))(?P<rest>(?:\s.*)?)$"
)
TORCHRUN = re.compile(r"\b(?P<script>run)\.py(?P<rest>\s.*)$")  # `torchrun ... run.py WORDS`
SUBSTITUTED = re.compile(r"\$\(((?:python|remerge-)[^()]*)\)")
SPAN = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its lines, and the numbers of its first and last line of content in the page."""

    language: str
    lines: tuple[str, ...]
    start: int
    end: int


def fenced(text: str) -> list[Block]:
    """All fenced blocks of a page in their order; raises ValueError for one that is not closed."""
    found, opened = [], None
    lines = text.splitlines()
    for number, line in enumerate(lines):
        match = FENCE.match(line)
        if opened is None and match:
            opened = (match.group(1), match.group(2), number + 1)
        elif opened is not None and line.rstrip() == opened[0]:
            fence, language, start = opened
            found.append(Block(language, tuple(lines[start:number]), start, number))
            opened = None
    if opened is not None:
        raise ValueError(f"the block that begins at line {opened[2]} is not closed")
    return found


def commands(text: str) -> list[tuple[str, list[str]]]:
    """The commands of a page in blocks and in code spans: `run` or `merge`, and their words.

    Those of `console` blocks are not among them: they are run. A comment after the command (two spaces, or #) is left
    out, and a backslash joins lines.
    """
    inside = {number for block in fenced(text) for number in range(block.start - 1, block.end + 1)}
    shell = {
        number
        for block in fenced(text)
        if block.language in ("", "sh", "bash")
        for number in range(block.start, block.end)
    }
    found, pending = [], ""
    for number, line in enumerate(text.splitlines()):
        if number in shell or (number not in inside and line.startswith("    ")):
            pending += " " + line.strip() if pending else line.strip()
            if pending.endswith("\\"):
                pending = pending[:-1].rstrip()
                continue
            found += _command(pending)
        elif number not in inside:
            for span in SPAN.findall(line):
                found += _command(span)
        pending = ""
    return found


def _command(line: str) -> list[tuple[str, list[str]]]:
    """The command of one line, if it has one."""
    inner = SUBSTITUTED.search(line)
    if inner is not None:  # $(python run.py WORDS)
        return _command(inner.group(1))
    match = COMMAND.search(line) or (TORCHRUN.search(line) if "torchrun" in line else None)
    if match is None:
        return []
    groups = match.groupdict()
    rest = re.split(r"\s{2,}|\s#|\s[|>&;]\s?", groups["rest"].strip())[0]
    return [(groups["script"] or groups.get("installed"), words(rest))]


def words(text: str) -> list[str]:
    """The words of a shell's command line; a quote that is not closed is an error of the page."""
    return shlex.split(text)


def pages(root: Path) -> list[Path]:
    """Every page of documentation that is kept in the repository."""
    return [*sorted((root / "docs").glob("*.md")), root / "README.md", root / "CONTRIBUTING.md"]
