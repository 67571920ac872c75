"""What a page can be made of: studies that are unfinished or broken, runs of older versions, any folder of runs."""

import json
import re
import sys

import pytest
import synthetic
from parsed import Tables
from support import QUICK

from cl.reporting import report
from cl.reporting.page import page, pictures, study
from cl.run import experiment

NEW_KEYS = ("passes", "persistent", "persistent_bytes", "optimizer_bytes", "flops", "forward_passes", "backward_passes",
            "unlabelled_forward_passes", "unlabelled_backward_passes")  # fmt: skip
ONE_BUDGET = synthetic.BUDGETS[:1]


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing takes most of a page's time, and these tests look at what is written."""
    monkeypatch.setattr(page.pictures, "render", lambda drawn, form: b"<svg></svg>")


def shown(folder):
    return Tables(folder / "report" / "index.html")


def test_results_of_older_versions_have_no_costs(tmp_path, no_pictures):
    content = synthetic.write_study(tmp_path, seeds=(0, 1), budgets=ONE_BUDGET)
    for file in tmp_path.rglob("results.json"):
        run = json.loads(file.read_text())
        file.write_text(json.dumps({key: value for key, value in run.items() if key not in NEW_KEYS}))
    page.write(tmp_path, content)
    found = shown(tmp_path)
    row = found.dicts(0)[0]
    for heading in ("kept kB", "optimizer kB", "passes", "GFLOPs"):
        assert row[heading] == ("-", None)
    assert row["accuracy %"][0].startswith("9") and "svg" not in {tag for tag, _, _ in found.attributes}
    assert not list((tmp_path / "report").glob("*.png")) and "spare networks" not in found.text


def test_what_is_not_finished_is_a_row_without_numbers(tmp_path, no_pictures):
    content = synthetic.write_study(tmp_path, seeds=(0, 1), budgets=ONE_BUDGET)
    content["rows"][1] |= {"runs": [], "failed": [{"seed": 0, "error": "ValueError: no"}, {"seed": 1, "error": "x"}]}
    page.write(tmp_path, content)
    rows = {row["row"][0]: row for row in shown(tmp_path).dicts(0)}
    assert rows["derpp"]["accuracy %"] == ("-", None) and rows["derpp"]["seeds"][0] == "0|2 failed"
    assert rows["derpp"]["rank"][0] == rows["derpp"]["minus er, points"][0] == rows["derpp"]["within 2 %"][0] == "-"
    assert "derpp, 50 samples, seed 0: ValueError: no" in shown(tmp_path).text
    content["rows"] = [entry | {"runs": []} for entry in content["rows"]]  # nothing has finished
    page.write(tmp_path, content)
    assert "do not have both a merging and a rehearsal method" in shown(tmp_path).text


@pytest.mark.parametrize(
    "change, says",
    [
        ({"schema": "remerge.study/9"}, "must have schema remerge.study/1, got remerge.study/9"),
        ({"rows": [{"name": "er"}]}, r"is not a study of remerge \(KeyError: 'runs'\)"),
        ({"budgets": []}, "rows are of a budget '50 samples', which it does not list"),
    ],
)
def test_what_is_no_study_is_one_line(tmp_path, change, says):
    content = synthetic.write_study(tmp_path, seeds=(0,), budgets=ONE_BUDGET)
    with pytest.raises(ValueError, match=says):
        page.write(tmp_path, content | change)


def test_results_that_are_not_there_or_broken_are_named(tmp_path):
    content = synthetic.write_study(tmp_path, seeds=(0, 1), budgets=ONE_BUDGET)
    path = tmp_path / content["rows"][0]["runs"][1]
    with pytest.raises(ValueError, match="row 'er' in study.json names two results of seed 0; the second is"):
        page.write(tmp_path, content | {"rows": [content["rows"][0] | {"runs": [content["rows"][0]["runs"][0]] * 2}]})
    path.write_text("[1]")
    with pytest.raises(ValueError, match=f"{path} is damaged .expected a JSON object, got list"):
        page.write(tmp_path, content)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{path}, a run of row 'er' in study.json, is not there"):
        page.write(tmp_path, content)


def test_the_command_writes_the_page_of_a_study(tmp_path, monkeypatch, capsys, no_pictures):
    content = synthetic.write_study(tmp_path, seeds=(0, 1), budgets=ONE_BUDGET)
    for given in (tmp_path, tmp_path / "study.json"):
        monkeypatch.setattr(sys, "argv", ["report", str(given), "--page"])
        report.main()
        assert "report/index.html" in capsys.readouterr().out
        assert len(shown(tmp_path).dicts(0)) == len(content["rows"])
        (tmp_path / "report" / "index.html").unlink()
    assert not (tmp_path / "report.md").exists()  # that is the table of runs without a study
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(SystemExit, match="^error: .*study.json is damaged .it is no JSON.*: run the study again"):
        report.main()


def test_the_command_writes_a_page_of_real_runs(tmp_path, monkeypatch, capsys, compose_config):
    for seed in (0, 1):
        for strategy in ("er", "finetune"):
            experiment.run(compose_config(*QUICK, "scenario=class2", f"strategy={strategy}", f"seed={seed}"))
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "multirun"), "--page", "--output", str(tmp_path)])
    report.main()
    found = shown(tmp_path)
    rows = {row["row"][0]: row for row in found.dicts(0)}
    assert list(rows) == ["er, buffer 200", "finetune"] and rows["finetune"]["school"][0] == "bound"
    printed = capsys.readouterr().out
    accuracy = re.search(r"^er +200 +2 +(\S+ ± \S+)", printed, re.MULTILINE).group(1)
    assert rows["er, buffer 200"]["accuracy %"][0] == accuracy
    assert rows["finetune"]["minus er, buffer 200, points"][0].startswith("\N{MINUS SIGN}")
    assert "do not have both a merging and a rehearsal method" in found.text
    assert "These runs share no budget." in found.text
    assert "scenario class2, dataset digits, backbone mlp" in found.text and "Results written 20" in found.text


def test_a_picture_has_few_lines_that_differ_in_colour_dash_and_marker(tmp_path):
    content = synthetic.write_study(tmp_path, seeds=(0, 1))
    of = study.read(tmp_path, content)
    found = pictures.points(of, pictures.MEMORY)
    tables, says = page.comparison.tables(of), page.answer.answer(of)
    names = pictures.series(of, tables, says, [found]).names
    champions = {row.name for claim in says.claims for row in (claim.first, claim.second)}
    assert champions <= set(names) and len(names) <= 8 and "joint, same passes" in names
    for styles in (pictures.COLOURS, pictures.DASHES, pictures.MARKERS):
        assert len(set(map(str, styles))) == len(styles) >= len(names)
    assert "#F0E442" not in pictures.COLOURS
    drawn = pictures.figure(of, pictures.MEMORY, found, pictures.series(of, tables, says, [found]))
    (axes,) = drawn.axes
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "bytes that persist (kB), logarithmic"
    assert axes.get_ylabel() == "accuracy (%)"
    labels = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert len(labels) == len(names) + 2  # the front and the grey rest


def test_the_front_is_what_no_method_beats_in_both():
    def point(name, x, y, school="merging"):
        return pictures.Point(study.Row(name, school, None, {}), x, y, None)

    found = [point("a", 1, 50), point("b", 2, 40), point("c", 3, 60), point("d", 3, 55), point("j", 0.5, 99, "bound")]
    assert [each.row.name for each in pictures.front(found, True)] == ["a", "c"]
    assert [each.row.name for each in pictures.front(found, False)] == ["a", "b"]
