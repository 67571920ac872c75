"""remerge.run, sweep, merge and load: the same files and numbers as the commands."""

import importlib
import json
import pickle
import shutil
import signal
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from support import QUICK, command

import remerge
from cl import signals
from cl.atomic import write_json
from cl.configuration import place
from remerge.words import configuration

TINY = {"epochs": 1, "backbone.hidden": [16], "progress": False, "pictures": []}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def er(output):
    return remerge.run("strategy=er", "scenario=class5", seed=0, output=output, **TINY)


def test_a_run_has_the_numbers_of_its_file(er):
    content = json.loads((er.folder / "results.json").read_text())
    assert er.accuracy_matrix.tolist() == content["accuracy_matrix"] and er.accuracy_matrix.shape == (5, 5)
    assert er.average_accuracy == content["average_accuracy"] == pytest.approx(np.mean(er.accuracy_matrix[-1]))
    assert er.measures["forgetting"] == content["forgetting"] and "seed" not in er.measures
    assert list(er.metrics.columns[:4]) == ["stage", "epoch", "step", "loss"]
    assert er.metrics.step.iloc[-1] == content["gradient_steps"]
    with pytest.raises(AttributeError, match="acuracy is no entry"):
        er.acuracy  # noqa: B018
    with pytest.raises(ValueError, match="has no error_matrix, it has accuracy_matrix, task_accuracy_matrix"):
        er.error_matrix  # noqa: B018
    with pytest.raises(FileNotFoundError, match="expected the folder of a finished run"):
        remerge.Run(er.folder.parent)


def test_the_command_finds_the_run_of_a_notebook_and_the_notebook_that_of_the_command(er, output, capsys):
    done = command("strategy=er", "scenario=class5", *QUICK[:2], f"output={output}", "progress=false")
    assert f"finished before: {er.folder}" in done.stdout
    assert remerge.run("strategy=er", "scenario=class5", seed=0, output=output, **TINY) == er
    assert "finished before" in capsys.readouterr().out


def test_networks_are_those_that_were_tested(er, output):
    tasks = remerge.scenario("scenario=class5", seed=0)
    assert len(er.networks) == 5 and not er.network.training
    for network, row in zip(er.networks, er.accuracy_matrix):
        assert tasks.evaluate(network) == row.tolist()
    merged = remerge.merge("fusion=ensemble", scenario="class2", output=output, baselines=[], **TINY)
    with pytest.raises(ValueError, match="holds no network of backbone=mlp, as that of an ensemble"):
        merged.network  # noqa: B018


def test_a_sweep_is_a_table_over_the_seeds(er, output, capsys):
    runs = remerge.sweep("strategy=er,finetune", scenario="class5", seed=range(2), output=output, **TINY)
    assert [(run.strategy, run.seed) for run in runs] == [("er", 0), ("er", 1), ("finetune", 0), ("finetune", 1)]
    assert runs[0] == er and len(runs[1:]) == 3
    assert "run 4/4" in capsys.readouterr().out
    mean = np.mean([100 * run.average_accuracy for run in runs[:2]])
    assert f"{mean:.2f}" in repr(runs) and f"{mean:.2f}" in runs._repr_html_()
    frame = runs.frame
    assert isinstance(frame, pd.DataFrame) and len(frame) == 4
    assert frame.query("strategy == 'er' and seed == 0").average_accuracy.item() == er.average_accuracy
    assert frame.folder.tolist() == [str(run.folder) for run in runs]


def test_a_sweep_has_the_seeds_of_one_call(output, er):
    with pytest.raises(ValueError, match="^remerge.run gives one run, got seeds=2: remerge.sweep gives several$"):
        remerge.run("strategy=er", "scenario=class5", seeds=2, output=output, **TINY)
    words = ("strategy=er", "scenario=class5", f"output={output}", "seeds=2")
    found = remerge.sweep(*words, **TINY)
    assert [run.seed for run in found] == [0, 1] and found[0].folder == er.folder


def test_a_sweep_tells_of_its_failures_and_keeps_the_rest(output):
    with pytest.raises(remerge.SweepFailed, match="1 of 2 jobs failed") as caught:
        remerge.sweep("strategy=er", scenario="class5", output=output, **TINY, **{"optimizer.lr": [0.1, 1e30]})
    assert len(caught.value.runs) == 1 and "optimizer.lr=1e+30" in caught.value.failed[0].words
    assert "not finite" in caught.value.failed[0].error or "diverged" in caught.value.failed[0].error
    with pytest.raises(ValueError, match="did you mean er"):  # before the first job
        remerge.sweep("strategy=finetune,err", output=output, **TINY)


def test_a_frame_has_the_words_that_differ(output):
    remerge.sweep(strategy="er", scenario="class2", output=output / "words", **TINY, **{"buffer.capacity": [20, 40]})
    frame = remerge.load(output / "words")
    assert frame.buffer_capacity.tolist() == [20, 40] and frame["buffer.capacity"].tolist() == [20, 40]
    assert "optimizer.lr" not in frame and "epochs" not in frame  # equal in all runs
    with pytest.raises(FileNotFoundError):
        remerge.load(output / "nothing")


def test_a_merge_has_its_baselines(output):
    merged = remerge.merge("fusion=avg", scenario="class2", output=output, baselines=["finetune"], **TINY)
    assert merged.kind == "merge" and [run.strategy for run in merged.baselines] == ["finetune"]
    frame = remerge.load(output)
    trained = frame[(frame.scenario == "class2") & (frame.strategy == "independent")]
    identities = trained.folder.map(lambda folder: "fusion" not in "".join(remerge.Run(folder).identity))
    first, second = (network.state_dict() for network in remerge.Run(trained.folder[identities].item()).networks)
    for name, value in merged.network.state_dict().items():
        torch.testing.assert_close(value, (first[name] + second[name]) / 2)
    with pytest.raises(ValueError, match="remerge.study"):
        remerge.merge("study=equal_budget")


def test_a_study_gives_the_runs_of_its_rows(tmp_path, capfd):
    options = {"strategies": ["er"], "fusions": ["avg"], "orders": ["end"], "both": [], "controls": False,
               "search": None, "budgets": [20], "passes": 1, "jobs": 1}  # fmt: skip
    values = {f"study.{key}": value for key, value in options.items()} | {"scenario": "class2", "output": tmp_path}
    try:
        runs = remerge.study(seeds=[0], **values, **{"backbone.hidden": [16]})
    except ValueError as error:
        pytest.fail(f"{error}\n{capfd.readouterr()}")
    assert runs.page.is_file() and {"er"} <= {run.strategy for run in runs}
    assert {run.results["kind"] for run in runs} == {"run", "merge"}


def test_an_interrupted_cell_is_saved_and_goes_on(tmp_path, monkeypatch):
    words = ("strategy=er", "scenario=class2")
    values = {"output": tmp_path, **TINY, "checkpoint.every": 1000}
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    from cl.run.trainer import Trainer

    def interrupted(self, samples, stage, steps, train=Trainer.train):
        self.on_step = lambda step, loss: step == 3 and signal.raise_signal(signal.SIGINT)
        return train(self, samples, stage, steps)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train", interrupted)
        with pytest.raises(KeyboardInterrupt, match="saved|goes on"):
            remerge.run(*words, **values)
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before
    assert list(tmp_path.rglob("resume_*.pt"))
    resumed = remerge.run(*words, **values)
    whole = remerge.run(*words, **values | {"output": tmp_path / "whole"})
    assert resumed.results["accuracy_matrix"] == whole.results["accuracy_matrix"]


def test_networks_run_no_code_that_only_their_results_trust(er, tmp_path):
    content = json.loads((er.folder / "results.json").read_text())
    content.pop("checksum")
    content["config"]["backbone"] = {"name": "mlp", "_target_": "os.system", "command": f"touch {tmp_path / 'ran'}"}
    content["config"]["trust"] = ["os"]
    copy = shutil.copytree(er.folder, tmp_path / "copy")
    write_json(copy / "results.json", content)
    with pytest.raises(ValueError, match="backbone._target_=os.system is no component of remerge"):
        remerge.Run(copy).network  # noqa: B018
    assert not (tmp_path / "ran").exists()


def test_what_the_caller_draws_does_not_depend_on_a_run(output):
    drawn = []
    for _ in range(2):  # trained, found
        torch.manual_seed(1)
        remerge.run("strategy=finetune", "scenario=class2", seed=7, output=output / "draws", **TINY)
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


def test_folders_of_options_of_an_earlier_call_are_forgotten(tmp_path):
    for number in (5, 9):
        (tmp_path / str(number) / "strategy").mkdir(parents=True)
        (tmp_path / str(number) / "strategy" / "mine.yaml").write_text(
            "defaults: [er]\nname: mine\nmemory: true\nreplay_batch_size: " + str(number)
        )
        assert configuration("run", ["strategy=mine"], tmp_path / str(number)).strategy.replay_batch_size == number
        assert place.own_folders() == (tmp_path / str(number),)
    with pytest.raises(ValueError, match="strategy=mine does not exist"):
        configuration("run", ["strategy=mine"])


def test_two_modules_of_one_name_are_never_taken_for_one_another(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name / "conf").mkdir(parents=True)
        (tmp_path / name / "only_one_of_two.py").write_text(f"NAME = {name!r}")
    monkeypatch.setattr(sys, "path", list(sys.path))
    configuration("run", [], tmp_path / "a" / "conf")
    assert importlib.import_module("only_one_of_two").NAME == "a"
    with pytest.raises(ValueError, match="has the name of .*a/only_one_of_two.py, which this process has imported"):
        configuration("run", [], tmp_path / "b" / "conf")
    del sys.modules["only_one_of_two"]
    place.forget()


def test_a_sweep_checks_jobs_and_counts_jobs_not_runs(output):
    for jobs in (-1, 0, "two"):
        with pytest.raises(ValueError, match="jobs must be"):
            remerge.sweep("strategy=er", jobs=jobs)
    failed = remerge.SweepFailed(remerge.Runs([]), [], 4)
    assert str(pickle.loads(pickle.dumps(failed))) == str(failed) and failed.total == 4
