"""Callbacks: when they are called and with what, that they go on with the run, and what is said of mistakes.

The right values are those of a run without callbacks, or of one that was not killed.
"""

import json
import sys

import pytest
import torch
from support import QUICK, ROOT, run_killed

from cl.configuration import identity
from cl.run import callbacks, experiment
from cl.run.callbacks import Callback, CallbackError, Callbacks, RunContext
from cl.run.folder import plain, run_folder
from cl.run.plan import make_plan
from cl.run.trainer import Trainer

TRUST = "trust=[watching,my_callbacks]"
SMALL = ("strategy=er", "buffer.capacity=20", "scenario.num_tasks=3", "scenario.initial_increment=4",
         "scenario.increment=3", "steps=4", "log_interval=3", TRUST, *QUICK)  # fmt: skip
LOSSES = ("+callbacks.losses._target_=my_callbacks.Losses", "+callbacks.losses.every=1", TRUST)


class Watch(Callback):
    """Notes every call."""

    calls: list = []

    def __init__(self, all_ranks: bool = False):
        self.all_ranks = all_ranks

    def on_run_start(self, context):
        self.context = context
        self.calls.append(("run_start", context.first_stage, context.stages))

    def on_stage_start(self, stage, num_samples, steps):
        self.calls.append(("stage_start", stage, num_samples, steps))

    def on_step(self, step, loss):
        assert loss.shape == () and not loss.requires_grad
        self.calls.append(("step", step))

    def on_stage_end(self, stage, row):
        assert not (self.context.folder / f"task_{stage:02d}.pt").exists()  # the state is saved after this
        self.calls.append(("stage_end", stage, list(row)))
        row.clear()

    def on_run_end(self, results):
        assert (self.context.folder / "results.json").is_file()
        self.calls.append(("run_end", results["accuracy_matrix"]))
        results.clear()


class Quiet(Callback):
    """Overrides nothing that costs."""


class Typo(Callback):
    def on_epoch_end(self):
        pass


class Fails(Callback):
    def __init__(self, hook: str):
        self.hook = hook

    def on_step(self, step, loss):
        if self.hook == "step" and step == 2:
            raise KeyError("two")

    def on_run_end(self, results):
        if self.hook == "run_end":
            raise ValueError("no more")

    def state_dict(self):
        return {"device": torch.device("cpu")} if self.hook == "state" else {}


class Refuses(Callback):
    def __init__(self):
        raise OSError("no such thing")


@pytest.fixture(autouse=True)
def modules(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "examples")
    monkeypatch.setattr(Watch, "calls", [])
    monkeypatch.setitem(sys.modules, "watching", sys.modules[__name__])


def content_of(folder) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_hooks_are_called_in_order_and_change_nothing(compose_config):
    folder = experiment.run(compose_config("+callbacks.watch._target_=watching.Watch", *SMALL))
    matrix = content_of(folder)["accuracy_matrix"]
    calls = Watch.calls
    assert calls[0] == ("run_start", 0, [[0], [1], [2]]) and calls[-1] == ("run_end", matrix)
    expected = []
    for stage in range(3):
        expected += ["stage_start", *["step"] * 4, "stage_end"]
    assert [call[0] for call in calls[1:-1]] == expected
    assert [call[1] for call in calls if call[0] == "step"] == [1, 2, 3, 4] * 3
    assert [call[1:] for call in calls if call[0] == "stage_end"] == list(enumerate(matrix))
    train, _ = make_plan(plain(compose_config())).dataset.load(0, None)
    assert sum(call[2] for call in calls if call[0] == "stage_start") == len(train)
    assert {call[3] for call in calls if call[0] == "stage_start"} == {4}
    plain_folder = experiment.run(compose_config(*SMALL))
    assert plain_folder != folder and content_of(plain_folder)["accuracy_matrix"] == matrix


def test_without_a_step_hook_a_step_costs_nothing(compose_config, monkeypatch):
    hooks, train = [], Trainer.train

    def watched(trainer, *arguments):
        hooks.append(trainer.on_step)
        return train(trainer, *arguments)

    monkeypatch.setattr(Trainer, "train", watched)
    experiment.run(compose_config("+callbacks.quiet._target_=watching.Quiet", *SMALL))
    assert hooks == [None] * 3


def test_the_state_of_a_callback_goes_on_with_the_run(compose_config):
    out = str(compose_config().output)
    whole = experiment.run(compose_config(*LOSSES, *SMALL, f"output={out}/whole"))
    killed = compose_config(*LOSSES, *SMALL)
    run_killed(killed, stage=1)
    folder = experiment.run(killed)
    ours, theirs = (json.loads((place / "losses.json").read_text()) for place in (folder, whole))
    assert ours == theirs and len(ours) == 12


def test_callbacks_name_the_run(compose_config):
    words = identity.words(plain(compose_config(*LOSSES)))
    added = words.items() - identity.words(plain(compose_config())).items()
    assert added == {("callbacks.losses._target_", "my_callbacks.Losses"), ("callbacks.losses.every", 1)}
    same = plain(compose_config(*LOSSES[::2], "+callbacks.losses.every='1'"))
    assert identity.config_hash(same) == identity.config_hash(plain(compose_config(*LOSSES)))


@pytest.mark.parametrize(
    "options, told",
    [
        (["+callbacks.x._target_=watching.nowhere.X"], "x._target_=watching.nowhere.X cannot be imported"),
        (["+callbacks.x._target_=watching.plain"], "watching.plain must be a class derived from cl.run"),
        (
            ["+callbacks.x._target_=watching.Typo"],
            r"there is no hook on_epoch_end \(did you mean on_st.*valid: on_",
        ),
        (["+callbacks.x._target_=watching.Fails"], "callbacks.x needs hook"),
        (["+callbacks.x._target_=watching.Quiet", "+callbacks.x.every=1"], "unknown option callbacks.x.every"),
        (
            ["+callbacks.x._target_=watching.Refuses"],
            r"callbacks.x \(watching.Refuses\) cannot be made: OSError: no",
        ),
        (["+callbacks.x.every=1"], r"callbacks.x must say what it is, for example \+callbacks.x._target_=my_callbacks"),
    ],
)
def test_mistakes_are_said_before_training(compose_config, options, told):
    with pytest.raises(ValueError, match=told):
        make_plan(plain(compose_config(*options, *SMALL)))


@pytest.mark.parametrize(
    "hook, told",
    [
        ("step", r"callbacks.bad \(watching.Fails\) failed in on_step: KeyError: 'two'"),
        ("run_end", r"callbacks.bad \(watching.Fails\) failed in on_run_end: ValueError: no more"),
        ("state", r"callbacks.bad \(watching.Fails\): state_dict must hold tensors and plain Python values"),
    ],
)
def test_an_error_names_the_callback(compose_config, hook, told):
    config = compose_config("+callbacks.bad._target_=watching.Fails", f"+callbacks.bad.hook={hook}", *SMALL)
    with pytest.raises(CallbackError, match=told):
        experiment.run(config)
    assert (run_folder(plain(config)) / "results.json").exists() is (hook == "run_end")


def test_rank_0_alone_calls_them_unless_a_class_says_otherwise(tmp_path):
    nodes = {name: {"_target_": "watching.Watch", "all_ranks": name == "all"} for name in ("one", "all")}
    for rank, expected in ((0, ["one", "all"]), (1, ["all"])):
        found = Callbacks(nodes)
        model = torch.nn.Linear(1, 1)
        found.run_start(RunContext({}, tmp_path, model, torch.device("cpu"), rank, 2, [[0]], 0))
        assert list(found.called) == expected
        assert list(found.state_dict()) == ["one", "all"]
        Watch.calls.clear()
        found.step_hook()(1, torch.tensor(0.0))
        assert len(Watch.calls) == len(expected)


def test_the_documentation_has_every_hook():
    text = (ROOT / "docs" / "callbacks.md").read_text()
    rows = [line.split("`")[1].partition("(")[0] for line in text.splitlines() if line.startswith("| `on_")]
    assert tuple(rows) == callbacks.HOOKS
