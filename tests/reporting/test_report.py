"""Tables of finished runs: grouping, mean and deviation, what tells groups apart, and the files of the command."""

import csv
import json
import shutil
import subprocess
import sys

import pytest
from support import ROOT

from cl.reporting import groups, report, tables
from cl.reporting.published import Published


def write(folder, strategy="er", seed=0, accuracy=0.5, group="g1", capacity=200, lr=0.1, so_far=(0.9, 0.5), **more):
    run = {
        "kind": "run", "group": group, "strategy": strategy, "scenario": "class2", "dataset": "digits",
        "backbone": "mlp", "buffer_capacity": capacity, "seed": seed, "average_accuracy": accuracy,
        "task_average_accuracy": None, "forgetting": 0.25, "backward_transfer": -0.25, "forward_transfer": None,
        "train_seconds": 2.0, "accuracy_so_far": None if so_far is None else list(so_far), "world_size": 1,
        "config": {
            "seed": seed, "optimizer": {"lr": lr}, "output": str(folder), "loader": {"name": "workers"},
            "strategy": {"name": strategy, "memory": capacity is not None}, "buffer": {"timeout": 30.0},
            "dataset": {"name": "digits"},
        },
    } | more  # fmt: skip
    path = folder / f"{strategy}_{group}" / f"seed{seed}" / "results.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(run))
    return path


def test_seeds_are_put_together_with_mean_and_sample_standard_deviation(tmp_path):
    for seed, accuracy in enumerate((0.4, 0.5, 0.6)):
        write(tmp_path, seed=seed, accuracy=accuracy)
    write(tmp_path, "joint", accuracy=0.9, group="g2", capacity=None, so_far=None)
    heading, cells = tables.rows(groups.load([tmp_path]))
    assert heading == ["strategy", "buffer", "seeds", "accuracy %", "forgetting %", "backward %", "train s"]
    assert cells[0] == ["er", "200", "3", "50.00 ± 10.00", "25.00 ± 0.00", "-25.00 ± 0.00", "2.0 ± 0.0"]
    assert cells[1][:4] == ["joint", "-", "1", "90.00"]  # one seed has no deviation


def test_hidden_folders_below_a_path_are_passed_over(tmp_path):
    write(tmp_path / ".all")
    write(tmp_path / ".all" / ".study", "joint", group="g2", capacity=None)
    assert [group.label["strategy"] for group in groups.load([tmp_path / ".all"])] == ["er"]
    with pytest.raises(FileNotFoundError):
        groups.load([tmp_path])


def test_a_measure_that_a_run_does_not_have_is_no_zero(tmp_path):
    write(tmp_path, forward_transfer=0.1)
    write(tmp_path, "joint", group="g2", forgetting=None)
    heading, cells = tables.rows(groups.load([tmp_path]))
    assert cells[1][heading.index("forward %")] == "-" and cells[1][heading.index("forgetting %")] == "-"


def test_groups_with_the_same_names_are_told_apart_by_what_differs(tmp_path):
    write(tmp_path, group="g1", lr=0.1)
    write(tmp_path, group="g2", lr=0.3)
    heading, cells = tables.rows(groups.load([tmp_path]))
    assert [row[heading.index("with")] for row in cells] == ["optimizer.lr=0.1", "optimizer.lr=0.3"]


def test_only_what_names_a_configuration_tells_groups_apart(tmp_path):
    # The right answer is that of the folder's name: keys that two configurations with one name may differ in.
    more = {"progress": True, "log_interval": 100, "launcher": {"np": 1}, "batch_size": 10}
    for number, change in enumerate(({"batch_size": 20}, {"progress": False, "log_interval": 7, "batch_size": 10})):
        path = write(tmp_path, group=f"g{number}", world_size=number + 1)
        run = json.loads(path.read_text())
        run["config"] |= more | change
        path.write_text(json.dumps(run))
    heading, cells = tables.rows(groups.load([tmp_path]))
    assert [row[heading.index("with")] for row in cells] == ["batch_size=20 ranks=1", "batch_size=10 ranks=2"]


def test_a_run_that_lies_in_several_places_counts_once(tmp_path, monkeypatch):
    path = write(tmp_path / "a")
    copy = write(tmp_path / "b")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    (group,) = groups.load([path, tmp_path, path.parent, copy, tmp_path / "link", path.relative_to(tmp_path)])
    assert len(group.runs) == 1
    write(tmp_path / "b", seed=1, accuracy=0.7)
    (group,) = groups.load([tmp_path / "a", tmp_path / "b"])
    assert group.values("average_accuracy") == [0.5, 0.7]


def test_a_run_with_two_results_is_an_error_that_names_both(tmp_path):
    write(tmp_path / "a"), write(tmp_path / "b", accuracy=0.6)
    with pytest.raises(ValueError, match="a/er_g1/seed0/.* and .*b/er_g1/seed0/.* are the same run"):
        groups.load([tmp_path])


def test_seeds_are_in_the_order_of_their_numbers(tmp_path):
    for seed in (10, 2, 1):
        write(tmp_path, seed=seed)
    assert [run["seed"] for run in groups.load([tmp_path])[0].runs] == [1, 2, 10]


@pytest.mark.parametrize("given, written", [(["x/er_g1"], "x/er_g1"), (["x/er_g1", "y"], "."), (["x", "y"], ".")])
def test_a_report_goes_to_the_one_folder_given_or_to_where_the_user_is(tmp_path, monkeypatch, given, written):
    write(tmp_path / "x"), write(tmp_path / "y", "der")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "argv", ["report", *(str(tmp_path / path) for path in given)])
    report.main()
    place = tmp_path / "here" if written == "." else tmp_path / written
    assert {path.parent for path in tmp_path.rglob("report.*")} == {place}


def test_a_folder_without_results_and_a_strange_file_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no results.json at or below"):
        groups.load([tmp_path])
    (tmp_path / "results.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="is not a result of remerge"):
        groups.load([tmp_path])


def test_the_command_writes_table_numbers_and_plot_without_torch(tmp_path):
    for seed, accuracy in enumerate((0.4, 0.6)):
        write(tmp_path, seed=seed, accuracy=accuracy, so_far=(0.9, accuracy))
    write(tmp_path, "joint", group="g2", capacity=None, so_far=None)
    code = (
        "import sys; sys.argv[0] = 'report'; from cl.reporting import report; report.main(); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "50.00 ± 14.14" in done.stdout and "scenario class2, dataset digits, backbone mlp" in done.stdout
    markdown = (tmp_path / "report.md").read_text()
    assert "| er | 200 | 2 | 50.00 ± 14.14 |" in markdown and "A[T,j]" in markdown
    er, joint = csv.DictReader((tmp_path / "report.csv").open())
    assert float(er["average_accuracy_mean"]) == pytest.approx(0.5)
    assert float(er["average_accuracy_std"]) == pytest.approx(0.02**0.5)
    assert joint["average_accuracy_std"] == "" and joint["buffer"] == "-"
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_lines_of_the_overlay_carry_the_deviation_at_each_task(tmp_path):
    write(tmp_path, seed=0, so_far=(1.0, 0.4))
    write(tmp_path, seed=1, so_far=(0.8, 0.4))
    write(tmp_path, "joint", group="g2", so_far=None, accuracy=0.7)
    er, joint = report.curves(groups.load([tmp_path]))
    assert er["mean"] == pytest.approx([0.9, 0.4]) and er["std"] == pytest.approx([0.02**0.5, 0.0])
    assert joint["mean"] == [0.7] and joint["std"] is None


def test_pictures_are_written_in_every_format(tmp_path):
    from cl.reporting import plots

    run = {
        "strategy": "er", "scenario": "class2", "dataset": "digits", "task_aware": False,
        "accuracy_matrix": [[0.9, 0.0], [0.5, 0.8]], "task_accuracy_matrix": None, "accuracy_so_far": [0.9, 0.65],
    }  # fmt: skip
    plots.draw_run(tmp_path, run, ["png", "pdf", "svg"])
    starts = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    for name in ("accuracy_matrix", "average_accuracy"):
        for suffix, start in starts.items():
            assert (tmp_path / f"{name}.{suffix}").read_bytes().startswith(start)
    joint = run | {"accuracy_matrix": [[0.9, 0.8]], "accuracy_so_far": None}
    plots.draw_run(tmp_path / "joint", joint, ["png"])
    assert [file.name for file in (tmp_path / "joint").iterdir()] == ["accuracy_matrix.png"]


def test_runs_of_several_versions_are_told_apart(tmp_path):
    made = [{"remerge": "0.2.0", "git_commit": "aaa"}, {"remerge": "0.2.0", "git_commit": "bbb"}]
    for seed, versions in enumerate((made[0], made[0], made[1])):
        write(tmp_path, "er", seed, versions=versions)
    text = tables.as_text(groups.load([tmp_path]))
    assert text.splitlines()[-1].startswith("Made with 2 versions: remerge 0.2.0, commit aaa: ")
    assert "seed 0 and 1 more; remerge 0.2.0, commit bbb: " in text and text.endswith("seed 2.")
    assert "Made with 2 versions" in tables.as_markdown(groups.load([tmp_path]))
    shutil.rmtree(next(path.parent for path in tmp_path.rglob("results.json") if "bbb" in path.read_text()))
    assert "Made with" not in tables.as_text(groups.load([tmp_path]))


def merged(folder, seed, fusion="avg", accuracies=(0.5, 0.7), **more):
    return write(
        folder, "independent", seed, group=fusion, capacity=None, so_far=None, kind="merge", fusion=fusion,
        models_group="m", model_accuracies=list(accuracies), **more,
    )  # fmt: skip


def test_each_merged_network_has_a_row_once(tmp_path):
    for seed in range(2):
        for fusion in ("avg", "ties"):
            merged(tmp_path / fusion, seed, fusion, (0.5 + seed / 10, 0.7), accuracy=0.8)
    _, cells = tables.rows(groups.load([tmp_path]))
    assert [row[0] for row in cells] == ["a network alone (mean of 2)", "avg", "ties"]
    assert "62.50 ± 3.54" in cells[0]
    heading, cells = tables.rows(groups.load([tmp_path], ["network 1 alone", "network 2 alone", "network 3 alone"]))
    table = {row[0]: row for row in cells}
    assert list(table) == ["network 1 alone", "network 2 alone", "avg", "ties"]
    accuracy = heading.index("accuracy %")
    assert table["network 1 alone"][accuracy] == "55.00 ± 7.07" and table["network 2 alone"][accuracy] == "70.00 ± 0.00"
    assert table["network 1 alone"][heading.index("seeds")] == "2" and table["avg"][accuracy] == "80.00 ± 0.00"
    merged(tmp_path / "many", 0, "magmax", [0.1 * number for number in range(1, 8)])
    _, cells = tables.rows(groups.load([tmp_path / "many"]))
    assert [row[0] for row in cells] == ["a network alone (mean of 7)", "magmax"] and "40.00" in cells[0]
    _, cells = tables.rows(groups.load([tmp_path / "many"], ["network 2 alone"]))
    assert [row[0] for row in cells] == ["network 2 alone", "a network alone (mean of 7)", "magmax"]
    assert "20.00" in cells[0]


def test_published_figures_stand_beside_the_runs_that_they_are_of(tmp_path):
    for seed, accuracy in enumerate((0.4, 0.6)):
        write(tmp_path, seed=seed, accuracy=accuracy, lr=0.1)
        write(tmp_path, seed=seed, accuracy=accuracy, lr=0.3, group="g2")
    file = tmp_path / "figures.yaml"
    file.write_text(
        "source: a paper\nrows:\n"
        "- {where: {strategy: er, optimizer.lr: 0.3, buffer: 200}, average_accuracy: [55, 2.5]}\n"
        "- {where: {strategy: der}, average_accuracy: [1, 1]}"
    )
    published = Published.read(file)
    heading, cells = tables.rows(groups.load([tmp_path]), published)
    at = heading.index("published")
    assert heading[at - 1 : at + 2] == ["accuracy %", "published", "off by, in its std"]
    assert [row[at - 1 : at + 2] for row in cells] == [
        ["50.00 ± 14.14", "-", "-"],
        ["50.00 ± 14.14", "55.00 ± 2.50", "-2.0"],
    ]
    assert "Published: a paper" in tables.as_markdown(groups.load([tmp_path]), published)
    for text in ("rows: 3", "source: x\nrows: [{where: {a: 1}, forgetting: [1, 0]}]", "source: [", "rows: []"):
        file.write_text(text)
        with pytest.raises(ValueError, match="figures.yaml has no published figures as cl/reporting/published.py"):
            Published.read(file)


@pytest.mark.parametrize("file", sorted((ROOT / "docs" / "published").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_shipped_figures_can_be_read(file):
    published = Published.read(file)
    assert published.source and len(published.rows) >= 4
