"""Averages of the networks after each task: they take the network's place, and the next task starts from them."""

from collections.abc import Callable
from typing import Literal

import torch

from cl.data.rows import Rows
from cl.step.average import Average
from cl.values import Count, InnerFraction


class TaskMean(Average):
    """average <- (1 - lambda) average + lambda weights, after each task but the first; the next task starts from it.

    Continual model averaging, CoMA (Marouf et al. 2024, Weighted Ensemble Models Are Strong Continual Learners), with
    `weight` for lambda: a number, or 1/t in task t, with which all tasks have the same share of the last step.
    Statistics of batch-norm are averaged in the same way. The outputs of labels that are new in a task keep the weights
    of that task, as in the paper, where they are a new head. What the strategy does at the end of a task (exemplars,
    anchors, class means) it does with the average.
    """

    in_place = needs_boundaries = True

    def __init__(self, weight: InnerFraction | Literal["1/t"] = "1/t"):
        self.weight = weight
        self.before: dict[str, torch.Tensor] = {}  # the average so far; within a stage after the first
        self.seen: list[int] = []  # labels of the stages before

    def start_stage(self, stage: int) -> None:
        self.before = {name: value.detach().clone() for name, value in self._parts()} if stage else {}

    @torch.no_grad()
    def end_stage(self, stage: int, samples: Rows, training_set: Callable[[], Rows]) -> None:
        new = [] if self.context.head is None else sorted(set(samples.y.tolist()) - set(self.seen))
        head = [] if self.context.head is None else [id(weight) for weight in self.context.head.parameters()]
        share = 1 / (stage + 1) if self.weight == "1/t" else self.weight
        shares = self.shares(stage, samples, share)
        for name, value in self._parts() if self.before else ():
            mean = torch.lerp(self.before[name], value, shares.get(name, share))
            if id(value) in head:
                mean[new] = value[new]
            value.copy_(mean)
        self.before, self.seen = {}, sorted({*self.seen, *new})

    def shares(self, stage: int, samples: Rows, share: float) -> dict[str, torch.Tensor]:
        """Of the weights by name: the share of the new value of each number, where that is not `share` for all."""
        return {}

    def _parts(self) -> list[tuple[str, torch.Tensor]]:
        """All trained weights and statistics, each once; not counters."""
        named = [*self._trained(), *self.model.named_buffers()]
        return [(name, value) for name, value in named if value.is_floating_point()]

    def _trained(self) -> list[tuple[str, torch.Tensor]]:
        return [item for item in self.model.named_parameters() if item[1].requires_grad]

    def state_dict(self) -> dict:
        return {"before": self.before, "seen": self.seen}

    def load_state_dict(self, state: dict) -> None:
        own = dict(self._parts())
        self.before = {name: value.to(own[name].device) for name, value in state["before"].items()}
        self.seen = state["seen"]


class FisherTaskMean(TaskMean):
    """((1 - lambda) F' average + lambda F weights) / ((1 - lambda) F' + lambda F), number by number, after each task.

    Continual Fisher-weighted model averaging, CoFiMA (Marouf et al. 2024): F and F' are the diagonals of the Fisher
    information after this task and the one before, each with the weights at the end of its training and on its samples
    (options as of `Ewc`). Where both are 0 the mean is that of `TaskMean`. The published code squares gradients of
    batches, cuts F at 1e-4 and multiplies the rows of new labels by F; here F is of single samples, and neither is
    done. `weight` 0.4 is that of its configuration for CIFAR-100.
    """

    needs_labels = True

    def __init__(
        self, weight: InnerFraction | Literal["1/t"] = 0.4,
        fisher_labels: Literal["all", "sampled", "empirical"] = "empirical", fisher_samples: Count | None = None,
    ):  # fmt: skip
        super().__init__(weight)
        self.fisher_labels, self.fisher_samples = fisher_labels, fisher_samples
        self.fisher: list[torch.Tensor] = []  # of the task before

    def shares(self, stage: int, samples: Rows, share: float) -> dict[str, torch.Tensor]:
        before, self.fisher = self.fisher, self.context.fisher(stage, samples, self.fisher_labels, self.fisher_samples)
        found = {}
        for (name, _), old, new in zip(self._trained(), before, self.fisher):
            total = (1 - share) * old + share * new
            found[name] = torch.where(total > 0, share * new / total, share)
        return found

    def state_dict(self) -> dict:
        return super().state_dict() | {"fisher": self.fisher}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.fisher = [value.to(weight.device) for value, (_, weight) in zip(state["fisher"], self._trained())]
