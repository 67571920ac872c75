"""Samples that are chosen, and how fusions choose among results: by the accuracy on labelled training samples."""

import copy
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch

from cl.data.rows import Rows
from merging.fusion import Context, Models, State


class Score(NamedTuple):
    """How good weights are; the larger of two is the better one."""

    accuracy: float
    minus_loss: float


class Judge:
    """Scores weights on `per_task` labelled training samples of each task that the models know.

    The networks were trained on the tasks' samples, these among them; what is chosen by them was not. Batch-norm is
    recalibrated before. Passes and samples count as labelled, and the samples as kept.
    """

    def __init__(self, models: Models, context: Context, per_task: int):
        self.tasks, self.context = sorted(set(chain(*models.tasks))), context
        self.samples, self.network = (
            context.labelled(self.tasks, per_task, trained=False),
            copy.deepcopy(context.network),
        )

    def __call__(self, state: State) -> Score:
        self.network.load_state_dict(state)
        self.context.recalibrate_batch_norm(self.network, self.tasks)
        loss, accuracy = self.context.score(self.network, self.samples)
        return Score(accuracy, -loss)


def taken(samples: Rows, order: np.ndarray) -> Rows:
    """The samples at these places, in this order."""
    return samples.part(torch.from_numpy(order).to(samples.y.device))
