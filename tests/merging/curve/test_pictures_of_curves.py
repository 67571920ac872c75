"""Pictures of curves: what their ends are called, where the result is, and which losses get a colour."""

import json

import numpy as np
import pytest
from matplotlib import image

from cl.reporting import plots
from merging import run
from merging.curve import pictures
from merging.curve.ends import names_of_ends

OPTIONS = (
    "fusion=curve", "scenario=class5", "progress=false", "pictures=[]", "baselines=[]", "backbone.hidden=[8]",
    "epochs=1", "fusion.epochs=1", "fusion.points=3", "fusion.plane=0", "fusion.samples_per_task=10",
)  # fmt: skip


@pytest.mark.parametrize(
    "number, merged, start, ends, expected",
    [
        (1, 0, "model", "models", ("network 1", "network 2")),
        (2, 0, "model", "models", ("merge of networks 1 and 2", "network 3")),
        (4, 0, "model", "models", ("merge of networks 1 to 4", "network 5")),
        (1, 4, "model", "models", ("merge of networks 1 to 4", "network 5")),  # running: one step at a time
        (1, 1, "model", "models", ("network 1", "network 2")),
        (1, 0, "average", "models", ("average of networks 1 and 2", "network 2")),
        (4, 0, "average", "models", ("average of network 5 and the merge of networks 1 to 4", "network 5")),
        (1, 0, "model", "untrained", ("untrained network 1", "untrained network 2")),
        (4, 0, "model", "untrained", ("merge of untrained networks 1 to 4", "untrained network 5")),
        (1, 4, "model", "untrained", ("untrained network 1", "untrained network 2")),  # of this step alone
        (1, 0, "average", "untrained", ("average of untrained networks 1 and 2", "untrained network 2")),
    ],
)
def test_the_ends_are_named_for_what_they_are(number, merged, start, ends, expected):
    assert names_of_ends(number, merged, start, ends) == expected


@pytest.mark.parametrize("how", ["running=false", "running=true", "sequential=true"])
def test_the_results_name_the_ends_of_the_last_curve(compose_config, how):
    config = compose_config(*OPTIONS, how, name="merge")
    found = json.loads((run.run(config)[-1] / "results.json").read_text())
    assert found["curve"]["ends"] == ["merge of networks 1 to 4", "network 5"]


def valley(peak: float) -> dict:
    """A plane whose loss is 0.1 on a bow from (0, 0) to (10, 0) and rises away from it, up to `peak` in a corner."""
    xs, ys = np.linspace(-5, 15, 41), np.linspace(-5, 15, 41)
    path = [(10 * t, 20 * t * (1 - t)) for t in np.linspace(0, 1, 61)]
    away = np.array([[min(np.hypot(x - a, y - b) for a, b in path) for x in xs] for y in ys])
    loss = 0.1 + 0.2 * away**2
    loss[-1, -1] = peak
    points = {"first end": (0.0, 0.0), "last end": (10.0, 0.0), "control point": (5.0, 10.0)}
    return {"x": xs.tolist(), "y": ys.tolist(), "loss": loss.tolist(), "points": points, "path": path}


@pytest.mark.parametrize("peak", [50.0, 1e6, float("inf"), float("nan")])
def test_the_colours_are_for_the_valley_however_high_the_corners_are(peak):
    plane = valley(peak)
    levels = pictures.levels_of(plane)
    assert levels == pictures.levels_of(valley(60.0)) and levels == sorted(set(levels))
    loss = np.array(plane["loss"])
    lowest = np.nanmin(loss)
    assert levels[0] == lowest
    # The line is the bow's height, 5, away from it in its middle: loss 0.1 + 0.2 * 5^2, or a little less between points
    assert levels[-1] - lowest == pytest.approx(pictures.REACH * 0.2 * 4.4**2, rel=0.15)
    assert len([level for level in levels if level < 0.1 + 0.2 * 1**2]) >= 5  # within a distance of one of the curve


def test_a_flat_plane_has_levels_as_well():
    plane = valley(1.0) | {"loss": [[0.5] * 41] * 41}
    levels = pictures.levels_of(plane)
    assert levels == sorted(set(levels)) and len(levels) == pictures.LEVELS


@pytest.mark.parametrize("strange", [float("inf"), float("nan")])
@pytest.mark.parametrize("where", ["everywhere", "on curve and line"])
def test_losses_that_are_finite_nowhere_have_a_picture(tmp_path, strange, where):
    plane = valley(50.0)
    loss = np.array(plane["loss"])
    loss[: 30 if where == "on curve and line" else None] = strange
    plane["loss"] = loss.tolist()
    levels = pictures.levels_of(plane)
    assert np.isfinite(levels).all() and levels == sorted(set(levels)) and len(levels) == pictures.LEVELS
    if where == "on curve and line":
        finite = loss[np.isfinite(loss)]
        assert levels[0] == finite.min()
        assert levels[-1] == pytest.approx(levels[0] + pictures.REACH * (finite.max() - finite.min()))
    found = along(10.0) | {
        f"{prefix}{split}_loss": [strange] * 11 for prefix in ("", "line_") for split in ("train", "test")
    }
    pictures.draw_curve(tmp_path, found | {"plane": plane}, "", ["png"])
    assert {path.name for path in tmp_path.iterdir()} == {"curve.png", "curve_plane.png"}


def test_the_result_lies_where_its_t_is_on_the_path():
    path = [(t * 60, t**2) for t in np.linspace(0, 1, 61)]
    assert pictures.place_on_path(path, 0.0) == path[0] and pictures.place_on_path(path, 1.0) == path[-1]
    for t in (0.25, 0.4, 0.505, 0.99):
        assert pictures.place_on_path(path, t) == pytest.approx((60 * t, t**2), abs=1e-3)


def figures(monkeypatch, tmp_path, found, title="a title") -> dict:
    drawn = {}
    monkeypatch.setattr(pictures, "save", lambda figure, path, formats: drawn.setdefault(path.name, figure))
    pictures.draw_curve(tmp_path, found, title, ["png"])
    return drawn


def along(top: float) -> dict:
    ts = [i / 10 for i in range(11)]
    curve, line = [0.1 + 0.01 * t for t in ts], [0.1 + top * t * (1 - t) for t in ts]
    found = {f"{split}_loss": curve for split in ("train", "test")}
    found |= {f"line_{split}_loss": line for split in ("train", "test")}
    found |= {f"{prefix}{split}_accuracy": [0.5] * 11 for prefix in ("", "line_") for split in ("train", "test")}
    return {"t": ts, "at": 0.3, "ends": ("merge of networks 1 to 4", "network 5")} | found


def test_both_pictures_mark_the_result_and_name_the_ends(monkeypatch, tmp_path):
    drawn = figures(monkeypatch, tmp_path, along(10.0) | {"plane": valley(50.0)})
    assert set(drawn) == {"curve", "curve_plane"}
    for axes in drawn["curve"].axes:
        label = " ".join(axes.get_xlabel().split())
        assert label == "t (0: merge of networks 1 to 4, 1: network 5)"
        (mark,) = (line for line in axes.get_lines() if line.get_label() == "t = 0.3, the result")
        assert list(mark.get_xdata()) == [0.3, 0.3]
    axes = drawn["curve_plane"].axes[0]
    texts = {" ".join(text.get_text().split()) for text in axes.texts}
    assert texts == {"merge of networks 1 to 4", "network 5", "control point", "t = 0.3, the result"}
    (star,) = (line for line in axes.get_lines() if line.get_marker() == "*")
    assert (star.get_xdata()[0], star.get_ydata()[0]) == pytest.approx((3.0, 20 * 0.3 * 0.7), abs=1e-2)
    assert axes.get_title() == "a title" == drawn["curve"].get_suptitle()
    drawn = figures(monkeypatch, tmp_path, along(10.0) | {"plane": valley(50.0)}, title="")
    assert drawn["curve_plane"].axes[0].get_title() == "" == drawn["curve"].get_suptitle()


@pytest.mark.parametrize("peak", [float("inf"), float("nan")])
def test_a_loss_that_is_not_finite_has_the_colour_of_the_highest(tmp_path, peak):
    found = {"at": 0.5, "ends": ("network 1", "network 2")}
    for folder, value in (("strange", peak), ("high", 1e6)):
        (tmp_path / folder).mkdir()
        plane = valley(value)
        plane["loss"][-10:] = [[value] * 41] * 10
        pictures.draw_curve(tmp_path / folder, found | {"plane": plane}, "", ["png"])
    strange, high = (image.imread(tmp_path / folder / "curve_plane.png") for folder in ("strange", "high"))
    assert np.abs(strange - high).mean() < 0.01


def test_what_was_measured_is_drawn(monkeypatch, tmp_path):
    assert set(figures(monkeypatch, tmp_path, along(1.0))) == {"curve"}
    plane = {"at": 0.5, "ends": ("network 1", "network 2"), "plane": valley(50.0)}
    assert set(figures(monkeypatch, tmp_path, plane)) == {"curve_plane"}


@pytest.mark.parametrize("top, scale", [(100.0, "log"), (0.5, "linear")])
def test_a_high_barrier_does_not_flatten_the_curve(monkeypatch, tmp_path, top, scale):
    axes = figures(monkeypatch, tmp_path, along(top))["curve"].axes[0]
    assert axes.get_yscale() == scale
    low, high = axes.get_ylim()
    assert len([tick for tick in axes.get_yticks() if low <= tick <= high]) >= 2


def test_no_picture_of_a_merge_or_of_its_training_has_a_title_where_none_is_wanted(compose_config, monkeypatch):
    drawn = []
    for module in (plots, pictures):
        monkeypatch.setattr(module, "save", lambda figure, path, formats: drawn.append((path.name, figure)))
    words = (*OPTIONS, "scenario=class2", "fusion.plane=2", "pictures=[png]")
    config = compose_config(*words, "picture_titles=false", name="merge")
    folder = run.run(config)[-1]
    names = [name for name, _ in drawn]
    assert names == ["accuracy_matrix", "average_accuracy", "accuracy_matrix", "curve", "curve_plane"]
    for _, figure in drawn:
        assert not figure.get_suptitle() and not any(axes.get_title() for axes in figure.axes)
    drawn.clear()
    assert run.run(compose_config(*words, "overwrite=true", name="merge"))[-1] == folder  # it does not name a run
    assert len(drawn) == len(names)
    assert all(figure.get_suptitle() or figure.axes[0].get_title() for _, figure in drawn)
