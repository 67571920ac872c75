"""Numbers that a strategy logs: in strategy_metrics.csv and at the logger, with several ranks as their mean."""

import csv
import sys

import pytest
import torch
from support import QUICK, run_killed

from cl.distributed.comm import Comm
from cl.reporting.loggers.base import Logger
from cl.run import experiment
from cl.run.trainer import Trainer
from cl.strategies.base import Strategy
from cl.strategies.er import Er

SMALL = ("strategy=er", "strategy._target_=logging_strategies.Logging", "trust=[logging_strategies]",
         "scenario=class2", "steps=5", "log_interval=3", "buffer.capacity=20", *QUICK)  # fmt: skip


class Logging(Er):
    """Logs its number of calls, and every second time a tensor and a name with a comma."""

    def observe(self, batch):
        self.number = getattr(self, "number", 0) + 1
        self.log("calls", self.number)
        if self.number % 2 == 0:
            self.log("a, b", torch.tensor(10.0 * self.number, requires_grad=True))
        return super().observe(batch)

    def state_dict(self):
        return super().state_dict() | {"number": self.number}

    def load_state_dict(self, state):
        self.number = state.pop("number")
        super().load_state_dict(state)


class Keeps(Logger):
    rows: list = []

    def log_training(self, step, values):
        self.rows.append(values)


# 5 steps a stage in intervals of 3 and 2 steps: calls 1 2 3 | 4 5 || 6 7 8 | 9 10; even ones: 2 | 4 || 6 8 | 10
EXPECTED = [
    ["0", "0", "3", "calls", "2"], ["0", "0", "3", "a, b", "20"], ["0", "0", "5", "calls", "4.5"],
    ["0", "0", "5", "a, b", "40"], ["1", "0", "8", "calls", "7"], ["1", "0", "8", "a, b", "70"],
    ["1", "0", "10", "calls", "9.5"], ["1", "0", "10", "a, b", "100"],
]  # fmt: skip


@pytest.fixture(autouse=True)
def module(monkeypatch):
    monkeypatch.setitem(sys.modules, "logging_strategies", sys.modules[__name__])
    monkeypatch.setattr(Keeps, "rows", [])


def written(folder) -> list[list[str]]:
    heading, *rows = csv.reader((folder / "strategy_metrics.csv").open())
    assert heading == ["stage", "epoch", "step", "name", "value"]
    return rows


def test_means_of_an_interval_are_written_and_sent(compose_config):
    folder = experiment.run(compose_config(*SMALL, "logger.csv._target_=logging_strategies.Keeps"))
    assert written(folder) == EXPECTED
    sent = [(row["strategy/calls"], row["strategy/a, b"]) for row in Keeps.rows]
    assert sent == [(2, 20), (4.5, 40), (7, 70), (9.5, 100)]


def test_a_resumed_run_writes_what_one_that_was_not_killed_does(compose_config):
    config = compose_config(*SMALL)
    run_killed(config, stage=1)
    folder = experiment.run(config)
    assert written(folder) == EXPECTED
    assert written(experiment.run(compose_config(*SMALL, "overwrite=true"))) == EXPECTED


def test_a_strategy_that_logs_nothing_has_no_file(compose_config):
    folder = experiment.run(compose_config("strategy=er", "scenario=class2", "steps=2", *QUICK))
    assert (folder / "metrics.csv").exists() and not (folder / "strategy_metrics.csv").exists()


class TwoRanks(Comm):
    """Stands for two ranks; `other` is what the other one has logged."""

    size = 2

    def __init__(self, other):
        self.other = other

    def gather(self, content):
        return [content, self.other]


def mean(own, other):
    trainer = object.__new__(Trainer)
    trainer.comm, trainer.strategy = TwoRanks(other), Strategy()
    return trainer._mean_over_ranks(own)


def test_several_ranks_have_their_mean_and_must_log_the_same_names():
    assert mean({"a": 1.0, "b": 4.0}, {"b": 2.0, "a": 2.0}) == {"a": 1.5, "b": 3.0}
    with pytest.raises(ValueError, match="Strategy logs a on rank 0 and nothing on rank 1: Strategy.log needs"):
        mean({"a": 1.0}, {})
