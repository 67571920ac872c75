"""Tests at fixed intervals within the stages of a run, beside those after each (anytime inference, Koh et al. 2022).

A test changes nothing of training: the random generators, the modes of all layers and this rank's batch-norm statistics
are afterwards what they were, and its time is no time of training.
"""

import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from cl.distributed.comm import Comm
from cl.distributed.group import equalise_statistics
from cl.reporting.recorder import Recorder
from cl.run.evaluator import Evaluator
from cl.run.state import Generators, Statistics
from cl.run.trainer import Trainer
from cl.scenarios.base import Scenario
from cl.scenarios.outputs import tasks_of

# Gives the network that is tested, and what gives the outputs for images with its help (None: the network).
Classifier = Callable[[torch.Tensor], torch.Tensor]
Tested = Callable[[], tuple[nn.Module, Classifier | None]]


class Anytime:
    """Measures what has been seen so far of what `tested` gives; each test is a row of `recorder`.

    `every`: a number of steps, counted over all stages, or a fraction of each stage's steps. What has been seen are the
    tasks of the stages that have begun, which count the same; in streams, whose tasks share classes, the classes of
    these tasks, all test samples of which count the same.
    """

    def __init__(
        self, every: int | float, scenario: Scenario, stages: Sequence[Sequence[int]], tested: Tested,
        evaluator: Evaluator, recorder: Recorder, comm: Comm, average_statistics: bool,
    ):  # fmt: skip
        self.every, self.scenario, self.stages, self.tested = every, scenario, stages, tested
        self.evaluator, self.recorder, self.comm = evaluator, recorder, comm
        self.average_statistics = average_statistics

    def next(self, trainer: Trainer, steps: int) -> int:
        """The next step of this stage of `steps` after which to test."""
        if isinstance(self.every, int):
            return trainer.step + self.every - trainer.steps_done % self.every
        number, tiny = self.every * steps, 1e-9
        return max(trainer.step + 1, math.ceil((math.floor(trainer.step / number + tiny) + 1) * number - tiny))

    @torch.no_grad()
    def test(self, stage: int, steps_done: int) -> None:
        """Test the network after a step within a stage."""
        started = time.perf_counter()
        network, classifier = self.tested()
        generators, statistics = Generators(self.evaluator.device), Statistics(network)
        before, own = generators.state_dict(), statistics.state_dict()
        equalise_statistics(self.comm, network, average=self.average_statistics)
        value = self._value(network, classifier, stage)
        statistics.load_state_dict(own)
        generators.load_state_dict(before)
        self.recorder.history.eval_seconds += time.perf_counter() - started
        self.recorder.test(stage, steps_done, value)

    def after_stage(self, stage: int, rows: tuple[list[float], list[float] | None]) -> None:
        """Take in the test after a stage: its accuracies, or errors, over all outputs and task-aware."""
        if self.scenario.kind == "stream":
            value = self._value(*self.tested(), stage)
        else:
            value = self._mean([self._own(rows)[task] for task in self._seen(stage)])
        self.recorder.test(stage, self.recorder.history.gradient_steps, value)

    def _value(self, network: nn.Module, classifier: Classifier | None, stage: int) -> float:
        seen = self._seen(stage)
        if self.scenario.kind == "stream":
            return self.evaluator.on_classes(network, classifier, self.evaluator.tasks.classes(seen))
        return self._mean(self._own(self.evaluator(network, classifier, seen)))

    def _own(self, rows: tuple[list[float], list[float] | None]) -> list[float]:
        """Those that the scenario asks for."""
        return rows[1] if self.scenario.task_aware else rows[0]

    def _seen(self, stage: int) -> list[int]:
        return tasks_of(self.stages[: stage + 1])

    @staticmethod
    def _mean(values: list[float]) -> float:
        return sum(values) / len(values)
