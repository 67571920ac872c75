"""Several loggers at a time: strict at the start, not ended by a lost connection; and rows of wandb.

wandb is replaced by a stand-in for its run that counts steps as wandb 0.31 does.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cl.reporting.loggers import told
from cl.reporting.loggers.base import Logger, NoLogger
from cl.reporting.loggers.several import Loggers
from cl.reporting.loggers.wandb import RECORD, WandbLogger


class WandbError(Exception):
    pass


class Server:
    """A run of wandb: a row below the step that it is at is dropped, one without a step gets the next."""

    def __init__(self, summary=None):
        self.id, self.step, self.summary, self.history, self.dropped = "an_id", 0, dict(summary or {}), {}, 0
        self.ended, self.lost, self.asked, self.starting_step = [], None, {}, 0

    def log(self, values, step=None, commit=None):
        if self.lost is not None:
            raise self.lost
        place = self.step if step is None else step
        if place < max(self.step, self.starting_step):
            self.dropped += 1
            return
        self.history.setdefault(place, {}).update(values)
        self.summary |= values
        self.step = place + (step is None if commit is None else commit)

    def define_metric(self, name, step_metric=None):
        pass

    def finish(self, exit_code):
        self.ended.append(exit_code)
        if self.lost is not None:
            raise self.lost


@pytest.fixture
def logger_of(tmp_path, monkeypatch):
    """A function from a server to a wandb logger that has started."""

    def make(server, state=None, folder=tmp_path) -> WandbLogger:
        def init(**options):
            server.asked = options
            server.id = options["id"] or server.id
            return server

        settings = type("Settings", (SimpleNamespace,), {"model_fields": {}})
        monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Settings=settings))
        logger = WandbLogger("p", None, "offline", [])
        if state is not None:
            logger.load_state_dict(state)
        logger.start(folder, {}, "run")
        return logger

    return make


def losses(server) -> list[int]:
    return [values["train/loss"] for _, values in sorted(server.history.items()) if "train/loss" in values]


def train(logger, server, begin: int, end: int, others: int = 0):
    for number in range(begin, end):
        logger.log_training(10 * (number + 1), {"train/loss": number})
        for _ in range(others):
            server.log({"mine": number})


@pytest.mark.parametrize("others", [0, 1, 3])
@pytest.mark.parametrize("resumed", [False, True])
def test_each_row_is_there_once_whatever_other_code_logs(others, resumed, logger_of):
    server = Server()
    logger = logger_of(server)
    train(logger, server, 0, 3, others)
    state = logger.state_dict()
    train(logger, server, 3, 6, others)
    if resumed:
        logger = logger_of(server, state)
        train(logger, server, 3, 6, others)
    train(logger, server, 6, 9, others)
    assert losses(server) == list(range(9)) and server.dropped == 0
    assert [values["mine"] for values in server.history.values() if "mine" in values].count(8) == others
    assert server.summary["train/step"] == 90


def test_a_resumed_offline_run_goes_on_above_the_steps_of_its_first_part(logger_of):
    """Its second folder begins at step 0 and without a summary; both are sent to one run in the end."""
    first, second = Server(), Server()
    logger = logger_of(first)
    train(logger, first, 0, 3, others=1)
    logger = logger_of(second, logger.state_dict())
    train(logger, second, 3, 5, others=1)
    assert min(second.history) > max(step for step, values in first.history.items() if "train/loss" in values)
    assert losses(second) == [3, 4] and second.asked["id"] == first.id and second.asked["resume"] == "allow"


def test_a_run_that_was_killed_before_its_first_checkpoint_keeps_its_run_of_wandb(logger_of):
    server = Server()
    train(logger_of(server), server, 0, 2)
    again = Server(server.summary)  # as wandb 0.31 tells of a run that is online: it goes on at 2, and says 0
    again.starting_step = 2
    logger = logger_of(again)
    train(logger, again, 0, 4)
    assert again.asked["id"] == server.id and losses(again) == [2, 3] and again.dropped == 0


def test_one_that_begins_anew_gets_another(logger_of, tmp_path):
    from cl.run.checkpoint import clear

    logger_of(Server())
    clear(tmp_path, everything=True)
    assert not (tmp_path / RECORD).exists()
    server = Server()
    logger_of(server)
    assert server.asked["id"] is None and server.asked["resume"] is None


def test_in_a_sweep_of_wandb_the_agent_has_chosen_the_run(logger_of, tmp_path, monkeypatch):
    """Also of a run that was done before, which keeps its own."""
    first = Server()
    first.id = "own"
    logger_of(first)
    monkeypatch.setenv("WANDB_SWEEP_ID", "a_sweep")
    server = Server()
    logger = logger_of(server)
    assert server.asked["id"] is None and server.asked["resume"] is None and logger.run_id == "an_id"
    monkeypatch.delenv("WANDB_SWEEP_ID")
    logger_of(server)
    assert server.asked["id"] == "own"


@pytest.mark.parametrize("error", [WandbError("gone"), ConnectionResetError("gone"), ValueError("gone")])
def test_a_lost_connection_is_said_once_and_the_run_can_be_sent_again(error, logger_of, tmp_path, capsys):
    server = Server()
    wandb, beside = logger_of(server), Keeps()
    loggers = Loggers({"wandb": wandb, "keeps": beside})
    loggers.folder = tmp_path
    train(loggers, server, 0, 2)
    server.lost = error
    train(loggers, server, 2, 4)
    loggers.log_test(0, {"accuracy/task_00": 0.5})
    loggers.finish({"kind": "run", "average_accuracy": 0.5, "config": {}})
    loggers.close()
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith(f"logger wandb: {type(error).__name__}: gone: the run goes on")
    assert losses(server) == [0, 1] and not wandb.is_complete(tmp_path) and server.ended
    assert beside.told == [("training", 10), ("training", 20), ("training", 30), ("training", 40), "finish", "close"]


def test_a_mistake_in_a_logger_of_ones_own_ends_the_run():
    with pytest.raises(KeyError):
        Loggers({"mine": Fails("log_training", KeyError("a mistake"))}).log_training(1, {"train/loss": 1})


class Keeps(Logger):
    def __init__(self):
        self.told: list = []

    def log_training(self, step, values):
        self.told.append(("training", step))

    def finish(self, results):
        self.told.append("finish")

    def close(self):
        self.told.append("close")

    def state_dict(self):
        return {"told": len(self.told)}

    def load_state_dict(self, state):
        self.told = state["told"] * ["before"]


class Fails(Logger):
    def __init__(self, moment: str, error: Exception):
        setattr(self, moment, self.fail)
        self.error = error

    def fail(self, *given):
        raise self.error


def test_a_logger_that_cannot_start_ends_the_run_with_a_line(tmp_path):
    loggers = Loggers({"csv": NoLogger(), "mine": Fails("start", WandbError("no network"))})
    with pytest.raises(ValueError) as error:
        loggers.start(tmp_path, {}, "run")
    assert str(error.value) == ("logger mine cannot start: WandbError: no network; logger=[csv] goes without it")


def test_all_are_closed_also_after_an_error_of_one():
    last = Keeps()
    with pytest.raises(KeyError):
        Loggers({"first": Fails("close", KeyError("x")), "last": last}).close()
    assert last.told == ["close"]


def test_states_are_kept_by_name_and_a_logger_that_is_new_begins():
    keeps = Keeps()
    keeps.log_training(1, {})
    state = Loggers({"csv": NoLogger(), "keeps": keeps}).state_dict()
    assert state == {"csv": {}, "keeps": {"told": 1}}
    again, new = Keeps(), Keeps()
    Loggers({"new": new, "keeps": again}).load_state_dict(state)
    assert (again.told, new.told) == (["before"], [])


def test_checkpoints_of_earlier_versions_hold_the_state_of_one_logger():
    wandb = WandbLogger("p", None, "offline", [])
    loggers = Loggers({"csv": NoLogger(), "wandb": wandb})
    loggers.load_state_dict({})  # of logger=csv
    assert wandb.run_id is None
    loggers.load_state_dict({"run_id": "old", "step": 7, "rows": 5})
    assert (wandb.run_id, wandb.step) == ("old", 7)


def test_a_state_that_no_checkpoint_can_hold_is_refused():
    class Wrong(Logger):
        def state_dict(self):
            return {"where": Path("x")}

    with pytest.raises(ValueError, match="^logger mine: state_dict must hold plain Python values .*, got {'where': "):
        Loggers({"mine": Wrong()}).state_dict()


def test_what_is_no_logger_is_refused():
    with pytest.raises(ValueError, match="^logger.x._target_=pathlib.PurePath must be a class derived from cl.rep"):
        Loggers.of_config({"x": {"_target_": "pathlib.PurePath"}})


@pytest.mark.parametrize("stage, stages, mean", [(0, 3, 0.2), (1, 3, 0.3), (2, 3, 0.5), (0, 1, 0.5), (0, 2, None)])
def test_the_mean_after_a_stage_is_over_the_tasks_so_far(stage, stages, mean):
    found = told.of_test("accuracy", [0.2, 0.4, 0.9], None, stage, stages)
    assert found.pop("accuracy/so_far", None) == (None if mean is None else pytest.approx(mean))
    assert found == {"accuracy/task_00": 0.2, "accuracy/task_01": 0.4, "accuracy/task_02": 0.9}


def test_numbers_of_results_are_told_without_those_that_are_no_measures():
    results = {"a": 1, "b": 0.5, "c": True, "d": None, "e": [1], "checksum": 7, "persistent": {"x": 3, "y": "z"}}
    assert told.numbers(results | {"config": {"epochs": 1}, "files": {"n": 2}}) == {"a": 1, "b": 0.5, "persistent/x": 3}
