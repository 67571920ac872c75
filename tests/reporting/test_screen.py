"""What is printed fits the terminal and its signs, and every cell of a table that is shown is there once."""

import io
import re
import shutil
import sys
from pathlib import Path

import pytest

from cl.reporting import screen

HEADING = ["strategy", "with", "seeds", "accuracy %", "of these to merge", "train s"]
CELLS = [
    ["er", "buffer.capacity=200 optimizer.lr=0.1", "5", "50.00 ± 14.14", "-", "2.0 ± 0.0"],
    ["a network alone (mean of 5)", "-", "5", "20.00 ± 0.00", "-", "-"],
    ["avg", "finetune_samples=200 strategy.init=shared running=true", "3", "95.00", "14420", "0.9"],
]


def read(text: str) -> list[list[str]]:
    """The cells of a table that was printed at full width: two spaces or more end one."""
    heading, rule, *lines = text.splitlines()
    assert set(rule) == {"-"} and len(rule) == max(map(len, (heading, *lines)))
    return [re.split(r" {2,}", line) for line in (heading, *lines)]


def test_without_a_terminal_a_table_has_all_its_cells_in_one_line_each():
    assert read(screen.table(HEADING, CELLS, 2)) == [HEADING, *CELLS]
    assert screen.fitting(HEADING, CELLS, 2, [4, 5], None) == list(range(6))


def test_words_stand_left_and_numbers_right():
    lines = screen.table(["strategy", "seeds"], [["er", "3"], ["finetune", "12"]], 1).splitlines()
    assert lines == ["strategy  seeds", "---------------", "er            3", "finetune     12"]


@pytest.mark.parametrize("width", [25, 40, 60, 80, 100, 200])
def test_a_table_is_no_wider_than_the_terminal_and_loses_no_letter(width):
    shown = screen.fitting(HEADING, CELLS, 2, [4, 5], width)
    heading, *cells = ([row[i] for i in shown] for row in (HEADING, *CELLS))
    text = screen.table(heading, cells, 2, width)
    assert max(map(len, text.splitlines())) <= width
    letters = sorted("".join(text.replace("-", "").split()))
    assert letters == sorted("".join("".join(row) for row in (heading, *cells)).replace("-", "").replace(" ", ""))


def test_columns_go_in_their_order_and_only_where_there_is_no_room():
    # Words: of 8 and half of 27 letters, and of 22 and half of 54; numbers are 5, 13, 17 and 9 wide, with 5 gaps of 2.
    least = 14 + 27 + 5 + 13 + 17 + 9 + 5 * 2
    narrow = [name for name in range(6) if name != 4]
    assert screen.fitting(HEADING, CELLS, 2, [4, 5], least) == list(range(6))
    assert screen.fitting(HEADING, CELLS, 2, [4, 5], least - 1) == narrow
    assert screen.fitting(HEADING, CELLS, 2, [5, 4], least - 1) == [0, 1, 2, 3, 4]
    assert screen.fitting(HEADING, CELLS, 2, [4, 5], 20) == [0, 1, 2, 3]


def test_sentences_are_broken_at_spaces_and_a_path_stays_whole():
    path = "multirun/" + "x" * 40
    assert screen.wrapped(f"seeds {path} b", 30) == f"seeds\n{path}\nb"
    assert screen.wrapped("a  b", None) == "a  b" and screen.wrapped("aa bb\n\ncc", 3) == "aa\nbb\n\ncc"


def test_only_a_terminal_has_a_width_and_columns_sets_it(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "57")
    assert screen.width() is None
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert screen.width() == 57 and screen.width(sys.stderr) is None
    monkeypatch.delenv("COLUMNS")
    assert screen.width() == shutil.get_terminal_size().columns


@pytest.mark.parametrize(
    "encoding, lc_all, printed",
    [
        ("utf-8", None, "1.0 ± 0.1 → ü"),
        ("utf-8", "C.UTF-8", "1.0 ± 0.1 → ü"),
        ("utf-8", "C", r"1.0 +- 0.1 -> ü"),
        ("ascii", None, r"1.0 +- 0.1 -> \xfc"),
        ("latin-1", None, "1.0 +- 0.1 -> ü"),
    ],
)
def test_signs_that_the_output_cannot_take_are_written_in_others(monkeypatch, encoding, lc_all, printed):
    monkeypatch.delenv("LC_ALL", raising=False)
    if lc_all is not None:
        monkeypatch.setenv("LC_ALL", lc_all)
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    screen.say("1.0 ± 0.1 → ü", stream)
    assert stream.buffer.getvalue().decode(encoding) == printed + "\n"
    monkeypatch.setattr("sys.stdout", stream)
    assert ("±" in screen.table(["a"], [["±"]], 1, styled=True)) == ("±" in printed)


@pytest.mark.parametrize("variables, bold", [({}, True), ({"NO_COLOR": "1"}, True), ({"TERM": "dumb"}, False)])
def test_a_terminal_gets_a_bold_heading_unless_it_is_asked_not_to(monkeypatch, capsys, variables, bold):
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LC_ALL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    text = screen.table(HEADING, CELLS, 2, 200, styled=True)
    assert ("\x1b[1m" in text) == bold and "─" in text
    assert "\x1b" not in screen.table(HEADING, CELLS, 2, 200)


def test_a_pipe_gets_no_escape_codes_unless_they_are_asked_for(monkeypatch, capsys):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    assert screen.table(HEADING, CELLS, 2, styled=True) == screen.table(HEADING, CELLS, 2)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[1m" in screen.table(HEADING, CELLS, 2, styled=True)
    assert "\x1b" not in screen.table(HEADING, CELLS, 2)  # text for files


def test_paths_begin_at_the_current_folder_where_they_are_below_it(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert screen.place(tmp_path / "here" / "a" / "b") == screen.place("a/b") == "a/b"
    assert screen.place(tmp_path / "other") == str(tmp_path / "other") and screen.place(Path("../x")) == "../x"
