"""To which school the runs of any folder belong follows from what they did."""

import json

import pytest
from test_report import merged, write

from cl.reporting import groups
from cl.reporting.page import study
from cl.reporting.page.schools import school


def run(strategy, memory, **config):
    config = {"strategy": {"memory": memory}, "ema": None} | config
    return {"kind": "run", "strategy": strategy, "config": config}


def merge(fusion="avg", memory=False, of=None, **options):
    config = {"strategy": {"memory": memory}, "run": of, "ema": None, "fusion": {"name": fusion} | options}
    return {"kind": "merge", "strategy": "independent", "fusion": fusion, "config": config}


@pytest.mark.parametrize(
    "what, expected",
    [
        (run("derpp", True), "rehearsal"),
        (run("derpp", True, ema=0.99), "both"),
        (run("ewc", False), "regularisation"),
        (run("ewc", False, ema=0.99), "regularisation"),  # it replays nothing
        (run("joint", False), "bound"),
        (run("joint", False, ema=0.99), "bound"),
        (run("scratch", False), "bound"),
        (run("finetune", False), "bound"),
        (merge(), "merging"),
        (merge("curve", ends="models"), "merging"),
        (merge("curve", ends="untrained"), "control"),
        (merge("untrained"), "control"),
        (merge("last"), "control"),
        (merge(memory=True), "both"),
    ],
)
def test_the_school_of_a_run(what, expected):
    assert school(what) == expected


def test_the_merge_of_a_run_is_of_the_school_of_that_run(tmp_path):
    """Its own configuration has the strategy of merge.py, which trained nothing."""
    replay = write(tmp_path, "er").parent
    plain = write(tmp_path, "finetune", group="g2", capacity=None).parent
    assert school(merge(of=str(replay))) == "both" and school(merge(of=str(plain))) == "merging"
    assert school(merge("last", of=str(replay))) == "control"
    gone = str(tmp_path / "elsewhere" / replay.relative_to(tmp_path.parent))
    assert school(merge(of=gone)) == "unknown"
    assert school(merge(of=gone), [replay / "results.json"]) == "both"  # the folder has been moved
    (replay / "results.json").write_text("[]")
    with pytest.raises(ValueError, match="results.json is damaged .expected a JSON object"):
        school(merge(of=str(replay)))


def test_the_page_of_any_folder_knows_controls_and_both(tmp_path):
    replay = write(tmp_path, "er").parent
    for number, (fusion, of) in enumerate((("untrained", None), ("avg", str(replay)), ("ties", None))):
        path = merged(tmp_path, 0, fusion)
        content = json.loads(path.read_text())
        content["config"] |= {"run": of, "fusion": {"name": fusion}}
        content["models_group"] = f"m{number}"
        path.write_text(json.dumps(content))
    rows = study.of_groups(groups.load([tmp_path])).rows
    assert {row.name.split(",")[0]: row.school for row in rows} == {
        "er": "rehearsal", "untrained": "control", "avg": "both", "ties": "merging",
    }  # fmt: skip
