"""Accuracies of a network whose answers are known, with and without the task."""

import numpy as np
import torch
from torch import nn

from cl.data.transforms import BatchTransform
from cl.datasets.base import Split
from cl.distributed.comm import Comm
from cl.run.evaluator import Evaluator
from cl.scenarios.base import Part, Tasks
from cl.scenarios.outputs import TaskOutputs
from cl.step.objectives import Labels

CPU = torch.device("cpu")
# Four outputs; an image's four pixels are its logits. Tasks: outputs 0-1 and 2-3.
OUTPUTS, SHARED = TaskOutputs(4, [range(0, 2), range(2, 4)]), TaskOutputs(4)
IMAGES = [
    ([9, 1, 0, 0], 0),  # right
    ([9, 1, 0, 0], 1),  # wrong, also within the task
    ([3, 5, 9, 0], 1),  # right only when the task is known
    ([0, 0, 9, 1], 2),  # right
    ([9, 0, 1, 5], 3),  # right only when the task is known
]


def evaluator(outputs, batch_size) -> Evaluator:
    x = torch.tensor([pixels for pixels, _ in IMAGES], dtype=torch.uint8).view(-1, 1, 2, 2)
    y = np.array([label for _, label in IMAGES])
    split = Split(x, torch.from_numpy(y))
    parts = [Part(np.arange(0, 3), y[:3]), Part(np.arange(3, 5), y[3:])]
    tasks = Tasks(split, split, parts, parts, [None, None])
    return Evaluator(tasks, BatchTransform([], None, None, 1, CPU), Labels(outputs), batch_size, CPU, Comm())


class Told(nn.Flatten):
    """Knows the answers of the second task alone, if it is told that it is asked for them."""

    def for_task(self, task):
        right = nn.functional.one_hot(torch.tensor([2, 3]), 4).float()
        return (lambda x: right[: len(x)]) if task == 1 else self


def test_a_network_that_takes_the_task_is_told_it():
    assert evaluator(OUTPUTS, 100)(nn.Flatten()) == ([1 / 3, 1 / 2], [2 / 3, 1.0])
    assert evaluator(OUTPUTS, 100)(Told()) == ([1 / 3, 1.0], [2 / 3, 1.0])


def test_both_accuracies_at_every_batch_size():
    for batch_size in (1, 2, 3, 100):
        assert evaluator(OUTPUTS, batch_size)(nn.Flatten()) == ([1 / 3, 1 / 2], [2 / 3, 1.0])


def test_without_task_outputs_there_is_one_accuracy():
    assert evaluator(SHARED, 2)(nn.Flatten()) == ([1 / 3, 1 / 2], None)


def test_the_network_is_in_evaluation_mode_and_left_as_it_was():
    modes = []

    class Spy(nn.Flatten):
        def forward(self, x):
            modes.append((self.training, torch.is_grad_enabled()))
            return super().forward(x)

    for training in (True, False):
        model = Spy().train(training)
        evaluator(SHARED, 2)(model)
        assert model.training is training
    assert set(modes) == {(False, False)}


def test_a_part_that_the_user_has_frozen_stays_so():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4)).train()
    model[1].eval()
    evaluator(SHARED, 2)(model)
    assert [model.training, model[0].training, model[1].training] == [True, True, False]
