"""The training step, written once. A strategy overrides the piece in which its paper differs.

A step is: receive the replayed records, loss, remember the new samples and request the records of the next step, then
backward, adjust the gradients, optimizer step.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from cl.buffers.base import Field, Records
from cl.data.rows import Rows
from cl.networks.backbones import mixes_samples
from cl.scenarios.base import Scenario
from cl.step.objectives import Labels
from cl.strategies.context import StrategyContext
from cl.strategies.logged import Logged


class Strategy:
    """Plain training on the new samples. Options are constructor arguments; `setup` brings what they work on.

    A run calls, for each stage of training: `before_task`, `start_task`, `training_set`, `observe` for each batch of
    that, `after_task`, `classifier`. A run that was stopped within a stage builds everything again, loads the states
    of network, updater, strategy, memory and generators, and goes on with `training_set`: `before_task` and
    `start_task` are not called again for that stage.
    """

    # Kinds of scenarios (`Scenario.kind`), where not targets.
    defined_in: tuple[str, ...] = ("class", "task", "domain", "stream")
    needs_boundaries = False  # whether it has to be told when a task ends and the next begins
    trains = True  # whether it takes gradient steps; without, it sees each sample once, whatever epochs and steps say
    needs_labels = False  # whether its loss or its memory is about classes
    mixable = False  # whether all of its loss on labels is one mean, so that images can be mixed (mixup, CutMix)
    uses_memory = False  # whether it stores samples; then `buffer.capacity` says how many
    uses_buffer = False  # whether it stores them in the replay memory
    changes_gradients = False  # whether `adjust_gradients` does anything
    follows_weights = (
        ""  # of a method that goes wrong where its weights are replaced at the end of a task: what it does
    )
    # Of this class itself, not of those below it: whether loss and records follow from rows and weights alone, so that
    # several networks can take a step together.
    stackable = False
    tested_within = True  # whether what it tests is there, and testing it changes nothing, between two steps of a task
    changes_network = False  # whether `after_task` changes the network, so that an average of weights is another one
    starts_anew = False  # whether a stage starts from weights that do not come from the stage before
    keeps_weights = ""  # the option for which a stage starts from weights of those before it, if there is one
    needs_start = ""  # for a method whose stages start from weights that it is given: what to say where there are none
    draw_sizes: tuple[int, ...] = ()  # records of each independent draw per step; 0: none in this stage
    stage: int | None = None  # of training, the one that is under way or was the last

    def trained(self, model: nn.Module, num_outputs: int, seed: int) -> nn.Module:
        """What the optimizer trains: the network, perhaps with a module of the method's own, such as a projection.

        Asked for once, before `setup`. The weights of such a module are part of `state_dict`.
        """
        return model

    def setup(self, context: StrategyContext) -> None:
        """Take what the strategy works on; called once, before anything else but `curriculum` and `check`.

        Raises ValueError where the options do not fit that.
        """
        self.model, self.updater, self.transform = context.model, context.updater, context.transform
        self.network = context.model if context.network is None else context.network
        self.outputs, self.buffer, self.capacity = context.outputs, context.buffer, context.capacity
        self.objective = Labels(context.outputs) if context.objective is None else context.objective
        self.stages, self.seed, self.initial_weights = context.stages, context.seed, context.initial_weights
        self.forward_together, self.fewest_samples = not mixes_samples(context.model), context.fewest_samples
        self.trained_columns = ("x", *self.objective.columns)
        self.replayed_samples, self.logged, self.passes = 0, Logged(), context.passes

    def fields(
        self,
        sample_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
        dtype: torch.dtype = torch.uint8,
        targets: dict[str, tuple[int, ...]] | None = None,
    ) -> list[Field]:
        """What a record of the memory holds, from the shapes of a sample, of an output and of each target."""
        return [
            Field("x", sample_shape, dtype),
            Field("y", (), torch.int64),
            Field("task", (), torch.int64),
            *(Field(name, shape, torch.float32) for name, shape in (targets or {}).items()),
        ]

    def curriculum(self, num_tasks: int, concatenate: bool) -> list[list[int]]:
        """The tasks whose data each stage of training uses; after each stage all tasks are tested."""
        return [list(range(t + 1)) if concatenate else [t] for t in range(num_tasks)]

    def check(self, scenario: Scenario, buffer: dict) -> None:
        """Raise ValueError for a scenario, or options of the memory, with which the method is not defined."""

    def before_task(self, stage: int, samples: Rows) -> None:
        """Called before each stage of training, with its samples; the network is as the stage before has left it."""
        self.set_stage(stage)

    def set_stage(self, stage: int) -> None:
        """Set all that follows from the number of a stage alone: before the stage, and when a state is loaded."""
        self.stage = stage

    def start_task(self, stage: int) -> None:
        """Called after that, once the run's options have set weights and optimizer to what the stage starts from.

        A strategy that chooses the weights with which a stage starts sets them here.
        """

    def training_set(self, stage: int, samples: Rows) -> Rows:
        """What a stage trains on, asked for after `start_task`, and again after a resume within the stage.

        It changes nothing, and gives the same rows each time.
        """
        return samples

    def after_task(self, stage: int, samples: Rows) -> None:
        """Called after each stage of training, before the test."""

    def classifier(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """What is tested: from transformed images to a score [B, C] for each output."""
        return self.model

    @property
    def nbytes(self) -> int:
        """Bytes of samples that this rank keeps outside the memory."""
        return 0

    def stored_samples(self) -> list[Rows]:
        """Samples that the strategy keeps outside the memory, the same on all ranks, as tensors of `state_dict`.

        All other tensors of that count as statistics.
        """
        return []

    def state_dict(self) -> dict:
        """What a resumed run needs beside network, optimizer and memory; at any time between two steps.

        Tensors and plain Python values, the same on all ranks. Tensors may be those in use: whoever keeps them beyond
        the next step copies them. What differs between ranks is in `logged`, which has a state too.
        """
        return {"stage": self.stage, "replayed_samples": self.replayed_samples}

    def load_state_dict(self, state: dict) -> None:
        """Take back what `state_dict` returned, after `setup`; the network must have its weights already."""
        self.replayed_samples = state["replayed_samples"]
        if state["stage"] is not None:
            self.set_stage(state["stage"])

    def observe(self, batch: Rows) -> torch.Tensor:
        """One training step on new samples; returns the loss, on the device."""
        draws = self.select(batch, self.recall())
        self.updater.clear()
        total, offers = None, []
        parts = self.micro_batches(batch, draws)
        # A GPU computes the backward pass while this process stores records; a processor cannot do both at once, and
        # asks for the next records first.
        exchange_last = self.updater.device.type == "cuda"
        for number, (new, replayed) in enumerate(parts, start=1):
            with self.updater.autocast():
                loss = self.loss(new, replayed)
            total = loss.detach() if total is None else total + loss.detach()
            if self.buffer is not None:
                if new.loss_weight:
                    offers.append(self.buffer.fetch(self.remember(new)))
                if number == len(parts) and not exchange_last:
                    self.exchange(offers)
            self.updater.backward(loss)
        if self.buffer is not None and exchange_last:
            self.exchange(offers)
        self.updater.reduce()
        self.adjust_gradients(batch, draws)
        self.updater.step()
        return total

    def exchange(self, offers: list[dict[str, torch.Tensor]]) -> None:
        """Offer the new samples to the memory, and ask for the records of the next step.

        As soon as the forward pass is done, on a GPU as soon as it has been given the backward pass: the records come
        while that is computed and the gradients are exchanged. What is drawn does not depend on the weights.
        """
        for offer in offers:
            self.buffer.add(offer)
        for size in self.draw_sizes:
            self.buffer.request(size)

    def micro_batches(self, batch: Rows, draws: list[Records]) -> list[tuple[Rows, list[Records]]]:
        """The parts of a step, one for each backward pass: new and replayed samples cut into as many."""
        count = min(self.updater.accumulation_steps, max(1, len(batch) // self.fewest_samples))
        if count == 1:
            return [(batch, draws)]
        cut = [draw.split(count) for draw in draws]
        return [(new, [parts[i] for parts in cut]) for i, new in enumerate(batch.split(count))]

    def recall(self) -> list[Records]:
        """The draws requested after the step before: one per entry of `draw_sizes`, or none before the first step.

        A draw is empty (length 0) where its size is 0, or nothing is stored yet.
        """
        if self.buffer is None:
            return []
        draws = [self.buffer.receive() for _ in range(self.buffer.pending)]
        self.replayed_samples += sum(map(len, draws))
        return draws

    def select(self, batch: Rows, draws: list[Records]) -> list[Records]:
        """The records that the step on these new samples replays, of those that were drawn for it: all of them."""
        return draws

    def take_replayed(self) -> int:
        """Number of records replayed since the last call."""
        count, self.replayed_samples = self.replayed_samples, 0
        return count

    def log(self, name: str, value: torch.Tensor | float) -> None:
        """Show the mean of a number over the interval, under this name; without waiting for the device.

        For `observe` and what it calls. A tensor must have one element. With several ranks, all log the same names.
        """
        self.logged.add(name, value)

    def take_logged(self) -> dict[str, float]:
        """The mean of each logged number since the last call, on this rank."""
        return self.logged.take()

    def loss(self, batch: Rows, draws: list[Records]) -> torch.Tensor:
        """The scalar to minimise on new samples and replayed records."""
        return self.loss_together([batch])

    def loss_together(self, parts: list[Rows]) -> torch.Tensor:
        """The mean loss over some parts together, from one forward pass; images are mixed where that is asked for."""
        rows = Rows.cat(parts, self.trained_columns)
        x = self.transform.train(rows["x"])
        if not self.transform.mixes:
            return rows.weighted(self.objective.loss(self.network(x), rows))
        x, partner, weight = self.transform.mixed(x)
        return rows.weighted(self.objective.mixed_loss(self.network(x), rows, partner, weight))

    def adjust_gradients(self, batch: Rows, draws: list[Records]) -> None:
        """Change the gradients between backward and the optimizer step."""

    def remember(self, batch: Rows) -> dict[str, torch.Tensor]:
        """What is offered to the memory: the samples as they were before augmentation."""
        return batch.columns

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of raw samples, augmented afresh."""
        if len(x) < self.fewest_samples:
            raise ValueError(
                "one record alone cannot go through a network with batch normalisation, which takes a variance over "
                "several: raise buffer.capacity or strategy.replay_batch_size"
            )
        return self.network(self.transform.train(x))

    def forward_each(self, *parts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits of several groups of raw samples, each as if it went through the network alone.

        Where no layer mixes the samples of a batch, that is one pass over all of them, which is faster. A group that is
        too small for batch-norm goes with the group before it.
        """
        if self.forward_together:
            passes = [list(parts)]
        else:
            passes = []
            for part in parts:
                if passes and len(part) < self.fewest_samples:
                    passes[-1].append(part)
                else:
                    passes.append([part])
        outputs: list[torch.Tensor] = []
        for together in passes:
            outputs += self.forward(torch.cat(together)).split([len(part) for part in together])
        return tuple(outputs)

    def cross_entropy(self, logits: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Mean cross entropy; where training is told the task, over the outputs of each sample's task only."""
        if self.outputs.task_aware:
            logits = self.outputs.mask_others(logits, rows["task"])
        return F.cross_entropy(logits, rows["y"])

    def mean_loss(self, outputs: torch.Tensor, parts: list[Rows]) -> torch.Tensor:
        """The mean loss over some parts together, from their outputs in the same order."""
        if len(parts) > 1 and not all(part.loss_weight for part in parts):
            pieces = outputs.split([len(part) for part in parts])
            outputs = torch.cat([piece for piece, part in zip(pieces, parts) if part.loss_weight])
            parts = [part for part in parts if part.loss_weight]
        rows = Rows.cat(parts, self.objective.columns)
        return rows.weighted(self.objective.loss(outputs, rows))
