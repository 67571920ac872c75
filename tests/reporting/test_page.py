"""The page's figures equal those of the JSON files, computed here by another route; the page is one file."""

import csv
import html
import json
import math
import re
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest
import synthetic
from parsed import Tables

from cl.reporting.page import page

T_975 = 2.7764451051977987  # Student's t, 4 degrees of freedom
MINUS = "\N{MINUS SIGN}"


def expected(folder: Path, study: dict, budget: str) -> dict[str, dict]:
    """What a table says, from the JSON files alone: numpy, Student's t from a table, and p by its closed form."""
    entries = [entry for entry in study["rows"] if entry["budget"] in (None, budget)]
    runs = {entry["name"]: [json.loads((folder / path).read_text()) for path in entry["runs"]] for entry in entries}
    values = {name: np.array([run["average_accuracy"] for run in of]) for name, of in runs.items()}
    methods = [entry["name"] for entry in entries if entry["school"] not in ("bound", "control")]
    best = max(methods, key=lambda name: values[name].mean())
    found = {}
    for entry in entries:
        name = entry["name"]
        mean = {key: np.mean([run[key] for run in runs[name]]) for key in (
            "persistent_bytes", "optimizer_bytes", "passes", "flops", "train_seconds"
        )}  # fmt: skip
        forgetting = [run["forgetting"] for run in runs[name] if run["forgetting"] is not None]
        found[name] = mean | {
            "accuracy": values[name].mean(), "std": values[name].std(ddof=1), "school": entry["school"],
            "forgetting": (np.mean(forgetting), np.std(forgetting, ddof=1)) if forgetting else None,
            "rate": entry["rate"], "command": entry["command"],
            "er": against(values[name], values["er"]) if name != "er" else None,
            "best": against(values[name], values[best]) if name != best else None,
        }  # fmt: skip
        better = {other: against(values[other], values[name]) for other in methods if other != name}
        adjusted = step_down({other: each[3] for other, each in better.items()})
        found[name]["rank"] = 1 + sum(adjusted[other] < 0.05 and better[other][0] > 0 for other in better)
        if name not in methods:
            found[name]["rank"] = None
    for other in ("er", "best"):
        adjusted = step_down({name: row[other][3] for name, row in found.items() if row[other]})
        for name, p in adjusted.items():
            found[name][other] = (*found[name][other][:3], p)
    return found


def against(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float, float]:
    """Mean, interval and two-sided p of five pairs."""
    difference = one - other
    error = difference.std(ddof=1) / math.sqrt(5)
    t = abs(difference.mean()) / error
    x = t / math.sqrt(4 + t * t)
    half = T_975 * error
    return difference.mean(), difference.mean() - half, difference.mean() + half, 1 - x * (3 - x * x) / 2


def step_down(p: dict) -> dict:
    """Holm's adjusted p values, by their definition: the largest of (m - j + 1) p(j) over all j up to its own place."""
    names = sorted(p, key=p.get)
    return {
        name: min(1.0, max((len(names) - j) * p[names[j]] for j in range(place + 1)))
        for place, name in enumerate(names)
    }


def signed(value: float, digits: int = 2) -> str:
    return f"{value:+.{digits}f}".replace("-", MINUS)


def interval(found: tuple) -> str:
    low, high = (f"{100 * value:.2f}".replace("-", MINUS) for value in found[1:3])
    return f"{low} to {high}; p {'< 0.001' if found[3] < 0.001 else format(found[3], '.3f')}"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a study with its page, and what study.json says."""
    folder = tmp_path_factory.mktemp("study")
    study = synthetic.write_study(folder)
    page.write(folder, study)
    return folder, study


def test_the_figures_of_the_page_are_those_of_the_json_files(written):
    folder, study = written
    tables = Tables(folder / "report" / "index.html")
    assert len(tables.tables) == 3
    for number, budget in enumerate(study["budgets"]):
        right, rows = expected(folder, study, budget["name"]), tables.dicts(number)
        assert sorted(row["row"][0] for row in rows) == sorted(right) and len(rows) == 17
        for row in rows:
            of = right[row["row"][0]]
            assert row["school"][0] == of["school"]
            assert row["accuracy %"][0] == f"{100 * of['accuracy']:.2f} ± {100 * of['std']:.2f}"
            assert float(row["accuracy %"][1]) == pytest.approx(100 * of["accuracy"], rel=1e-12)
            for heading, other in (("minus er, points", "er"), ("minus the best, points", "best")):
                says = "-" if of[other] is None else f"{signed(100 * of[other][0])}|{interval(of[other])}"
                assert row[heading][0] == says
            assert row["rank"][0] == ("-" if of["rank"] is None else str(of["rank"]))
            forgetting = of["forgetting"] and " ± ".join(f"{100 * value:.2f}" for value in of["forgetting"])
            assert row["forgetting %"][0] == (forgetting or "-")
            assert row["kept kB"][0] == f"{of['persistent_bytes'] / 1000:,.1f}"
            assert row["optimizer kB"][0] == f"{of['optimizer_bytes'] / 1000:,.1f}"
            assert row["passes"][0] == f"{of['passes']:,.0f}" and row["GFLOPs"][0] == f"{of['flops'] / 1e9:.2f}"
            assert row["train s"][0] == f"{of['train_seconds']:.1f}" and row["seeds"][0] == "5"
            assert row["learning rate"][0].startswith("0.1|held out ") and of["command"] in row["parts, command"][0]


def test_markdown_csv_and_latex_say_the_same(written):
    folder, study = written
    report = folder / "report"
    records = list(csv.DictReader((report / "report.csv").open()))
    lines = html.unescape((report / "report.md").read_text()).splitlines()
    markdown = [re.split(r" (?<!\\)\| ", line[2:-2]) for line in lines if line.startswith("| ")]
    commands = [line.strip() for line in lines if line.startswith("    python ")]
    assert commands == [entry["command"] for entry in study["rows"]] + [study["command"]]
    latex = [line.removesuffix(r" \\").split(" & ") for line in (report / "report.tex").read_text().splitlines()
             if line.endswith(r" \\")]  # fmt: skip
    assert len(records) == 51 and len(markdown) == len(latex) == 51 + 3
    for number, budget in enumerate(study["budgets"]):
        right = expected(folder, study, budget["name"])
        here = [record for record in records if record["budget"] == budget["name"]]
        for record, cells, tex in zip(here, markdown[18 * number + 1 :], latex[18 * number + 1 :]):
            of = right[record["row"]]
            assert float(record["average_accuracy_mean"]) == pytest.approx(of["accuracy"], rel=1e-12)
            assert float(record["average_accuracy_std"]) == pytest.approx(of["std"], rel=1e-9)
            for other, name in (("er", "reference"), ("best", "best")):
                keys = [f"{name}_{key}" for key in ("difference", "low", "high", "p")]
                if of[other] is None:
                    assert [record[key] for key in keys] == [""] * 4
                else:
                    assert [float(record[key]) for key in keys] == pytest.approx(list(of[other]), rel=1e-6, abs=1e-12)
            assert record["rank"] == ("" if of["rank"] is None else str(of["rank"]))
            for key in ("persistent_bytes", "optimizer_bytes", "passes", "flops", "train_seconds"):
                assert float(record[key]) == pytest.approx(of[key])
            accuracy = f"{100 * of['accuracy']:.2f} ± {100 * of['std']:.2f}"
            assert cells[0] == record["row"] and cells[2] == accuracy
            assert cells[3] == ("-" if of["er"] is None else f"{signed(100 * of['er'][0])} ({interval(of['er'])})")
            assert tex[0] == record["row"].replace("_", r"\_") and tex[1] == accuracy.replace("±", r"$\pm$")
            difference = cells[3].replace(MINUS, "$-$").replace("<", r"\textless{}")
            assert tex[2] == ("--" if difference == "-" else difference)
            assert tex[3] == record["rank"] or tex[3] == "--"


def test_the_points_of_the_pictures_are_those_of_the_json_files(written):
    folder, study = written
    text = (folder / "report" / "index.html").read_text()
    (says,) = re.findall(r"<title>(derpp at 200 samples: [^<]*bytes[^<]*)</title>", text)
    of = expected(folder, study, "200 samples")["derpp"]
    half = T_975 * of["std"] / math.sqrt(5)
    assert f"accuracy {100 * of['accuracy']:.2f} % ± {100 * half:.2f} (95 % interval)" in says
    assert says.endswith(f"{of['persistent_bytes'] / 1000:,.1f}")
    assert len(re.findall(r'<g id="accuracy_bytes-p\d+">', text)) == len(study["rows"])


def test_the_page_is_one_file_that_fetches_nothing(written):
    folder, _ = written
    found = Tables(folder / "report" / "index.html")
    loads = {"src", "srcset", "poster", "data", "action", "background", "xlink:href", "href"}
    refers = [(tag, value) for tag, name, value in found.attributes if name in loads]
    beside = {value for tag, value in refers if not value.startswith("#") and tag != "link"}
    assert beside == {path.name for path in (folder / "report").iterdir()} - {"index.html"}
    assert [value for tag, value in refers if tag == "link"] == ["data:,"]
    text = (folder / "report" / "index.html").read_text()
    assert "@import" not in text and not re.findall(r"url\((?!#)", text) and "fetch(" not in text
    ids = [value for _, name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for _, value in refers if value.startswith("#")} <= set(ids)
    assert {value for _, name, value in found.attributes if name == "aria-sort"} == {"none"}


def test_pictures_stand_as_files_and_in_the_page_with_a_title_and_a_description(written):
    folder, _ = written
    text = (folder / "report" / "index.html").read_text()
    pictures = re.findall(r"<svg .*?</svg>", text, re.DOTALL)
    assert len(pictures) == 2
    for picture in pictures:
        root = xml.etree.ElementTree.fromstring(picture)
        names = [child.tag.split("}")[1] for child in root][:2]
        assert root.get("role") == "img" and names == ["title", "desc"] and all(child.text for child in root[:2])
        assert root.get("width") is None and root.get("viewBox") and "metadata" not in picture
    for name in ("accuracy_bytes", "accuracy_passes"):
        assert (folder / "report" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert xml.etree.ElementTree.fromstring((folder / "report" / f"{name}.svg").read_text())


def test_the_same_numbers_make_the_same_page(written, tmp_path):
    folder, study = written
    before = {path.name: path.read_bytes() for path in (folder / "report").iterdir()}
    page.write(folder, study)
    assert {path.name: path.read_bytes() for path in (folder / "report").iterdir()} == before


def test_words_of_a_study_cannot_break_the_page(tmp_path):
    study = synthetic.write_study(tmp_path, seeds=(0, 1), budgets=synthetic.BUDGETS[:1])
    name = "avg <script>alert(1)</script> & a|b_c % $x$"
    entry = next(entry for entry in study["rows"] if entry["name"] == "regmean + fine-tuning")
    entry |= {"name": name, "command": "run '<b>'", "failed": [{"seed": 7, "error": "OSError: <img src=x>"}]}
    page.write(tmp_path, study)
    found = Tables(tmp_path / "report" / "index.html")
    assert "img" not in {tag for tag, _, _ in found.attributes} and "OSError: <img src=x>" in found.text
    (row,) = [row for row in found.dicts(0) if row["row"][0] == name]
    assert row["seeds"][0] == "2|1 failed"
    assert (tmp_path / "report" / "index.html").read_text().count("<script>") == 1
    tex = (tmp_path / "report" / "report.tex").read_text()
    assert r"\& a\textbar{}b\_c \% \$x\$" in tex
    assert r"a\|b_c" in (tmp_path / "report" / "report.md").read_text()
    assert any(row["row"] == name for row in csv.DictReader((tmp_path / "report" / "report.csv").open()))
