"""wandb online, its own process and a server of ours: a run that is resumed, and a connection that is lost for good."""

import csv
import json
import os

import pytest
from support import QUICK, command
from wandb_server import serving

SMALL = ("strategy=er", "scenario=class2", "log_interval=2", "steps=7", "buffer.capacity=20", "logger=wandb", *QUICK,
         "checkpoint.every=3", "+callbacks.hook._target_=hooks.Hook", "trust=[hooks]", "output=out")  # fmt: skip

# Artifacts, of which a table is one, ask the server for more than it can answer.
HOOKS = """
import os, urllib.request
from pathlib import Path
from cl.reporting.loggers import wandb
from cl.run.callbacks import Callback

wandb.FINISH_SECONDS = 3
wandb.WandbLogger.log_table = lambda *given: None

class Hook(Callback):
    steps = 0
    def on_step(self, step, loss):
        self.steps += 1
        if self.steps == 5 and os.environ["HOOK"] == "stop":
            urllib.request.urlopen(os.environ["WANDB_BASE_URL"] + "/stop").read()
        if self.steps == 12 and os.environ["HOOK"] == "die":
            raise RuntimeError("on purpose")
    def state_dict(self):
        return {"steps": self.steps}
    def load_state_dict(self, state):
        self.steps = state["steps"]
"""


@pytest.fixture
def run(tmp_path):
    """A function that trains with a server; returns how it ended and the folder."""
    (tmp_path / "hooks.py").write_text(HOOKS)

    def train(server, hook: str):
        env = os.environ | {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": 40 * "a", "HOOK": hook, "WANDB_SILENT": "1"}
        done = command(*SMALL, cwd=tmp_path, env=env)
        return done, next(tmp_path.glob("out/*/*/seed0"))

    return train


def rows(folder) -> list[int]:
    return [int(row["step"]) for row in csv.DictReader((folder / "metrics.csv").open())]


def test_a_resumed_run_is_one_run_with_each_row_once(run):
    with serving() as server:
        died, folder = run(server, "die")
        assert died.returncode == 1 and "on purpose" in died.stderr
        resumed, _ = run(server, "nothing")
        assert resumed.returncode == 0, resumed.stderr
    (told,) = server.rows.values()
    assert [row["train/step"] for row in told if "train/step" in row] == rows(folder)
    assert [row["test/stage"] for row in told if "test/stage" in row] == [0, 1]
    assert [row["_step"] for row in told] == list(range(len(told)))


def test_a_connection_that_is_lost_for_good_ends_no_run_and_the_run_can_be_sent_later(run):
    with serving() as server:
        done, folder = run(server, "stop")
    assert done.returncode == 0 and (folder / "results.json").is_file(), done.stderr
    assert done.stderr.count("logger wandb: TimeoutError") == 1 and "the run goes on" in done.stderr
    (record,) = json.loads((folder / "wandb" / "remerge.json").read_text())["runs"].values()
    assert record["complete"] == []
