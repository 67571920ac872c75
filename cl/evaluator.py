"""Accuracy on every task's test samples: with and without the task known, from one forward pass."""

from collections.abc import Callable

import torch
from torch import nn

from cl.comm import Comm
from cl.scenarios import Tasks
from cl.transforms import BatchTransform


class Evaluator:
    """Tests a network on all tasks.

    `foreign_outputs` [T, C] bool: for each task the outputs that are not its own; None where tasks share their labels.
    The batches are shared out to the ranks of `comm`, every rank gets the result.
    """

    def __init__(
        self,
        tasks: Tasks,
        transform: BatchTransform,
        foreign_outputs: torch.Tensor | None,
        batch_size: int,
        device: torch.device,
        comm: Comm,
    ):
        self.comm = comm
        self.tasks, self.transform, self.foreign_outputs = tasks, transform, foreign_outputs
        self.batch_size, self.device = batch_size, device

    @torch.no_grad()
    def __call__(
        self, model: nn.Module, classifier: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> tuple[list[float], list[float] | None]:
        """Accuracies in [0, 1] per task: over all outputs, and over the task's own (None where they are shared).

        `classifier` is what gives the scores of images, with the help of `model`; None: the network itself.
        """
        classifier = classifier or model
        was_training = model.training
        model.eval()
        correct = torch.zeros(2, len(self.tasks), dtype=torch.int64, device=self.device)
        totals = []
        for task_id in range(len(self.tasks)):
            samples = self.tasks.testing(task_id, self.device)
            totals.append(len(samples))
            batches = list(zip(samples.x.split(self.batch_size), samples.y.split(self.batch_size)))
            # Whole batches are shared out, not samples: each is computed as one rank alone would compute it, so the
            # counts are the same at any number of ranks.
            for x, y in batches[self.comm.rank :: self.comm.size]:
                logits = classifier(self.transform.test(x))
                correct[0, task_id] += (logits.argmax(1) == y).sum()
                if self.foreign_outputs is not None:
                    logits = logits.masked_fill(self.foreign_outputs[task_id], float("-inf"))
                    correct[1, task_id] += (logits.argmax(1) == y).sum()
        model.train(was_training)
        correct = self.comm.sum(correct)
        rows = [[hits / total for hits, total in zip(row, totals)] for row in correct.tolist()]
        return rows[0], rows[1] if self.foreign_outputs is not None else None
