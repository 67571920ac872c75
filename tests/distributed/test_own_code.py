"""A user's own code with two ranks: callbacks of all of them, numbers that a strategy logs, and errors of one rank."""

import csv
import json
import os
from pathlib import Path

import forkserver
import pytest
from support import QUICK, ROOT

from cl.distributed import environments as launchers
from cl.distributed import reports

MODULE = """
from cl.run.callbacks import Callback
from cl.strategies.er import Er

class Logging(Er):
    def observe(self, batch):
        loss = super().observe(batch)
        self.log("rank", self.updater.comm.rank)
        self.log("loss", loss)
        return loss

class Unequal(Er):
    def observe(self, batch):
        if self.updater.comm.rank:
            self.log("rank", 1.0)
        return super().observe(batch)

class Writes(Callback):
    def __init__(self, all_ranks: bool):
        self.all_ranks = all_ranks
    def on_run_start(self, context):
        self.file = context.folder / f"all_{self.all_ranks}_rank_{context.rank}"
    def on_run_end(self, results):
        self.file.write_text(str(results["average_accuracy"]))

class Fails(Callback):
    all_ranks = True
    def on_run_start(self, context):
        self.rank = context.rank
    def on_step(self, step, loss):
        if self.rank == 1 and step == 3:
            raise KeyError("three")

def last(matrix, untrained):
    return matrix[-1][-1]
"""


@pytest.fixture
def run(tmp_path):
    """A function that runs a command as two forked ranks in the folder of the module; returns their ends and errors."""
    (tmp_path / "own_code.py").write_text(MODULE)

    def command(*overrides: str) -> tuple[list[int], str]:
        line = [ROOT / "run.py", "strategy=er", "scenario=class2", "output=out", "log_interval=20", "trust=[own_code]",
                *QUICK, *overrides]  # fmt: skip
        with launchers.torchrun(2) as environments:
            ranks = [forkserver.start(line, cwd=tmp_path, env={**os.environ, **own}) for own in environments]
            try:
                errors = [rank.communicate(timeout=300)[1] for rank in ranks]
            finally:
                for rank in ranks:
                    rank.kill()
        return [rank.returncode for rank in ranks], "".join(errors)

    return command


def test_two_ranks(run, tmp_path):
    ends, errors = run(
        "strategy._target_=own_code.Logging", "+callbacks.all._target_=own_code.Writes", "+callbacks.all.all_ranks=yes",
        "+callbacks.one._target_=own_code.Writes", "+callbacks.one.all_ranks=no",
        "+metrics.last._target_=own_code.last",
    )  # fmt: skip
    assert ends == [0, 0], errors
    (file,) = tmp_path.rglob("results.json")
    content = json.loads(file.read_text())
    written = {path.name: path.read_text() for path in file.parent.glob("all_*")}
    assert written == dict.fromkeys(
        ("all_True_rank_0", "all_True_rank_1", "all_False_rank_0"), str(content["average_accuracy"])
    )
    assert content["last"] == content["accuracy_matrix"][-1][-1]
    logged = list(csv.DictReader(Path(file.parent / "strategy_metrics.csv").open()))
    rows = list(csv.DictReader((file.parent / "metrics.csv").open()))
    assert [row["value"] for row in logged if row["name"] == "rank"] == ["0.5"] * len(rows)
    assert [row["value"] for row in logged if row["name"] == "loss"] == [row["loss"] for row in rows]


def test_ranks_that_log_different_names_are_told(run):
    ends, errors = run("strategy._target_=own_code.Unequal")
    assert ends == [1, 1]
    assert "error: Unequal logs nothing on rank 0 and rank on rank 1: Strategy.log needs the same names" in errors


def test_the_rank_whose_callback_fails_says_so(run):
    ends, errors = run("+callbacks.bad._target_=own_code.Fails")
    assert ends == [reports.LOST, 1]
    assert "rank 1: error: CallbackError: callbacks.bad (own_code.Fails) failed in on_step: KeyError: 'three'" in errors
