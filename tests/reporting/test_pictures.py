"""Pictures of several methods: lines that can be told apart, which ones are shown, titles and captions."""

import itertools
import sys

import pytest
from test_report import merged, write

from cl.reporting import groups, plots, report

# Machado, Oliveira & Fernandes 2009, A Physiologically-based Model for Simulation of Color Vision Deficiency: linear
# RGB as readers see it who lack one kind of cone.
SEEN = {
    "by all": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "without red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "without green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "without blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
WHITE = (0.95047, 1.0, 1.08883)
XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]


def times(matrix, vector):
    return [sum(a * b for a, b in zip(row, vector)) for row in matrix]


def linear(colour: str) -> list[float]:
    levels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4 for level in levels]


def lab(rgb) -> tuple[float, float, float]:
    """CIE 1976 L*a*b*, in which equal distances look about equally different."""
    x, y, z = (
        ratio ** (1 / 3) if ratio > 216 / 24389 else (24389 / 27 * ratio + 16) / 116
        for ratio in (value / white for value, white in zip(times(XYZ, rgb), WHITE))
    )
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("readers", SEEN)
def test_colours_can_be_told_apart_by_all_readers(readers):
    seen = [lab([min(1, max(0, c)) for c in times(SEEN[readers], linear(colour))]) for colour in plots.COLOURS]
    apart = [sum((a - b) ** 2 for a, b in zip(*pair)) ** 0.5 for pair in itertools.combinations(seen, 2)]
    assert min(apart) > 15  # 2.3 can just be noticed


def test_no_colour_is_pale_on_white_and_no_style_is_there_twice():
    for colour in plots.COLOURS:
        assert 1.05 / (0.05 + times(XYZ, linear(colour))[1]) > 2, colour  # contrast as in WCAG; yellow has 1.3
    for styles in (plots.COLOURS, plots.DASHES, plots.MARKERS):
        assert len(set(styles)) == len(styles) == plots.MOST_LINES


def drawn(monkeypatch, tmp_path, lines, title="a title"):
    """The axes of an overlay picture."""
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path, formats: figures.append(figure))
    plots.draw_overlay(tmp_path / "x", lines, title, ["png"])
    return figures[0].axes[0]


def test_eight_lines_differ_in_colour_and_dash_and_marker(monkeypatch, tmp_path):
    lines = [{"label": f"m{i}", "mean": [0.9, 0.1 * i] if i % 2 else [0.1 * i], "std": None} for i in range(8)]
    axes = drawn(monkeypatch, tmp_path, lines)
    found = axes.get_lines()
    assert [line.get_label() for line in found] == [f"m{i}" for i in range(8)]
    for looks in (
        lambda line: line.get_color(),
        lambda line: str(line._unscaled_dash_pattern),
        lambda line: line.get_marker(),
    ):
        assert len({looks(line) for line in found}) == 8
    levels = [line for line in found if len(set(line.get_ydata())) == 1]
    places = [line.get_xdata()[line.get_markevery()[0]] for line in levels]
    assert len(set(places)) == len(levels) == 4  # levels that lie on each other have their markers side by side


def test_titles_can_be_left_out(monkeypatch, tmp_path):
    line = [{"label": "m", "mean": [0.5, 0.6], "std": None}]
    assert drawn(monkeypatch, tmp_path, line).get_title() == "a title"
    titles = []
    monkeypatch.setattr(plots, "save", lambda figure, path, formats: titles.append(figure.axes[0].get_title()))
    run = {
        "strategy": "er", "scenario": "class2", "dataset": "digits", "task_aware": False,
        "accuracy_matrix": [[0.9, 0.0], [0.5, 0.8]], "task_accuracy_matrix": None, "accuracy_so_far": [0.9, 0.65],
    }  # fmt: skip
    plots.draw_run(tmp_path, run, ["png"])
    plots.draw_run(tmp_path, run, ["png"], titles=False)
    assert titles == ["er, class2 on digits"] * 2 + [""] * 2


def test_of_many_rows_the_picture_shows_the_bounds_and_the_best(tmp_path):
    for number in range(10):
        write(tmp_path, "er", accuracy=0.50 + number / 100, group=f"e{number}", capacity=number)
    write(tmp_path, "finetune", accuracy=0.2, group="f1", capacity=None)
    write(tmp_path, "finetune", accuracy=0.1, group="f2", capacity=None)
    write(tmp_path, "joint", accuracy=0.4, group="j", capacity=None, so_far=None)
    found = groups.load([tmp_path])
    labels = [line["label"].split() for line in report.curves(found)]
    assert sorted(labels, key=str) == [*(["er", str(number)] for number in range(4, 10)), ["finetune"], ["joint"]]
    order = [group.label["buffer"] for group in found if group.label["strategy"] == "er"]
    assert [label[1] for label in labels if label[0] == "er"] == [each for each in order if int(each) > 3]
    rule = "the best of finetune, the best of joint and the best of the others"
    assert report.left_out(found) == f"Of 13 rows of the table the picture shows 8: {rule}."
    assert report.left_out(found[:8]) == "" and len(report.curves(found[:8])) == 8


def test_rows_of_a_bound_alone_fill_the_picture_too(tmp_path):
    for number in range(10):
        write(tmp_path, "joint", accuracy=number / 10, group=f"j{number}", capacity=number)
    labels = [line["label"] for line in report.curves(groups.load([tmp_path]))]
    assert labels == [f"joint {number}" for number in range(2, 10)]


def test_of_errors_the_lowest_are_the_best(tmp_path):
    for number in range(9):
        write(
            tmp_path, "er", group=f"e{number}", capacity=number, average_error=number / 10, error_so_far=[0.1, 0.2],
            accuracy_so_far=None,
        )  # fmt: skip
    found = groups.load([tmp_path])
    assert [line["label"] for line in report.curves(found)] == [f"er {number}" for number in range(8)]
    assert report.left_out(found) == "Of 9 rows of the table the picture shows 8: the best."


def test_a_caption_says_what_is_in_the_picture_and_no_more():
    curve, band = {"label": "a", "mean": [0.1, 0.2], "std": None}, {"label": "b", "mean": [0.1, 0.2], "std": [0.0, 0.1]}
    level = {"label": "c", "mean": [0.5], "std": [0.1]}
    assert "Shaded" not in plots.overlay_caption([curve, level]) and "Shaded" in plots.overlay_caption([curve, band])
    assert "horizontal line" in plots.overlay_caption([curve, level])
    assert "horizontal line" not in plots.overlay_caption([curve, band])
    assert "Vertical axis: accuracy in per cent," in plots.overlay_caption([curve])
    assert "Vertical axis: error," in plots.overlay_caption([curve], "error")


def run_report(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["report", *map(str, words)])
    report.main()


def test_the_command_writes_several_formats_and_the_caption_below_the_picture(tmp_path, monkeypatch, capsys):
    write(tmp_path), write(tmp_path, "joint", group="g2", capacity=None, so_far=None)
    run_report(monkeypatch, tmp_path, "--format", "pdf,svg", "--no-titles")
    for name, start in (("svg", b"<?xml"), ("pdf", b"%PDF")):
        assert (tmp_path / f"report.{name}").read_bytes().startswith(start)
    assert "written: report.md, report.tex, report.csv, report.pdf, report.svg in " in capsys.readouterr().out
    picture, caption = (tmp_path / "report.md").read_text().rstrip().split("\n\n")[-2:]
    assert picture == "![average accuracy over tasks](report.svg)"
    assert caption == plots.overlay_caption(report.curves(groups.load([tmp_path])))
    assert r"er & 200 & 1 & 50.00 & 25.00 & $-$25.00 & 2.0 \\" in (tmp_path / "report.tex").read_text()
    with pytest.raises(SystemExit, match="2"):
        run_report(monkeypatch, tmp_path, "--format", "jpg")
    assert "'jpg' is none of png, pdf, svg" in capsys.readouterr().err


@pytest.mark.parametrize("titles", [True, False])
def test_the_title_of_the_report(tmp_path, monkeypatch, titles):
    write(tmp_path)
    seen = []
    monkeypatch.setattr(plots, "draw_overlay", lambda path, lines, title, *more: seen.append(title))
    run_report(monkeypatch, tmp_path, *([] if titles else ["--no-titles"]))
    assert seen == ["scenario class2, dataset digits, backbone mlp, strategy er, buffer 200" if titles else ""]


def test_single_networks_have_rows_beside_published_figures_of_them(tmp_path, monkeypatch, capsys):
    merged(tmp_path, 0, "avg", (0.5, 0.7, 0.9))
    file = tmp_path / "figures.yaml"
    file.write_text("source: x\nrows: [{where: {strategy: network 2 alone}, average_accuracy: [71, 0.5]}]")
    run_report(monkeypatch, tmp_path)
    assert "network 2" not in capsys.readouterr().out
    run_report(monkeypatch, tmp_path, "--published", file)
    out = capsys.readouterr().out
    assert "network 1" not in out and "a network alone (mean of 3)" in out
    (line,) = (line for line in out.splitlines() if line.startswith("network 2 alone"))
    assert line.split()[3:] == ["1", "70.00", "71.00", "±", "0.50", "-2.0", "-", "-"]


def test_tests_at_intervals_of_seeds_are_put_together_at_the_steps_of_the_first(tmp_path):
    for seed, tests in enumerate(([[10, 0.2], [20, 0.6], [30, 0.8]], [[10, 0.4], [30, 0.6]])):
        write(tmp_path, seed=seed, evaluations=tests)
    write(tmp_path, "joint", accuracy=0.9, group="g2")
    (line,) = report.anytime_curves(groups.load([tmp_path]))
    assert line["steps"] == [10, 20, 30]
    assert line["mean"] == pytest.approx([0.3, 0.55, 0.7])  # the second seed has 0.5 after 20 steps
    assert line["std"] == pytest.approx([0.2 / 2**0.5, 0.1 / 2**0.5, 0.2 / 2**0.5])
    plots.draw_anytime(tmp_path / "report_anytime", [line, line | {"label": "again"}], "", ["png"])
    assert (tmp_path / "report_anytime.png").read_bytes().startswith(b"\x89PNG")
