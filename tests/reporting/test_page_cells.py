"""What a page says of single rows: shares of budgets, learning rates and their tries, and how far its axes go."""

import csv
import dataclasses
import json
import re

import pytest
import synthetic
from parsed import Tables
from test_answer import LARGE, SMALL, row, study

from cl.reporting.metrics import ERROR_METRICS
from cl.reporting.page import answer, cells, comparison, page, pictures
from cl.reporting.page.study import Budget, read

SEARCH = {"rates": [0.03, 0.1, 0.3], "validation": 0.1, "seeds": [0]}


def cell(of, name: str, key: str, budget: int = 0) -> tuple[str, str]:
    """The text of a cell and the smaller one below it."""
    table = comparison.tables(of)[budget]
    line = next(line for line in table.lines if line.row.name == name)
    column = next(column for column in cells.columns(of, table) if column.key == key)
    return column.print(line), column.below(line)


def test_a_row_without_a_budget_says_its_passes():
    of = study(row("er", "rehearsal", SMALL, 0.8), row("joint", "bound", None, 0.9, passes=1030), budgets=(SMALL,))
    assert cell(of, "joint", "within") == ("passes 103.0 %", "bytes of samples 0.0 %; the same at every budget")
    assert cell(of, "er", "within") == ("yes", "bytes of samples 100.0 %, passes 100.0 %")


def test_the_share_of_bytes_says_which_bytes():
    budget = Budget("50 samples", "bytes", 208_000, 1000)
    of = study(row("er", "rehearsal", SMALL, 0.8), budgets=(budget,))
    assert cell(of, "er", "within") == ("no", "bytes 50.0 %, passes 100.0 %")


@pytest.mark.parametrize(
    "rate, printed", [(0.03, "0.03*"), (0.1, "0.1"), (0.3, "0.3*"), (0.1 * 3, "0.3*"), (None, "-")]
)
def test_a_rate_at_the_edge_of_the_search_is_marked(rate, printed):
    of = study(dataclasses.replace(row("er", "rehearsal", SMALL, 0.8), rate=rate), budgets=(SMALL,), search=SEARCH)
    assert cell(of, "er", "rate")[0] == printed
    assert ("a better one may lie beyond it" in page.rules.edge(of)) == printed.endswith("*")
    for search in (None, SEARCH | {"rates": [rate]}):  # a single rate has no others beside it
        assert not cells.at_edge(dataclasses.replace(of, search=search), of.rows[0])


def test_the_tries_of_a_row_are_in_its_details_and_files(tmp_path, monkeypatch):
    monkeypatch.setattr(page.pictures, "render", lambda drawn, form: b"<svg></svg>")
    content = synthetic.write_study(tmp_path, seeds=(0, 1), budgets=synthetic.BUDGETS[:1])
    content["rows"][0] |= {"rate": 0.3, "tries": [
        {"rate": 0.1, "held_out": 0.93}, {"rate": 0.3, "held_out": 0.95}, {"rate": 1.0, "held_out": None}
    ]}  # fmt: skip
    page.write(tmp_path, content)
    says = "learning rates, on held-out data: 0.1: 93.00 %, 0.3: 95.00 %, 1: training diverged"
    rows = {each["row"][0]: each for each in Tables(tmp_path / "report" / "index.html").dicts(0)}
    assert says in rows["er"]["parts, command"][0] and "held-out" not in rows["derpp"]["parts, command"][0]
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert markdown.count("on held-out data: ") == 1 and says[1:] in markdown
    assert r"| 0.3\* (held out 80.00 %) |" in markdown and "*: the lowest or highest learning rate" in markdown
    er, derpp, *_ = sorted(
        csv.DictReader((tmp_path / "report" / "report.csv").open()), key=lambda each: each["row"] != "er"
    )
    assert er["tries"] == "0.1:0.93 0.3:0.95 1:" and derpp["tries"] == ""


def test_what_study_json_may_leave_out_is_empty(tmp_path):
    content = synthetic.write_study(tmp_path, seeds=(0,), budgets=synthetic.BUDGETS[:1])
    assert {(each.all_stored, each.tries) for each in read(tmp_path, content).rows} == {(False, ())}
    content["rows"][0] |= {"all_stored": True, "tries": [{"rate": 0.1}]}
    with pytest.raises(ValueError, match=r"study.json is not a study of remerge \(KeyError: 'held_out'\)"):
        read(tmp_path, content)
    content["rows"][0]["tries"] = None
    assert [each.all_stored for each in read(tmp_path, content).rows[:2]] == [True, False]


def test_the_notes_say_what_comes_on_top_and_where_the_numbers_are(tmp_path, monkeypatch):
    monkeypatch.setattr(page.pictures, "render", lambda drawn, form: b"<svg></svg>")
    page.write(tmp_path, synthetic.write_study(tmp_path, seeds=(0, 1), budgets=synthetic.BUDGETS[:1]))
    text = " ".join(Tables(tmp_path / "report" / "index.html").text.split())
    assert "kB of stored samples (networks, statistics and the common start come on top and are shown)" in text
    assert text.count("All numbers are in the tables") == text.count("Files: PNG, SVG") == 2
    assert "95 % interval of the mean, cut at 0 and 100 %." in text


def drawn(of):
    found = pictures.points(of, pictures.MEMORY)
    shown = pictures.series(of, comparison.tables(of), answer.answer(of), [found])
    return pictures.figure(of, pictures.MEMORY, found, shown).axes[0]


def extent(axes) -> list[float]:
    """The ordinates of all bands and bars."""
    ends = [path.vertices[:, 1] for each in axes.collections for path in each.get_paths()]
    return [float(y) for each in ends for y in each]


@pytest.mark.parametrize("kept", [1_000, 100_000])  # the budgets are far apart: a band, or close: bars
def test_axis_bands_and_bars_end_where_the_accuracy_does(kept):
    # By hand: two seeds at 0.55 and 0.95 have a deviation of 28.3 points, so half of the interval is 12.7 * 20 = 254.
    noise = (-0.2, 0.2)
    of = study(*(
        row(name, school, budget, 0.75, seeds=2, noise=noise, kept=kept)
        for name, school in (("er", "rehearsal"), ("avg", "merging")) for budget in (SMALL, LARGE)
    ))  # fmt: skip
    axes = drawn(of)
    assert axes.get_ylim() == (0, 100)
    assert extent(axes) and min(extent(axes)) == pytest.approx(0) and max(extent(axes)) == pytest.approx(100)


def test_a_mark_at_the_end_of_the_axis_is_whole():
    of = study(row("er", "rehearsal", SMALL, 1.0, noise=(0,) * 5), row("avg", "merging", SMALL, 0.9), budgets=(SMALL,))
    axes = drawn(of)
    marks = [line for line in axes.get_lines() if re.fullmatch(r"p\d+", str(line.get_gid()))]
    assert axes.get_ylim()[1] == 100 and len(marks) == 2 and not any(line.get_clip_on() for line in marks)


def test_an_error_has_no_highest_value():
    rows = [
        row(name, school, SMALL, 0.0, seeds=2, noise=(0.5, 2.5))
        for name, school in (("er", "rehearsal"), ("a", "merging"))
    ]
    for each in rows:
        for run in each.runs.values():
            run["average_error"] = run.pop("average_accuracy")
    axes = drawn(study(*rows, budgets=(SMALL,), measure=ERROR_METRICS[0]))
    assert axes.get_ylim()[0] == 0 and axes.get_ylim()[1] > 12 and json.dumps(extent(axes)).count("NaN") == 0


@pytest.mark.parametrize("classes, decided", [([1, 1], True), ([2, 2], False), (None, False)])
def test_what_the_tasks_alone_decide_is_neither_compared_nor_a_column(tmp_path, classes, decided):
    content = synthetic.write_study(tmp_path, seeds=(0, 1), budgets=synthetic.BUDGETS[:1])
    for file in tmp_path.rglob("results.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"task_aware": True, "task_classes": classes}))
    of = read(tmp_path, content)
    (table,) = comparison.tables(of)
    shown = [column.key for column in cells.columns(of, table)]
    assert ("forgetting" in shown) != decided and ("average_accuracy" in shown) == decided
    assert of.measure.key == ("average_accuracy" if decided else "task_average_accuracy")
