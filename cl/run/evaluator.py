"""A network's accuracy on every task's test samples, over all classes and task-aware, from one forward pass."""

from collections.abc import Callable

import torch
from torch import nn

from cl.data.loader import in_order
from cl.data.transforms import BatchTransform
from cl.distributed.comm import Comm
from cl.scenarios.base import Tasks
from cl.step.objectives import Objective
from cl.step.passes import Passes


class Evaluator:
    """Tests a network on all tasks by the measures of `objective`.

    The batches are shared out to the ranks of `comm`, every rank gets the result. Its passes do not count in `passes`.
    """

    def __init__(
        self,
        tasks: Tasks,
        transform: BatchTransform,
        objective: Objective,
        batch_size: int,
        device: torch.device,
        comm: Comm,
        passes: Passes | None = None,
    ):
        self.comm, self.passes = comm, passes or Passes()
        self.tasks, self.transform, self.objective = tasks, transform, objective
        self.batch_size, self.device = batch_size, device

    @torch.no_grad()
    def __call__(
        self, model: nn.Module, classifier: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> tuple[list[float], list[float] | None]:
        """Means per task: accuracies in [0, 1] over all outputs, and without other tasks' classes.

        The second is None where tasks share their outputs. With targets in place of labels: the mean error, and None.
        `classifier` is what gives the outputs for images, with the help of `model`; None: the network itself. If it has
        a method `for_task`, that gives what gives them for the images of a task.
        """
        classifier = classifier or model
        modes = [(module, module.training) for module in model.modules()]  # a user may have frozen some of them
        model.eval()
        with self.passes.paused():
            sums, totals = self._sums(classifier)
        for module, training in modes:
            module.training = training
        rows = [[total / count for total, count in zip(row, totals)] for row in self.comm.sum(sums).tolist()]
        return rows[0], rows[1] if len(rows) > 1 else None

    def _sums(self, classifier: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, list[int]]:
        """Sums of each measure over the test samples of each task on this rank, and how many those are on all."""
        sums = torch.zeros(self.objective.measures, len(self.tasks), dtype=torch.float64, device=self.device)
        totals = []
        for task_id in range(len(self.tasks)):
            samples = self.tasks.testing(task_id, self.device)
            totals.append(len(samples))
            own = classifier.for_task(task_id) if hasattr(classifier, "for_task") else classifier
            # Whole batches are shared out, not samples: each is computed as one rank alone would compute it, so the
            # sums are the same at any number of ranks.
            for batch in in_order(samples, self.batch_size, self.comm.rank, self.comm.size):
                for row, values in enumerate(self.objective.measure(own(self.transform.test(batch.x)), batch)):
                    sums[row, task_id] += values.sum()
        return sums, totals
