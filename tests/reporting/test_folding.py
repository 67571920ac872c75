"""Tables for a terminal and for LaTeX: no line is wider than the terminal, and every cell is there once."""

import re
import shutil

import pytest

from cl.reporting import folding, latex

HEADING = ["strategy", "with", "seeds", "accuracy %", "of these to merge", "train s"]
CELLS = [
    ["er", "buffer.capacity=200 optimizer.lr=0.1", "5", "50.00 ± 14.14", "-", "2.0 ± 0.0"],
    ["a network alone (mean of 5)", "", "5", "20.00 ± 0.00", "-", "-"],
    ["avg", "finetune_samples=200 strategy.init=shared running=true", "3", "95.00", "14420", "0.9"],
]


def blocks(text: str) -> list[tuple[list[str], list[list[str]]]]:
    """Heading and rows of each block, read by the rule below its heading; a line without a row's key continues it."""
    found = []
    for block in text.split("\n\n"):
        heading, rule, *lines = block.splitlines()
        places = [match.span() for match in re.finditer("-+", rule)]
        rows: list[list[str]] = []
        for line in (heading, *lines):
            cells = [line[start:end].strip() for start, end in places]
            if cells[0]:
                rows.append(cells)
            else:
                rows[-1] = [f"{before} {more}".strip() for before, more in zip(rows[-1], cells)]
        found.append((rows[0], rows[1:]))
    return found


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_a_folded_table_has_the_same_cells_in_lines_that_fit(width):
    text = folding.table(HEADING, CELLS, 2, width)
    assert max(map(len, text.splitlines())) <= width
    found = blocks(text)
    joined = {name: [row[i] for row in rows] for heading, rows in found for i, name in enumerate(heading)}
    keys = joined.pop("#", None)
    assert keys in (None, ["1", "2", "3"])
    assert joined == {name: [row[i] for row in CELLS] for i, name in enumerate(HEADING)}
    assert {heading[0] for heading, _ in found} == {"#" if keys else "strategy"}
    others = [name for heading, _ in found for name in heading[1 if keys else 2 :]]
    assert others == (HEADING if keys else HEADING[2:])


def test_a_table_that_fits_is_one_block_and_without_a_terminal_none_is_folded():
    wide = folding.table(HEADING, CELLS, 2)
    exact = max(map(len, wide.splitlines()))
    assert folding.table(HEADING, CELLS, 2, exact) == wide and "\n\n" not in wide
    assert "\n\n" in folding.table(HEADING, CELLS, 2, exact - 1)


def test_names_that_leave_room_stand_before_every_block():
    heading, cells = ["strategy", "a", "b"], [["er", "1" * 20, "2" * 20], ["der", "3" * 20, "4" * 20]]
    (first, rows), (second, more) = blocks(folding.table(heading, cells, 1, 40))
    assert (first, second) == (["strategy", "a"], ["strategy", "b"])
    assert [row[0] for row in rows] == [row[0] for row in more] == ["er", "der"]


def test_names_stand_before_every_block_in_one_line_also_where_they_take_most_of_it():
    heading, cells = ["strategy", "a", "b"], [["a network alone (mean of 5)", "1", "22222"], ["er", "3", "4"]]
    for _, rows in (found := blocks(folding.table(heading, cells, 1, 34))):
        assert [row[0] for row in rows] == ["a network alone (mean of 5)", "er"]
    assert [names for names, _ in found] == [["strategy", "a"], ["strategy", "b"]]


def test_a_word_that_is_wider_than_the_terminal_is_broken_before_the_terminal_does_it():
    text = folding.table(["strategy", "with"], [["er", "run=" + "x" * 90], ["der", ""]], 2, 40)
    assert max(map(len, text.splitlines())) <= 40 and text.count("x") == 90


def test_a_wide_cell_is_broken_at_spaces_first_and_a_long_word_begins_a_line():
    long = "run=" + "x" * 40
    text = folding.table(
        ["strategy", "with"], [["er", f"finetune_epochs=5 {long} running=true"], ["der", "a=1"]], 2, 40
    )
    lines = [line[3:].strip() for line in text.splitlines()]
    assert lines[-5:-1] == ["finetune_epochs=5", long[:37], long[37:], "running=true"]
    assert folding.wrapped(f"seeds {long}", 30) == f"seeds\n{long[:30]}\n{long[30:]}"
    assert folding.wrapped("", 30) == "" and folding.wrapped("a  b", None) == "a  b"


def test_narrow_names_and_the_wide_one_after_them_share_a_block():
    (first, rows), *more = blocks(folding.table(HEADING, CELLS, 2, 60))
    assert first == ["#", "strategy", "with"] and [row[1:] for row in rows] == [row[:2] for row in CELLS]
    assert [heading[0] for heading, _ in more] == ["#"] * len(more)
    # Not where its words would have to be broken for it.
    (first, _), (second, _), *_ = blocks(folding.table(HEADING, CELLS, 2, 45))
    assert (first, second) == (["#", "strategy"], ["#", "with"])


def test_only_a_terminal_has_a_width_and_columns_sets_it(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "57")
    assert folding.terminal_width() is None
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert folding.terminal_width() == 57
    monkeypatch.delenv("COLUMNS")
    assert folding.terminal_width() == shutil.get_terminal_size().columns
    assert folding.wrapped("a b c", None) == "a b c" and folding.wrapped("aa bb", 3) == "aa\nbb"


@pytest.mark.parametrize(
    "text, written",
    [
        ("a_b 5 % & #1 $x$", r"a\_b 5 \% \& \#1 \$x\$"),
        (r"C:\x{y}~^", r"C:\textbackslash{}x\{y\}\textasciitilde{}\textasciicircum{}"),
        ("[400,200]", "{[}400,200{]}"),
        ("A[i,j] < 2 > 1 | *", r"A{[}i,j{]} \textless{} 2 \textgreater{} 1 \textbar{} {*}"),
        ("1.00 ± 0.10", r"1.00 $\pm$ 0.10"),
        ("a--b", "a-{}-b"),
    ],
)
def test_latex_prints_what_the_cell_says(text, written):
    assert latex.escaped(text) == written


def test_a_table_in_latex():
    text = latex.table(["strategy", "a_b %"], [["er", "-25.00 ± 1.00"], ["joint", "-"]], 1, "Caption_1.")
    assert text.splitlines() == [
        r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering", r"\caption{Caption\_1.}",
        r"\begin{tabular}{lr}", r"\toprule", r"strategy & a\_b \% \\", r"\midrule", r"er & $-$25.00 $\pm$ 1.00 \\",
        r"joint & -- \\", r"\bottomrule", r"\end{tabular}", r"\end{table}",
    ]  # fmt: skip
