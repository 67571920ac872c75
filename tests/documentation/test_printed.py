"""The output of commands on the pages is what they print: blocks of the languages console and pycon, run again."""

import re
import shlex
from pathlib import Path

import forkserver
import pytest
from support import ROOT

from scripts.documentation import blocks, consoles

PAGES = [
    page
    for page in blocks.pages(ROOT)
    if any(block.language in ("console", "pycon") for block in blocks.fenced(page.read_text()))
]


def quickly(line: str, folder: Path) -> str:
    """What a command prints; ours are started by the fork server, which need not import torch again."""
    words = shlex.split(line.replace("\\\n", " "))
    if words[0] != "python" or words[1] not in ("run.py", "merge.py") or set(words) & {"|", ">", "&&", ";"}:
        return consoles.in_a_shell(line, folder)
    done = forkserver.run([folder / words[1], *words[2:]], cwd=folder, env=consoles.environment())
    return done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_output_on_the_page_is_what_its_commands_print(page):
    difference = consoles.difference(page.read_text(), quickly)
    where = page.relative_to(ROOT)
    assert not difference, "\n".join([f"write it anew with: make docs-output PAGES={where}", *difference])


def test_there_are_such_pages():
    assert {"getting_started.md", "README.md"} <= {page.name for page in PAGES}


PRINTED = {
    "echo one": "one\n",
    "train --all \\\n    now": "\nfirst\nbar 10%|##  | 1/2 [00:01<00:01]\nbefore\rafter  \n"
    "t  12.3 s  90.1 %\nname 1.25 0.5 ± 0.1\n",
}


def printed(line: str, folder: Path) -> str:
    assert (folder / "run.py").samefile(ROOT / "run.py")
    return PRINTED[line]


def test_output_is_written_below_each_command_as_a_terminal_shows_it():
    page = "# T\n\n```console\n$ echo one\nold\n$ train --all \\\n    now\n```\n\n```python\n$ echo one\n```\n"
    now = consoles.rewritten(page, printed)
    shown = "$ echo one\none\n$ train --all \\\n    now\nfirst\nafter\nt  12.3 s  90.1 %\nname 1.25 0.5 ± 0.1\n"
    assert now == f"# T\n\n```console\n{shown}```\n\n```python\n$ echo one\n```\n"
    assert consoles.rewritten(now, printed) == now
    assert consoles.difference(page, printed) and not consoles.difference(now, printed)


@pytest.mark.parametrize(
    "words, shown",
    [
        ("first 1", ["first", "..."]),
        ("last 1", ["...", "name 1.25 0.5 ± 0.1"]),
        ("first 1, last 1", ["first", "...", "name 1.25 0.5 ± 0.1"]),
        ("first 3, last 1", ["first", "after", "t  12.3 s  90.1 %", "name 1.25 0.5 ± 0.1"]),
        ("from 90.1", ["...", "t  12.3 s  90.1 %", "name 1.25 0.5 ± 0.1"]),
    ],
)
def test_a_page_may_show_a_part_of_an_output(words, shown):
    page = f"<!-- shown: {words} -->\n```console\n$ train --all \\\n    now\n```\n"
    assert consoles.rewritten(page, printed).splitlines()[4:-1] == shown


def test_words_that_do_not_come_are_an_error():
    with pytest.raises(ValueError, match="expected a line with 'nothing'"):
        consoles.rewritten("<!-- shown: from nothing -->\n```console\n$ echo one\n```\n", printed)


@pytest.mark.parametrize(
    "one, other, same",
    [
        ("er  3  87.34 ± 0.73  0.3 ± 0.0", "er 3 87.34 ± 0.73  12.1 ± 1.0", True),
        ("er  3  87.34 ± 0.73  0.3 ± 0.0", "er 3 87.35 ± 0.73  0.3 ± 0.0", False),
        ("│ er │ 88.16 │ 0.3 │", "│ er │ 88.16 │ 0.4 │", True),
        ("accuracy so far  96.5 %", "accuracy so far  96.6 %", False),
        ("better by 37.9 points", "better by 37.8 points", False),
        ("3/8 done, 12 s left", "3/8 done, 8 s left", True),
        ("3/8 done, 12 s left", "4/8 done, 12 s left", False),
        ("made on 2026-11-26 12:00", "made on 2027-01-01 08:30", True),
        ("-----  ---", "--------  -----", True),
    ],
)
def test_times_are_masked_and_nothing_else(one, other, same):
    assert (consoles.masked(one) == consoles.masked(other)) is same


def test_python_blocks_share_their_names_and_run_after_the_commands():
    page = "```pycon\n>>> x = 2\n```\n\n```console\n$ echo one\n```\n\n"
    page += "```pycon\n>>> for i in range(x):\n...     print(i)\n9\n>>> 1 / 0\n```\n"
    now = consoles.rewritten(page, printed).split("```pycon\n")[2]
    assert now.startswith(">>> for i in range(x):\n...     print(i)\n0\n1\n>>> 1 / 0\n")


def test_a_picture_has_to_be_drawn(tmp_path):
    def draw(line: str, folder: Path) -> str:
        (folder / "out").mkdir()
        (folder / "out" / "plot_1.png").write_bytes(b"picture")
        return ""

    page = "```console\n$ draw\n```\n\n<!-- picture: out/*.png as images/plot.png -->\n"
    (tmp_path / "images").mkdir()
    assert consoles.rewritten(page, draw) == page and not (tmp_path / "images" / "plot.png").exists()
    consoles.rewritten(page, draw, tmp_path)
    assert (tmp_path / "images" / "plot.png").read_bytes() == b"picture"
    with pytest.raises(ValueError, match="expected one file of that name, got 0"):
        consoles.rewritten(page.replace("*.png", "*.pdf"), draw)


@pytest.mark.parametrize("page", blocks.pages(ROOT), ids=lambda page: page.name)
def test_pictures_that_commands_draw_are_on_the_page(page):
    text = page.read_text()
    for _, name in consoles.PICTURE.findall(text):
        assert re.search(rf"!\[[^\]]+\]\({re.escape(name)}\)", text) and (page.parent / name).is_file()


def test_a_block_that_is_not_closed_is_named():
    with pytest.raises(ValueError, match="begins at line 3 is not closed"):
        blocks.fenced("\n\n```console\n$ x\n")
