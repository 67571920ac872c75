"""What the rows and columns of a table are: what tells rows apart, in which words, and which costs have a column."""

import csv
import json
import re
import sys

import pytest
from test_report import merged, write

from cl.reporting import groups, report, tables
from cl.run import cli


def described(folder) -> list[dict[str, str]]:
    """What the first columns say of each row."""
    found = groups.load([folder])
    named = tables.names(found)
    heading, cells = tables.rows(found)
    assert heading[: len(named)] == named
    return [dict(zip(named, row)) for row in cells]


def with_config(folder, fusion="avg", init="shared", **own):
    """A merge whose configuration is that of merge.py with some options of its own."""
    options = {
        "checkpoints": None, "run": None, "initial": None, "weighting": "uniform", "sequential": False,
        "running": False, "batch_norm_samples": 2000, "finetune_samples": 0, "finetune_epochs": 1,
    }  # fmt: skip
    number = len(list(folder.rglob("results.json")))
    path = merged(folder / str(number), 0, fusion, accuracy=0.5)
    run = json.loads(path.read_text())
    own = options | own
    strategy = {"name": "independent", "memory": False, "init": init, "fusion": None}
    if init == "merged":  # as merge.py has it
        of_merge = {key: own[key] for key in ("weighting", "running", "finetune_samples", "finetune_epochs")}
        strategy["fusion"] = {"name": fusion, "_target_": "merging.means.avg.Avg"} | of_merge
    run |= {"group": f"{fusion}{number}", "models_group": f"m{number}"}
    run["config"] |= own | {"fusion": {"name": fusion}, "strategy": strategy}
    path.write_text(json.dumps(run))
    return path


def test_the_column_of_differences_has_no_keys_that_were_not_used(tmp_path):
    with_config(tmp_path, finetune_samples=0, finetune_epochs=5)
    with_config(tmp_path, finetune_samples=200, finetune_epochs=5)
    with_config(tmp_path, finetune_samples=200, finetune_epochs=1)
    assert [row["with"] for row in described(tmp_path) if row["strategy"] == "avg"] == [
        "finetune_samples=0", "finetune_epochs=5 finetune_samples=200", "finetune_epochs=1 finetune_samples=200",
    ]  # fmt: skip


def test_two_rows_that_differ_in_an_unused_key_alone_are_told_apart_by_it(tmp_path):
    for epochs in (5, 1):
        with_config(tmp_path, finetune_epochs=epochs)
    assert [row["with"] for row in described(tmp_path) if row["strategy"] == "avg"] == [
        "finetune_epochs=5", "finetune_epochs=1",
    ]  # fmt: skip


def test_the_column_of_differences_is_in_the_words_of_the_command_line_and_says_each_thing_once(tmp_path):
    for init in ("shared", "merged"):
        for running in (True, False):
            with_config(tmp_path, init=init, running=running)
    rows = described(tmp_path)
    assert [row["with"] for row in rows if row["strategy"] == "avg"] == [
        f"running={running} strategy.init={init}" for init in ("shared", "merged") for running in ("true", "false")
    ]
    alone = [row["with"] for row in rows if row["strategy"] != "avg"]
    assert alone[2:] == [
        f"strategy.fusion=avg strategy.fusion.running={running} strategy.init=merged" for running in ("true", "false")
    ]


def test_rows_of_one_strategy_stand_together_in_order_of_appearance(tmp_path):
    for number, (strategy, scenario) in enumerate(
        [("er", "class2"), ("der", "class2"), ("er", "class5"), ("er", "class2")]
    ):
        write(tmp_path / str(number), strategy, group=f"g{number}", capacity=number, scenario=scenario)
    found = [
        (group.label["strategy"], group.label["scenario"], group.label["buffer"]) for group in groups.load([tmp_path])
    ]
    assert found == [("er", "class2", "0"), ("er", "class2", "3"), ("der", "class2", "1"), ("er", "class5", "2")]


COUNTED = {"passes": 7210.0, "persistent_bytes": 78000}
BEFORE = {"labelled_samples": 7210, "gradient_steps": 725, "buffer_bytes": 16000, "unlabelled_samples": 0}


def costs(folder) -> list[str]:
    heading, _ = tables.rows(groups.load([folder]))
    return heading[heading.index("forgetting %") + 1 : -1]


def test_passes_and_kept_bytes_take_the_place_of_steps_and_stored_bytes(tmp_path):
    write(tmp_path, **COUNTED, **BEFORE)
    merged(tmp_path, 0, **BEFORE, **COUNTED | {"passes": 9000.0, "merge_passes": 1790.0})
    heading, cells = tables.rows(groups.load([tmp_path]))
    assert costs(tmp_path) == ["passes", "of these to merge", "kept kB"]
    assert [row[-4:-1] for row in cells] == [["7210", "-", "78"], ["-", "-", "-"], ["9000", "1790", "78"]]
    write(tmp_path / "older", "der", group="g3", **BEFORE)  # of an earlier version: both, and nothing is made up
    assert costs(tmp_path) == [
        "passes", "of these to merge", "kept kB", "labelled samples", "steps", "stored kB",
    ]  # fmt: skip


def test_results_of_earlier_versions_have_their_columns_without_those_that_are_zero_in_all_rows(tmp_path):
    write(tmp_path, **BEFORE)
    merged(tmp_path, 0, **BEFORE, merge_labelled_samples=0)
    assert costs(tmp_path) == ["labelled samples", "steps", "stored kB"]
    merged(tmp_path, 1, **BEFORE | {"unlabelled_samples": 10}, merge_labelled_samples=0)
    assert costs(tmp_path) == ["labelled samples", "unlabelled", "steps", "stored kB"]


def test_no_two_columns_have_one_heading(tmp_path):
    merged(tmp_path, 0, **COUNTED, merge_passes=1790.0)
    merged(tmp_path, 1, "ties", **BEFORE, merge_labelled_samples=1437)
    heading, _ = tables.rows(groups.load([tmp_path]))
    assert {"of these to merge", "labelled to merge"} <= set(heading) and len(heading) == len(set(heading))
    titles = [column.title for column in tables.columns(groups.load([tmp_path]), everything=True)]
    assert len(titles) == len(set(titles))


COUNTS = {"forward_passes": 10, "backward_passes": 9, "unlabelled_forward_passes": 8, "unlabelled_backward_passes": 7}


@pytest.mark.parametrize("merging", [False, True])
def test_all_costs_are_in_the_csv_whether_there_are_merges_or_not(tmp_path, merging):
    costs = COUNTED | COUNTS | {"flops": 6e9, "optimizer_bytes": 5}
    for seed in (0, 1):
        write(tmp_path, seed=seed, **costs)
    if merging:
        merged(tmp_path, 0, **costs)
    first, *_ = csv.DictReader(tables.as_csv(groups.load([tmp_path])).splitlines())
    assert {key: float(first[f"{key}_mean"]) for key in costs} == costs


def test_networks_of_different_runs_are_told_apart_by_their_run(tmp_path):
    for key, value in (("run", "runs/a/seed0"), ("run", "runs/b/seed0"), ("checkpoints", ["a.pt", "b.pt"])):
        with_config(tmp_path, **{key: value})
    alone = [row["with"] for row in described(tmp_path) if row["strategy"] != "avg"]
    assert len(set(alone)) == 3 and "run=runs/a" in alone[0] and 'checkpoints=["a.pt","b.pt"]' in alone[2]


def test_what_all_rows_have_in_common_leaves_out_what_they_do_not_have(tmp_path):
    write(tmp_path, capacity=None)
    assert tables.caption(groups.load([tmp_path])) == "scenario class2, dataset digits, backbone mlp, strategy er"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_nothing_that_is_printed_is_wider_than_the_terminal(tmp_path, monkeypatch, capsys, width):
    made = [{"remerge": "0.2.0", "git_commit": commit} for commit in ("aaa", "bbb")]
    for number in range(12):
        with_config(tmp_path / "runs", finetune_samples=number, finetune_epochs=5)
        write(tmp_path / "runs", "finetune", group=f"f{number}", capacity=number, versions=made[number % 2])
    found = groups.load([tmp_path / "runs"])
    wide = tables.as_text(found)
    assert max(map(len, wide.splitlines())) > 150 and "Made with 2 versions" in wide
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "runs"), "--output", str(tmp_path)])
    report.main()
    assert wide in capsys.readouterr().out  # no terminal
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.chdir(tmp_path)
    report.main()
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()  # the heading is bold
    assert max(map(len, lines)) <= width
    table = lines[: next(i for i, line in enumerate(lines) if line.startswith("not shown for") or not line)]
    # The table at the end of run.py and merge.py
    monkeypatch.setattr(sys, "argv", ["run.py"])
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(SystemExit, match="0"):
        cli.launch(lambda: cli._finished_runs.append(tmp_path / "runs"), "run")
    said = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, said)) <= width and said[1 : 1 + len(table)] == table and len(table) > 20
    assert said[-1].split() == ["in", "runs:", "results.json"]


def test_a_bar_in_a_cell_is_no_new_column_in_markdown(tmp_path):
    write(tmp_path, "a|b"), write(tmp_path, "c", group="g2")
    lines = tables.as_markdown(groups.load([tmp_path])).splitlines()
    assert lines[4].startswith(r"| a\|b | ") and len({line.replace(r"\|", "").count("|") for line in lines[2:6]}) == 1
