"""Metrics of one's own: from the command to results.json and the tables, without training where a run is finished.

The right values are computed here from the matrices, or are those of a run without the metric.
"""

import csv
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from support import QUICK, ROOT

from cl.configuration import identity
from cl.reporting import custom, groups, metrics, report, results, tables
from cl.reporting.reading import read_results
from cl.run import experiment
from cl.run.folder import finished_run, plain, run_folder
from cl.run.job import run_or_find
from cl.run.plan import make_plan
from cl.run.trainer import Trainer

EXAMPLES = ROOT / "docs" / "examples"
WORST = "+metrics.worst_task._target_=my_metrics.worst_task"
TRUST = "trust=[my_metrics,odd_metrics]"
SMALL = ("strategy=finetune", "scenario=class2", TRUST, *QUICK)

MODULE = """
import numpy, torch
value = 3
def text(matrix, untrained): return "0.5"
def truth(matrix, untrained): return True
def infinite(matrix, untrained): return float("inf")
def tensor(matrix, untrained): return torch.tensor(0.5)
def raises(matrix, untrained): return matrix[7][0]
def short(matrix): return 0.0
def any_names(A, A0, *, power: int): return numpy.float32(A[-1][0] ** power)
def undefined(matrix, untrained): return None
def spoils(matrix, untrained): matrix[0][0] = 7.0; untrained.clear(); return 0.0
def late(matrix, untrained): return None if untrained[0] == 0.1 else matrix[9][9]
"""


@pytest.fixture(autouse=True)
def modules(tmp_path, monkeypatch):
    """The modules of the documentation and those above can be imported."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "odd_metrics.py").write_text(MODULE)
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    yield
    sys.modules.pop("odd_metrics", None)


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*_):
        raise AssertionError("this trains")

    return lambda: monkeypatch.setattr(Trainer, "train", refuse)


def content_of(folder) -> dict:
    return read_results(folder / "results.json")


def test_a_metric_is_in_the_results_and_in_all_tables(compose_config):
    folder = experiment.run(compose_config(WORST, "+metrics.last._target_=my_metrics.worst_task", *SMALL,
                                           "+metrics.last.first=2"))  # fmt: skip
    content = content_of(folder)
    assert content["worst_task"] == min(content["accuracy_matrix"][-1])
    assert content["last"] == content["accuracy_matrix"][-1][1]
    found = groups.load([folder])
    heading, cells = tables.rows(found)
    assert heading[-3:-1] == ["worst task", "last"] and cells[0][-3] == f"{content['worst_task']:.4f}"
    markdown = tables.as_markdown(found)
    assert "- worst task: my_metrics.worst_task\n- last: my_metrics.worst_task(first=2)\n" in markdown
    (row,) = csv.DictReader(tables.as_csv(found).splitlines())
    assert float(row["last_mean"]) == content["last"]


def test_a_finished_run_gets_a_metric_without_training(compose_config, no_training):
    folder = experiment.run(compose_config(*SMALL))
    before = content_of(folder)
    no_training()
    asked = compose_config(*SMALL, WORST)
    assert run_folder(plain(asked)) == folder and finished_run(asked) == folder
    after = content_of(folder)
    node = {"_target_": "my_metrics.worst_task"}
    expected = before | {"worst_task": min(before["accuracy_matrix"][-1])}
    assert after == expected | {"config": before["config"] | {"metrics": {"worst_task": node}}}
    other = compose_config(*SMALL, WORST, "+metrics.worst_task.first=2")
    assert finished_run(other) == folder  # another meaning of the name
    assert content_of(folder)["worst_task"] == before["accuracy_matrix"][-1][1]
    modified = (folder / "results.json").stat().st_mtime_ns
    finished_run(other), finished_run(compose_config(*SMALL))
    assert (folder / "results.json").stat().st_mtime_ns == modified
    assert not list(folder.glob(".*"))


def test_a_metric_names_no_run(compose_config):
    assert identity.words(plain(compose_config(WORST, TRUST))) == identity.words(plain(compose_config()))


@pytest.mark.parametrize(
    "options, told",
    [
        ("+metrics.m._target_=my_metrics.nowhere.f", r"=my_metrics.nowhere.f cannot be imported \(ModuleNotFoundError"),
        ("+metrics.m._target_=odd_metrics.f", r"cannot be imported \(AttributeError.*has no such name"),
        ("+metrics.m._target_=odd_metrics.value", "metrics.m._target_=odd_metrics.value is not a class or function"),
        ("+metrics.m._target_=odd_metrics.text", r"metrics.m \(odd_metrics.text\) must return .* or None, got '0.5'"),
        ("+metrics.m._target_=odd_metrics.truth", "must return a finite number or None, got True"),
        ("+metrics.m._target_=odd_metrics.infinite", "must return a finite number or None, got inf"),
        ("+metrics.m._target_=odd_metrics.tensor", "must return a finite number or None, got tensor"),
        ("+metrics.m._target_=odd_metrics.raises", "failed with a matrix of 2 x 2: IndexError"),
        ("+metrics.m._target_=odd_metrics.short", r"must take \(matrix, untrained\), and it is short\(matrix\)"),
        ("+metrics.m._target_=odd_metrics.any_names", "metrics.m needs power"),
        ("+metrics.m._target_=my_metrics.worst_task +metrics.m.fist=1", "metrics.m.fist .did you mean first"),
        ("+metrics.m._target_=my_metrics.worst_task +metrics.m.first=x", "metrics.m.first must be a whole number"),
        ("+metrics.forgetting._target_=my_metrics.worst_task", "results.json has a forgetting already"),
        ("+metrics.error_matrix._target_=my_metrics.worst_task", "choose another name, my_error_matrix"),
        ("+metrics.m=3", r"metrics.m must say what it is, for example \+metrics.m._target_=my_metrics.worst_task, got"),
        ("+metrics.m.first=1", "metrics.m must say what it is"),
        ("+metrics.a-b._target_=my_metrics.worst_task", "metrics.a-b: a name has letters"),
    ],
)
def test_mistakes_are_said_before_training(compose_config, options, told):
    with pytest.raises(ValueError, match=told):
        make_plan(plain(compose_config(*options.split(" "), *SMALL)))


def test_what_a_function_may_be_and_give():
    matrix, untrained = [[0.5, 0.1], [0.25, 0.75]], [0.2, 0.3]
    assert custom.evaluate("m", {"_target_": "odd_metrics.any_names", "power": "2"}, matrix, untrained) == 0.0625
    assert custom.evaluate("m", {"_target_": "odd_metrics.undefined"}, matrix, untrained) is None
    assert custom.evaluate("m", {"_target_": "odd_metrics.spoils"}, matrix, untrained) == 0.0
    assert (matrix, untrained) == ([[0.5, 0.1], [0.25, 0.75]], [0.2, 0.3])


def test_a_metric_that_fails_in_the_end_leaves_complete_results(compose_config):
    config = compose_config("+metrics.m._target_=odd_metrics.late", *SMALL)
    with pytest.raises(ValueError, match="metrics.m .*IndexError.*adds the metric without training"):
        experiment.run(config)
    folder = run_folder(plain(config))
    assert "m" not in content_of(folder) and content_of(folder)["average_accuracy"] > 0
    assert not list(folder.glob("resume_*.pt"))


def test_a_merge_and_its_baselines_have_the_metric(compose_config):
    from merging import run

    options = ("baselines=[finetune]", "scenario=class2", WORST, TRUST, *QUICK)
    folders = run.run(compose_config(*options, name="merge"))
    assert len(folders) == 2
    for folder in folders:
        content = content_of(folder)
        assert content["worst_task"] == min(content["accuracy_matrix"][-1])
        assert content.keys() - {"worst_task"} <= custom.RESERVED
    again = compose_config(*options, "+metrics.worst_task.first=2", name="merge")
    assert run.run(again) == folders
    assert [content_of(folder)["worst_task"] == content_of(folder)["accuracy_matrix"][-1][1] for folder in folders]


def test_errors_are_what_a_metric_gets_where_they_are_measured():
    run = {"error_matrix": [[0.5, 2.0]], "untrained_error": [3.0, 3.0], "task_aware": False, "config": {}}
    custom.ask_of_runs([run], ["my_metrics.worst_task"])
    assert run["worst_task"] == 0.5


def test_task_aware_accuracies_are_what_a_metric_gets_where_the_task_is_known():
    run = {"accuracy_matrix": [[0.1]], "task_accuracy_matrix": [[0.9]], "untrained_accuracy": [0.5], "task_aware": True}
    assert metrics.measured(run) == ([[0.9]], [0.5])


def test_the_report_computes_a_metric_of_finished_runs(compose_config, monkeypatch, capsys):
    folder = experiment.run(compose_config(*SMALL))
    before = (folder / "results.json").read_bytes()
    command = ["report", str(folder), "--metric", "my_metrics.worst_task"]
    monkeypatch.setattr(sys, "argv", command)
    report.main()
    worst = min(content_of(folder)["accuracy_matrix"][-1])
    assert "worst task" in capsys.readouterr().out
    (row,) = csv.DictReader((folder / "report.csv").open())
    assert float(row["worst_task_mean"]) == worst and (folder / "results.json").read_bytes() == before
    monkeypatch.setattr(sys, "argv", [*command[:-1], "my_metrics.nothing"])
    with pytest.raises(SystemExit, match="^error: metrics.nothing._target_=my_metrics.nothing cannot be imported"):
        report.main()


def test_one_name_with_two_meanings_makes_no_table():
    nodes = ({"_target_": "my_metrics.worst_task"}, {"_target_": "my_metrics.worst_task", "first": 2})
    runs = [{"config": {"metrics": {"m": node}}} for node in nodes]
    with pytest.raises(ValueError, match=r"m is my_metrics.worst_task in some .* my_metrics.worst_task\(first=2\) in"):
        custom.of_runs(runs)


def test_the_command_finds_modules_where_the_user_is(tmp_path):
    (tmp_path / "near_metrics.py").write_text("def first(matrix, untrained):\n    return matrix[-1][0]\n")
    line = [sys.executable, str(ROOT / "run.py"), "+metrics.first._target_=near_metrics.first", "output=out", *SMALL,
            "trust=[near_metrics]"]  # fmt: skip
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.rglob("results.json")
    assert content_of(file.parent)["first"] == content_of(file.parent)["accuracy_matrix"][-1][0]
    assert "first" in done.stdout.splitlines()[-5].split()
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "own.yaml").write_text(
        "# @package _global_\nmetrics: {again: {_target_: near_metrics.first}, never: {_target_: nowhere.f}}\n"
    )
    more = ["--config-dir", "conf", "+experiment=own", "~metrics.never"]
    done = subprocess.run([*line, *more], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "finished before" in done.stdout and content_of(file.parent)["again"] == content_of(file.parent)["first"]
    line[2] = "metrics.first._target_=near_metrics.first"
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stderr == (
        "error: metrics.first._target_ is new, so it is set with a plus: +metrics.first._target_=VALUE\n"
    )


def test_a_metric_of_ours_is_one_entry(compose_config, monkeypatch):
    """Of one new entry follow results.json, the tables and the formulas, of accuracies and of errors."""
    entry = metrics.Metric(
        "worst_accuracy", lambda matrix, untrained: min(matrix[-1]), "min over j of A[T,j]", "max over j of E[T,j]",
        heading="worst accuracy", level=True,
    )  # fmt: skip
    new, new_errors = (*metrics.METRICS, entry), (*metrics.ERROR_METRICS, entry.of_errors())
    for module, name in ((metrics, "METRICS"), (tables, "METRICS")):
        monkeypatch.setattr(module, name, new)
    for module, name in ((metrics, "ERROR_METRICS"), (tables, "ERROR_METRICS")):
        monkeypatch.setattr(module, name, new_errors)
    folder = experiment.run(compose_config(*SMALL))
    content = content_of(folder)
    assert content["worst_accuracy"] == min(content["accuracy_matrix"][-1])
    found = groups.load([folder])
    heading, cells = tables.rows(found)
    assert cells[0][heading.index("worst accuracy %")] == f"{100 * content['worst_accuracy']:.2f}"
    assert "- worst accuracy: min over j of A[T,j]\n" in tables.as_markdown(found)
    errors = results.History([0.5], None, rows=[[0.25, 0.75]], measure="error")
    assert results.measures(errors, SimpleNamespace(task_aware=False, task_outputs=[]))["worst_error"] == 0.75
    assert replace(entry.of_errors()).title == "worst error" and not entry.of_errors().higher_is_better


def test_a_metric_of_some_seeds_is_never_the_mean_of_all(compose_config):
    folders = [experiment.run(compose_config(*SMALL, f"seed={seed}")) for seed in range(2)]
    finished_run(compose_config(*SMALL, WORST, "seed=0"))
    found = groups.load([folder.parent for folder in folders[:1]])
    value = read_results(folders[0] / "results.json")["worst_task"]
    assert f"{value:.4f} (1 of 2)" in tables.as_text(found)
    (row,) = csv.DictReader(tables.as_csv(found).splitlines())
    assert row["worst_task_mean"] == "" and row["average_accuracy_mean"] and row["seeds"] == "2"


def test_a_finished_run_says_which_loggers_have_not_heard_of_it(compose_config, capsys):
    config = compose_config(*SMALL)
    folder = run_or_find(config, [])
    capsys.readouterr()
    found = compose_config(*SMALL, "logger=[csv,tensorboard]")
    assert run_or_find(found, []) == folder
    assert f"not in tensorboard: python -m cl.report {folder} --tensorboard" in " ".join(
        capsys.readouterr().out.split()
    )
    (folder / "tensorboard").mkdir()
    run_or_find(found, [])
    assert "not in tensorboard" not in capsys.readouterr().out
