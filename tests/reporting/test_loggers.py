"""Rows in Weights & Biases, with a stand-in for its run that counts steps as wandb 0.31 does."""

from types import SimpleNamespace

import pytest

from cl.reporting.loggers import ROW, WandbLogger


class Server:
    """A run of wandb: a row below the step that it is at is dropped, one without a step gets the next."""

    def __init__(self):
        self.id, self.step, self.summary, self.history, self.dropped = "an id", 0, {}, {}, 0

    def log(self, values, step=None, commit=None):
        place = self.step if step is None else step
        if place < self.step:
            self.dropped += 1
            return
        self.history.setdefault(place, {}).update(values)
        self.summary |= values
        self.step = place + (step is None if commit is None else commit)


def logger_of(server, tmp_path, monkeypatch, state=None) -> WandbLogger:
    monkeypatch.setitem(__import__("sys").modules, "wandb", SimpleNamespace(init=lambda **_: server))
    logger = WandbLogger("p", None, "offline", [])
    if state is not None:
        logger.load_state_dict(state)
    logger.start(tmp_path, {})
    return logger


def rows(server) -> list[int]:
    return [values["loss"] for _, values in sorted(server.history.items()) if "loss" in values]


@pytest.mark.parametrize("others", [0, 1, 3])
@pytest.mark.parametrize("resumed", [False, True])
def test_each_row_is_there_once_whatever_other_code_logs(others, resumed, tmp_path, monkeypatch):
    server = Server()
    logger = logger_of(server, tmp_path, monkeypatch)

    def train(logger, begin: int, end: int):
        for number in range(begin, end):
            logger.log({"loss": number})
            for _ in range(others):
                server.log({"mine": number})

    train(logger, 0, 3)
    state = logger.state_dict()
    train(logger, 3, 6)
    if resumed:
        logger = logger_of(server, tmp_path, monkeypatch, state)
        train(logger, 3, 6)
    train(logger, 6, 9)
    assert rows(server) == list(range(9)) and server.dropped == 0
    assert [values["mine"] for values in server.history.values() if "mine" in values].count(8) == others
    assert server.summary[ROW] == 9


def test_a_resumed_offline_run_goes_on_above_the_steps_of_its_first_part(tmp_path, monkeypatch):
    """Its second folder begins at step 0 and without a summary; both are sent to one run in the end."""
    first, second = Server(), Server()
    logger = logger_of(first, tmp_path, monkeypatch)
    for number in range(3):
        logger.log({"loss": number})
        first.log({"mine": number})
    logger = logger_of(second, tmp_path, monkeypatch, logger.state_dict())
    logger.log({"loss": 3})
    second.log({"mine": 3})
    logger.log({"loss": 4})
    assert min(second.history) > max(step for step, values in first.history.items() if "loss" in values)
    assert rows(second) == [3, 4]
