"""X-DER (Boschini et al. 2022, Class-Incremental Continual Learning into the eXtended DER-verse, section 4).

DER++ whose stored logits are brought up to date, with an output range for each task: on samples of a task the outputs
of earlier and of later tasks are kept below its own.
"""

import numpy as np
import torch
import torch.nn.functional as F

from cl.buffers.base import Field, Records
from cl.data.rows import Rows
from cl.networks.modes import evaluating, untracked
from cl.scenarios.base import Scenario
from cl.scenarios.outputs import keep_only, tasks_of
from cl.strategies.context import StrategyContext
from cl.strategies.contrast import supervised_contrast
from cl.strategies.der import distillation
from cl.strategies.replay import ReplayStrategy
from cl.values import Count, InnerFraction, NotNegative, Positive

PART = 500  # images whose logits are computed at once


class Xder(ReplayStrategy):
    """CE(f(x), y) over the task's outputs + alpha MSE(f(x'), z') + beta CE(f(x''), y'') over those of earlier tasks.

    To that come `eta` times two hinges with the margin `margin`: in the prediction for x, that the largest output of
    earlier tasks stays below the largest of the task; in the logits for x, x' and x'', that the largest output of later
    tasks stays below the largest of the sample's own task. Each is a mean over the samples that violate it.

    Later tasks' outputs are prepared: `lambda_` times the supervised contrastive loss of the logits of each later task,
    between two augmented views of x, x' and x'' (a mean over these tasks).

    The memory holds equally many samples of each class so far, which are chosen at the end of its task. Stored logits
    of earlier tasks' outputs (of a new record), and of the present and later ones (of the older records), are those of
    the network, scaled so that the largest is at most `gamma` times that of the true class. The older records are
    revised at the end of each task, and within it when they are drawn, the n-th time with probability 1 / n.

    The hinges are those of the authors' code (Mammoth); that scales only logits above that of the true class, and
    computes those at the end of a task with augmentation and the statistics of each batch. A record whose true class
    has no positive logit is not revised. The views are those of `dataset.augment`, where the authors contrast stronger
    ones, of another draw.
    """

    defined_in = ("class",)
    needs_labels = True
    num_draws = 2

    def __init__(
        self,
        replay_batch_size: Count,
        alpha: NotNegative,
        beta: NotNegative,
        gamma: InnerFraction = 0.85,
        eta: NotNegative = 0.1,
        margin: NotNegative = 0.3,
        lambda_: NotNegative = 0.05,
        temperature: Positive = 5.0,
    ):
        super().__init__(replay_batch_size, replay_from=2, filling="task_end")
        self.alpha, self.beta, self.gamma, self.eta, self.margin = alpha, beta, gamma, eta, margin
        self.lambda_, self.temperature = lambda_, temperature
        self.answers: list[tuple[Records, torch.Tensor]] = []  # the records of a step and their logits

    def check(self, scenario: Scenario, buffer: dict) -> None:
        if scenario.concatenate:
            raise ValueError(
                "strategy=xder trains the outputs of each task on its own samples: set scenario.concatenate=false"
            )
        if buffer["insertion"] != "class_balanced":
            raise ValueError(
                f"strategy=xder keeps equally many samples of each class: buffer.insertion=class_balanced, got "
                f"{buffer['insertion']}"
            )

    def setup(self, context: StrategyContext) -> None:
        super().setup(context)
        if self.capacity < self.outputs.num_outputs:
            raise ValueError(
                f"strategy=xder needs a record of each class: buffer.capacity={self.capacity} is too small for "
                f"{self.outputs.num_outputs} classes"
            )

    def fields(self, sample_shape: tuple[int, ...], output_shape: tuple[int, ...], *other, **named) -> list[Field]:
        logits = Field("logits", output_shape, torch.float32)
        drawn = Field("drawn", (), torch.int64)  # how often in this task
        return [*super().fields(sample_shape, output_shape, *other, **named), logits, drawn]

    def set_stage(self, stage: int) -> None:
        super().set_stage(stage)
        before, so_far = (tasks_of(self.stages[:count]) for count in (stage, stage + 1))
        self.past, self.seen = self.outputs.of_tasks(before), self.outputs.of_tasks(so_far)
        self.present, self.future = self.seen & ~self.past, ~self.seen
        self.later = [outputs for task, outputs in enumerate(self.outputs.task_outputs) if task not in so_far]

    def loss(self, batch: Rows, draws: list[Records]) -> torch.Tensor:
        draws = [draw for draw in draws if len(draw)]
        outputs = self.forward_each(batch["x"], *(draw["x"] for draw in draws))
        new, *replayed = [logits.float() for logits in outputs]
        self.answers += [(draw, logits.detach()) for draw, logits in zip(draws, replayed)]
        loss = F.cross_entropy(keep_only(new, self.present), batch["y"])
        if self.past.any():
            loss = loss + self.eta * self.past_hinge(new)
        if self.later:
            parts, of_parts = [batch, *draws], [new, *replayed]
            loss = loss + self.eta * self.future_hinge(parts, of_parts)
            if self.lambda_:
                loss = loss + self.lambda_ * self.preparation(parts, of_parts)
        loss = batch.weighted(loss)
        if draws:
            (first, second), (of_first, of_second) = draws, replayed
            labels = F.cross_entropy(keep_only(of_second, self.past), second["y"])
            loss = loss + self.alpha * distillation(of_first, first) + self.beta * second.weighted(labels)
        return loss

    def past_hinge(self, new: torch.Tensor) -> torch.Tensor:
        """By how much the most probable of the earlier tasks' outputs comes too near to the most probable own one."""
        predicted = keep_only(new, self.seen).softmax(1)
        return violation(predicted[:, self.past].amax(1).detach() + self.margin - predicted[:, self.present].amax(1))

    def future_hinge(self, parts: list[Rows], outputs: list[torch.Tensor]) -> torch.Tensor:
        """The same for the logits of later tasks' outputs and those of each sample's own task."""
        own = [self.outputs.mask_others(logits, rows["task"]).amax(1) for rows, logits in zip(parts, outputs)]
        return violation(torch.cat(outputs)[:, self.future].amax(1) + self.margin - torch.cat(own))

    def preparation(self, parts: list[Rows], outputs: list[torch.Tensor]) -> torch.Tensor:
        """The contrastive loss, from the logits of the step and those of the same images augmented once more."""
        with untracked(self.model):
            again = self.forward(torch.cat([rows["x"] for rows in parts])).float()
        views, labels = torch.cat([*outputs, again]), torch.cat([rows["y"] for rows in parts]).repeat(2)
        heads = [views[:, outputs.start : outputs.stop] for outputs in self.later]
        return sum(supervised_contrast(head, labels, self.temperature) for head in heads) / len(heads)

    def exchange(self, offers: list[dict[str, torch.Tensor]]) -> None:
        self.revise_drawn()
        super().exchange(offers)

    def revise_drawn(self) -> None:
        """Revise the records of the step, each with a probability that falls with the number of its draws."""
        answers, self.answers = self.answers, []
        if not answers:
            return
        draws, outputs = zip(*answers)
        ids = torch.cat([draw.ids for draw in draws])
        once = torch.from_numpy(np.unique(ids.numpy(), return_index=True)[1])  # a record may be in both draws
        ids, once = ids[once], once.to(self.updater.device)
        y, stored, drawn = (torch.cat([draw[name] for draw in draws])[once] for name in ("y", "logits", "drawn"))
        revised = implanted(stored, torch.cat(outputs)[once], y, ~self.past, self.gamma)
        self.buffer.update("drawn", ids, drawn + 1)
        due = torch.rand(len(ids)) * (drawn + 1).cpu() < 1
        self.buffer.update("logits", ids[due], revised[due.to(revised.device)])

    def after_task(self, stage: int, samples: Rows) -> None:
        if stage:
            self.revise_all()
        super().after_task(stage, samples)

    def revise_all(self) -> None:
        """Revise all records that are stored, each rank a part of them."""
        for _ in range(self.buffer.pending):
            self.buffer.receive()
        self.buffer.request(self.capacity)
        records, comm = self.buffer.receive(), self.updater.comm
        mine = records.ids.argsort()[comm.rank :: comm.size]  # each rank draws the records in another order
        ids, own = records.ids[mine], Rows(records.columns).part(mine.to(records["y"].device))
        logits = self.logits_of(own["x"])
        self.buffer.update("logits", ids, implanted(own["logits"], logits, own["y"], ~self.past, self.gamma))
        self.buffer.update("drawn", ids, torch.zeros_like(own["drawn"]))

    def chosen(self, stage: int, samples: Rows) -> dict[str, torch.Tensor]:
        classes, new = int(self.seen.sum()), int(self.present.sum())
        own = self.share(stage, samples, -(-self.capacity // classes) * new).to(self.updater.device)
        logits = self.logits_of(own["x"])
        logits = implanted(logits, logits, own["y"], self.past, self.gamma)
        return own.columns | {"logits": logits, "drawn": torch.zeros_like(own["y"])}

    def logits_of(self, x: torch.Tensor) -> torch.Tensor:
        """[n, C] of raw images, without augmentation."""
        if not len(x):  # fewer records than ranks
            return torch.empty(0, self.outputs.num_outputs, device=x.device)
        with evaluating(self.model):
            return torch.cat([self.model(self.transform.test(part)).float() for part in x.split(PART)])


def violation(excess: torch.Tensor) -> torch.Tensor:
    """The mean of the positive numbers among these; 0 where there is none."""
    positive = excess.clamp(min=0)
    return positive.sum() / (positive > 0).sum().clamp(min=1)


def implanted(
    stored: torch.Tensor, current: torch.Tensor, y: torch.Tensor, outputs: torch.Tensor, gamma: float
) -> torch.Tensor:
    """Stored logits [n, C] with those of `outputs` [C] bool as they are in `current` [n, C], scaled where necessary.

    The largest of those is at most gamma times the stored logit of the true class; where that is not positive, all stay
    as they are stored.
    """
    if not outputs.any() or not len(y):
        return stored
    true = stored.gather(1, y[:, None])
    limit, largest = gamma * true, current[:, outputs].amax(1, keepdim=True)
    factor = torch.where(largest > limit, limit / largest, 1.0)
    return torch.where(outputs & (true > 0), factor * current, stored)
