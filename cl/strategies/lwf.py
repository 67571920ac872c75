"""Learning without Forgetting (Li & Hoiem 2017): the network before the task teaches the one that learns it."""

from typing import Literal

import torch
from torch import nn

from cl.buffers.base import Records
from cl.data.rows import Rows
from cl.scenarios.base import Scenario
from cl.scenarios.outputs import keep_only, tasks_of
from cl.strategies.base import Strategy
from cl.strategies.context import StrategyContext
from cl.strategies.head import last_layer
from cl.strategies.teacher import loaded_teacher, new_teacher
from cl.values import Natural, NotNegative, Positive


class Lwf(Strategy):
    """CE(f(x), y) + alpha KD(f(x), f_old(x)) on the new samples, KD = -sum_c p_c(f_old / T) log p_c(f / T).

    Where the task is known both are over the outputs of a task: CE over those of the sample's, KD over those of each
    task before, added up. Where tasks bring outputs and are not told apart, CE is over the `outputs` "seen" so far
    or "all", and KD is `distilled` over the "old" ones (the paper's), over those "seen" with 0 as the target of new
    ones, or over "all". Where tasks share their outputs, both are over all.

    `weighting`: "sum_over_tasks" has a KD for each task before also where they share their outputs, CE + (t - 1) alpha
    KD in task t (as the code of van de Ven et al. 2022); "by_task" is 1/t CE + (1 - 1/t) alpha KD, KD as a mean over
    the tasks. `temperature_squared`: KD times T^2 (Hinton et al. 2015; not in the paper). `warmup_steps`: with how many
    of its steps each task after the first trains its own outputs alone, by CE, all else as it is (the paper: until they
    have converged); comparisons have none.
    """

    needs_labels = needs_boundaries = True
    steps_left = 0  # of the warm-up
    teacher: nn.Module | None = None  # the network before the task; None in the first task and between two tasks

    def __init__(
        self,
        alpha: NotNegative = 1.0,
        temperature: Positive = 2.0,
        temperature_squared: bool = False,
        outputs: Literal["seen", "all"] = "seen",
        distilled: Literal["old", "seen", "all"] = "old",
        weighting: Literal["together", "sum_over_tasks", "by_task"] = "together",
        warmup_steps: Natural = 0,
    ):
        self.alpha, self.temperature, self.weighting = alpha, temperature, weighting
        self.factor = temperature**2 if temperature_squared else 1.0
        self.trained_outputs, self.distilled, self.warmup_steps = outputs, distilled, warmup_steps
        self.changes_gradients = warmup_steps > 0

    def check(self, scenario: Scenario, buffer: dict) -> None:
        if self.warmup_steps and not scenario.task_outputs:
            raise ValueError(
                "strategy.warmup_steps trains the outputs that a task brings, and here tasks share theirs: set it to 0"
            )

    def setup(self, context: StrategyContext) -> None:
        super().setup(context)
        if self.warmup_steps:
            self.head = list(last_layer(self.model, self.outputs.num_outputs, "strategy.warmup_steps").parameters())

    def before_task(self, stage: int, samples: Rows) -> None:
        super().before_task(stage, samples)
        self.teacher = new_teacher(self.model) if stage else None
        self.steps_left = self.warmup_steps if stage else 0

    def set_stage(self, stage: int) -> None:
        super().set_stage(stage)
        self.task_number = stage + 1
        past, so_far = (tasks_of(self.stages[:count]) for count in (stage, stage + 1))
        old, seen = (self.outputs.of_tasks(tasks) for tasks in (past, so_far))
        self.classes = seen if self.trained_outputs == "seen" else torch.ones_like(seen)
        self.new = seen & ~old
        # Each distillation: over which outputs the old network predicts, and over which the new one.
        self.pairs, self.repeats = [], 1
        if self.outputs.task_aware:
            self.pairs = [(list(self.outputs.task_outputs[task]),) * 2 for task in past]
        else:
            every = torch.ones_like(seen)
            pair = {"old": (old, old), "seen": (old, seen), "all": (every, every)}[self.distilled]
            self.pairs = [tuple(mask.nonzero()[:, 0].tolist() for mask in pair)]
            if self.outputs.shared and self.weighting == "sum_over_tasks":
                self.repeats = len(past)

    def after_task(self, stage: int, samples: Rows) -> None:
        self.teacher = None

    def state_dict(self) -> dict:
        teacher = None if self.teacher is None else self.teacher.state_dict()
        return super().state_dict() | {"teacher": teacher, "steps_left": self.steps_left}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.teacher, self.steps_left = loaded_teacher(self.model, state["teacher"]), state["steps_left"]

    def loss(self, batch: Rows, draws: list[Records]) -> torch.Tensor:
        x = self.transform.train(batch["x"])
        logits = self.network(x)
        new = batch.weighted(self.cross_entropy(keep_only(logits, self.classes), batch))
        if self.teacher is None or self.warming:
            return new
        with torch.no_grad():
            targets = self.teacher(x)
        old = sum(distillation(logits[:, ours], targets, ours, theirs, self.temperature) for theirs, ours in self.pairs)
        old = self.alpha * self.factor * self.repeats * batch.weighted(old)
        if self.weighting != "by_task":
            return new + old
        return new / self.task_number + old / len(self.pairs) * (1 - 1 / self.task_number)

    @property
    def warming(self) -> bool:
        """Whether the step trains the outputs of the new task alone."""
        return self.steps_left > 0

    def observe(self, batch: Rows) -> torch.Tensor:
        if not self.warming:
            return super().observe(batch)
        kept = [weight.detach()[~self.new].clone() for weight in self.head]
        self.model.eval()  # batch statistics stay as they are
        loss = super().observe(batch)
        self.model.train()
        with torch.no_grad():  # momentum and weight decay move weights without a gradient
            for weight, rows in zip(self.head, kept):
                weight[~self.new] = rows
        self.steps_left -= 1
        return loss

    def adjust_gradients(self, batch: Rows, draws: list[Records]) -> None:
        if not self.warming:
            return
        trained = {id(weight) for weight in self.head}
        for weight in self.updater.weights:
            if id(weight) not in trained:
                weight.grad = None
            elif weight.grad is not None:
                weight.grad[~self.new] = 0


def distillation(
    logits: torch.Tensor, targets: torch.Tensor, outputs: list[int], old: list[int], temperature: float
) -> torch.Tensor:
    """The cross entropy of two predictions at a temperature, mean over samples.

    `logits` [n, len(outputs)] are those of `outputs`, `targets` [n, C] predict over `old`, some of `outputs`.
    """
    places = [outputs.index(output) for output in old]
    expected = (targets[:, old] / temperature).softmax(1)
    return -(expected * (logits / temperature).log_softmax(1)[:, places]).sum(1).mean()
