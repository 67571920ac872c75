"""A network's accuracy on every task's test samples, over all classes and task-aware, from one forward pass."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from cl.data.loader import in_order
from cl.data.rows import Rows
from cl.data.transforms import BatchTransform
from cl.distributed.comm import Comm
from cl.networks.modes import evaluating
from cl.scenarios.base import Tasks
from cl.step.objectives import Objective
from cl.step.passes import Passes

# From transformed images to the outputs for them.
Classifier = Callable[[torch.Tensor], torch.Tensor]


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

    def __call__(
        self,
        model: nn.Module,
        classifier: Classifier | None = None,
        tasks: Sequence[int] | None = None,
    ) -> tuple[list[float], list[float] | None]:
        """Means per task: accuracies in [0, 1] over all outputs, and without other tasks' classes.

        The second is None where tasks share their outputs. With targets in place of labels: the mean error, and None.
        `classifier` is what gives the outputs for images, with the help of `model`; None: the network itself. If it has
        a method `for_task`, that gives what gives them for the images of a task. `tasks`: those that are tested; None:
        all.
        """
        tasks = range(len(self.tasks)) if tasks is None else tasks
        # Tasks that share test samples, and outputs as well, have one test.
        tested = {task: self.tasks.tested_with(task) if self.objective.measures == 1 else task for task in tasks}
        of = {task: place for place, task in enumerate(dict.fromkeys(tested.values()))}
        classifier = classifier or model
        for_task = getattr(classifier, "for_task", lambda task: classifier)
        parts = [(for_task(task), self.tasks.testing(task, self.device)) for task in of]
        rows = self._means(model, parts)
        rows = [[row[of[tested[task]]] for task in tasks] for row in rows]
        return rows[0], rows[1] if len(rows) > 1 else None

    def on_classes(
        self,
        model: nn.Module,
        classifier: Classifier | None,
        classes: Sequence[int],
    ) -> float:
        """The accuracy on the test samples of some classes, of all tasks together, each counted once."""
        samples = self.tasks.testing_once(range(len(self.tasks)), self.device)
        chosen = torch.isin(samples.y, torch.tensor(classes, device=samples.y.device)).nonzero().squeeze(1)
        return self._means(model, [(classifier or model, samples.part(chosen))])[0][0]

    def _means(self, model: nn.Module, parts: list[tuple[Classifier, Rows]]) -> list[list[float]]:
        """The mean of each measure over each part by its classifier, the network in the mode for tests meanwhile."""
        with evaluating(model), self.passes.paused():
            sums = self._sums(parts)
        return [[total / len(part) for total, (_, part) in zip(row, parts)] for row in self.comm.sum(sums).tolist()]

    def _sums(self, parts: list[tuple[Classifier, Rows]]) -> torch.Tensor:
        """Sums of each measure over this rank's batches of each part."""
        sums = torch.zeros(self.objective.measures, len(parts), dtype=torch.float64, device=self.device)
        for place, (classifier, samples) in enumerate(parts):
            # Whole batches are shared out, not samples: each is computed as one rank alone would compute it, so the
            # sums are the same at any number of ranks.
            for batch in in_order(samples, self.batch_size, self.comm.rank, self.comm.size):
                for row, values in enumerate(self.objective.measure(classifier(self.transform.test(batch.x)), batch)):
                    sums[row, place] += values.sum()
        return sums
