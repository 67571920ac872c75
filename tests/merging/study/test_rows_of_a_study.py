"""What befalls single rows: a search that fails for another reason than its rate, and rows that cannot be."""

import asyncio

import pytest
from omegaconf import OmegaConf
from support import ROOT

from merging.study import run as study
from merging.study.configurations import Configurations
from merging.study.options import Options
from merging.study.planning import Planned
from merging.study.rows import Row
from merging.study.runs import RunError

DEFAULTS = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "study" / "equal_budget.yaml"))
ROW = Row("er", "rehearsal", "run", ("strategy=er",), stores="buffer.capacity")


class Fixed:
    """Runs with given ends: the accuracy, or the error, for each learning rate."""

    def __init__(self, ends: dict):
        self.ends = ends

    async def result(self, command, words, **values):
        (rate,) = (float(word.partition("=")[2]) for word in words if word.startswith("optimizer.lr="))
        end = self.ends[rate]
        if isinstance(end, RunError):
            raise end
        return None, {"average_accuracy": end, "task_aware": False}


def searched(ends: dict, factors: list):
    """The chosen rate and what was tried."""
    options = Options.read(DEFAULTS | {"search": {"factors": factors, "validation": 0.1, "seeds": [0]}})
    configurations = Configurations(())
    of = study.Study(options, configurations, configurations.of("merge", ()), [0], "")
    of.runs, of.extra = Fixed(ends), ()
    of.facts = type("Facts", (), {"learning_rate": 1.0})
    done = study.record.Done(ROW, None)
    asyncio.run(of._searched(Planned(ROW, None, ROW.words), done))
    return done


def test_a_rate_that_diverges_is_a_try_without_a_result():
    done = searched({0.1: 0.5, 1.0: 0.7, 10.0: RunError("the loss is nan", diverged=True)}, [0.1, 1, 10])
    assert (done.rate, done.held_out) == (1.0, 0.7)
    assert done.tries == {0.1: 0.5, 1.0: 0.7, 10.0: None}


def test_of_equal_rates_the_smallest_is_taken():
    assert searched({0.1: 0.5, 1.0: 0.5}, [1, 0.1]).rate == 0.1


def test_any_other_error_in_the_search_is_one_of_the_row():
    """A full disk is no reason for another learning rate."""
    with pytest.raises(RunError, match="No space left on device"):
        searched({0.1: 0.5, 1.0: RunError("No space left on device: x")}, [0.1, 1])


def test_without_any_result_the_row_says_so():
    with pytest.raises(RunError, match="training diverged with every learning rate of the search"):
        searched({0.1: RunError("nan", diverged=True)}, [0.1])
