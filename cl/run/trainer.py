"""The loop over epochs and batches of one stage; it knows no method and no configuration."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import torch

from cl import seeding
from cl.data.loader import epoch_batches, num_batches
from cl.data.rows import Rows
from cl.reporting.recorder import Recorder
from cl.run.finite import not_finite
from cl.step.schedules import Schedule
from cl.strategies.base import Strategy


class DivergedError(ValueError):
    """The loss or the weights are not finite: perhaps the learning rate was too high."""


class Pauses(Protocol):
    """Where training is paused, and what happens then."""

    def next(self, trainer: "Trainer", steps: int) -> int:
        """The next step of this stage of `steps` after which to pause."""

    def test(self, stage: int, steps_done: int) -> None:
        """Called then, with the number of steps of all stages so far."""


class Trainer:
    """Trains a strategy, one stage at a time; what it costs is added to the history of `recorder`.

    `each_epoch`: called before each epoch; `each_step`: after each step; `on_step`: after that, with its number in the
    stage and its loss; `after_step`: last, with its number, when a state may be saved. `pauses`: training is paused
    where it says, for a test that takes none of its time. `ordered`: the samples of the stage come in their order, else
    they are shuffled in each pass. Its own state is the place within a stage, so training can go on in the middle.
    """

    def __init__(
        self,
        strategy: Strategy,
        schedule: Schedule,
        batch_size: int,
        seed: int,
        recorder: Recorder,
        each_epoch: Callable[[], None] | None = None,
    ):
        self.strategy, self.schedule, self.batch_size, self.seed = strategy, schedule, batch_size, seed
        self.recorder, self.history, self.each_epoch = recorder, recorder.history, each_epoch
        self.each_step: Callable[[], None] | None = None
        self.on_step: Callable[[int, torch.Tensor], None] | None = None
        self.after_step: Callable[[int], None] | None = None
        self.pauses: Pauses | None = None
        self.ordered = False
        self.comm, self.device = strategy.updater.comm, strategy.updater.device
        self.meter = Meter(self.device)
        self.stage: int | None = None
        self.beside = 1  # trainers at work at once (`cl.run.together`), each of which is counted its part of the time
        self.observed: torch.Tensor | None = None  # the loss on the last batch of `loop`
        self.step, self.loss = 0, math.nan  # steps of the stage that are done, mean loss of the last interval
        self._started: float | None = None  # since when the time is not in the history yet

    @property
    def _groups(self) -> list[dict]:
        return self.strategy.updater.optimizer.param_groups  # others after each load_state_dict

    def train(self, samples: Rows, stage: int, steps: int) -> float:
        """`steps` steps in as many passes over `samples` as they take; returns the mean loss of the last interval.

        Raises ValueError when the loss is not finite, at the end of the interval in which that happened, and when the
        weights are not, before the first step or after the last.
        """
        for batch in self.loop(samples, stage, steps):
            self.observed = self.strategy.observe(batch)
        return self.loss

    def loop(self, samples: Rows, stage: int, steps: int) -> Iterator[Rows]:
        """All of `train` but the steps themselves: whoever takes a batch does its step, and sets `observed`."""
        if self.stage != stage:
            self.start(stage)
        self._started = time.perf_counter()
        self.meter.start()
        while self.step < steps:
            stop = steps if self.pauses is None else min(steps, self.pauses.next(self, steps))
            yield from self._train_until(stop, samples, stage, steps)
        self._check_weights(f"after the last step of stage {stage + 1}")
        self._count_time()
        self._started = None

    def _train_until(self, stop: int, samples: Rows, stage: int, steps: int) -> Iterator[Rows]:
        """The steps up to number `stop` of `steps`; training is paused after the last of them unless the stage ends."""
        each_step, on_step, after_step = self.each_step, self.on_step, self.after_step
        for epoch, batch in self.batches(samples, stage, steps, stop):
            yield batch
            loss = self.observed
            self.meter.count(loss, len(batch) if batch.loss_weight else 0)
            self.step += 1
            if each_step is not None:
                each_step()
            if on_step is not None:
                on_step(self.step, loss)
            self.recorder.progress.step()
            if self.step % self.recorder.log_interval == 0 or self.step == steps:
                self.loss = self._log(stage, epoch, samples)
            if self.step == stop < steps:
                self._pause(stage)
            if after_step is not None:
                after_step(self.step)

    def _pause(self, stage: int) -> None:
        self.meter.pause()  # waits for the device
        self._count_time()
        self.pauses.test(stage, self.steps_done)
        self.meter.start()
        self._started = time.perf_counter()

    @property
    def steps_done(self) -> int:
        """The number of steps of all stages so far."""
        return self.history.gradient_steps + self.meter.steps

    def batches(self, samples: Rows, stage: int, steps: int, stop: int | None = None) -> Iterator[tuple[int, Rows]]:
        """The epoch and this rank's batch of each step from `step` on, up to number `stop` (None: all `steps`).

        The learning rate is set for each. Data that are streamed allow one reader at a time: whoever reads others
        meanwhile takes up the rest with another call.

        Whoever takes a batch counts its step in `step` before taking the next one.
        """
        rank, ranks, fewest = self.comm.rank, self.comm.size, self.strategy.fewest_samples
        batch_size = self.batch_size * self.strategy.updater.accumulation_steps
        epoch_steps = num_batches(len(samples), batch_size, ranks, fewest)
        stop = steps if stop is None else stop
        for epoch in range(self.step // epoch_steps, -(-stop // epoch_steps)):
            done = self.step - epoch * epoch_steps
            if self.each_epoch is not None and not done:
                self.each_epoch()
            batches = epoch_batches(
                samples, batch_size, self.seed, stage, epoch, rank, ranks, fewest, done, self.ordered
            )
            for batch in itertools.islice(batches, stop - self.step):
                if not self.schedule.is_constant:
                    self._set_rate((self.step + 0.5) / steps, steps / epoch_steps, steps)
                yield epoch, batch

    def start(self, stage: int, step: int = 0) -> None:
        """Begin a stage, perhaps after some steps, with streams of random numbers that it names.

        So nothing of them has to be saved between stages.
        Each rank has its own streams, so dropout and augmentation differ from rank to rank.
        """
        self._check_weights(f"before the first step of stage {stage + 1}")
        which = (stage, self.comm.rank) if self.comm.rank else (stage,)  # one rank alone draws as the first of several
        torch.manual_seed(seeding.derive(self.seed, "network", *which))
        self.strategy.transform.reseed(seeding.derive(self.seed, "augmentation", *which))
        self.stage, self.step, self.loss = stage, step, math.nan
        self.meter.reset()

    def _count_time(self) -> None:
        now = time.perf_counter()
        self.history.train_seconds += (now - self._started) / self.beside
        self._started = now

    def state_dict(self) -> dict:
        """The place within the stage, and what was measured since the last row."""
        if self._started is not None:  # in the middle of a stage
            self._count_time()
        return {"stage": self.stage, "step": self.step, "loss": self.loss, "meter": self.meter.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Take back what `state_dict` returned."""
        self.stage, self.step, self.loss = state["stage"], state["step"], state["loss"]
        self.meter.load_state_dict(state["meter"])

    def adopt(self, states: list[dict], rank: int) -> None:
        """Add what other ranks, not as many as these, had done since their last row."""
        steps = states[0]["meter"]["steps"]
        replayed = self.strategy.take_replayed() * len(states)
        self.history.gradient_steps += steps
        self.history.labelled_samples += sum(state["meter"]["samples"] for state in states) + replayed

    def _set_rate(self, progress: float, epochs: float, steps: int) -> None:
        factor = self.schedule.factor(progress, epochs, steps)
        for group, rate in zip(self._groups, self.strategy.updater.base_rates):
            group["lr"] = rate * factor

    def _check_weights(self, when: str) -> None:
        """The last step is followed by no loss that would tell."""
        if names := not_finite(self.strategy.model):
            raise DivergedError(
                f"{when} {', '.join(names[:3])}{' ...' * (len(names) > 3)} has numbers that are not finite"
            )

    def _not_finite(self, loss: float, rate: float, samples: Rows) -> str:
        """What is known of a loss that is not finite."""
        words = f"the loss is {loss} after {self.history.gradient_steps} steps, the last at a learning rate of {rate:g}"
        strength = getattr(self.strategy, "strength", None)
        if strength is not None:
            words += f" and a penalty of strength {strength:g} (lambda_ of ewc, twice lambda_ of mas or c of si)"
        for name, column in samples.columns.items():
            if isinstance(column, torch.Tensor) and not torch.isfinite(column).all():
                return f"{words}: the column {name} of the training data has numbers that are not finite"
        more = "" if strength is None else " or a weaker penalty"
        return f"{words}: training has diverged, perhaps a lower learning rate{more} helps"

    def _log(self, stage: int, epoch: int, training_set: Rows) -> float:
        """Close an interval; returns its mean loss."""
        buffer, rate = self.strategy.buffer, self._groups[0]["lr"] if self.strategy.trains else 0.0
        steps, samples, seconds, loss = self.meter.take()
        # One exchange per interval. The mean of the ranks' losses is that of all samples: they are weighted.
        logged = self.strategy.take_logged()
        own = [loss, samples, self.strategy.take_replayed(), 0.0, 0, len(logged)]
        if buffer is not None:
            own[3:5] = buffer.wait_seconds, len(buffer)
        sums = self.comm.sum(torch.tensor(own, dtype=torch.float64, device=self.device))
        loss, samples, replayed, waited, stored, num_logged = sums.tolist()
        loss, waited = loss / self.comm.size, waited / self.comm.size
        self.history.gradient_steps += steps
        self.history.labelled_samples += int(samples + replayed)
        if not math.isfinite(loss):
            raise DivergedError(self._not_finite(loss, rate, training_set))
        row = {
            "stage": stage,
            "epoch": epoch,
            "step": self.history.gradient_steps,
            "loss": loss,
            "learning_rate": rate,
            "samples_per_second": samples / seconds * self.beside,
            "replay_wait_seconds": waited,
            "buffer_records": int(stored),
        }
        self.recorder.row(row, self._mean_over_ranks(logged) if num_logged else {})
        return loss

    def _mean_over_ranks(self, logged: dict[str, float]) -> dict[str, float]:
        """Of the numbers that the strategy has logged; every rank calls this."""
        every = self.comm.gather(logged)
        for rank, other in enumerate(every):
            if other.keys() != every[0].keys():
                raise ValueError(
                    f"{type(self.strategy).__name__} logs {', '.join(sorted(every[0])) or 'nothing'} on rank 0 and "
                    f"{', '.join(sorted(other)) or 'nothing'} on rank {rank}: Strategy.log needs the same names on all"
                )
        return {name: sum(other[name] for other in every) / len(every) for name in every[0]}


class Meter:
    """Sums over an interval; the loss stays on the device until the interval ends, so no step waits for it."""

    def __init__(self, device: torch.device):
        self.device = device
        self.reset()

    def reset(self) -> None:
        """Begin an interval."""
        self.loss = torch.zeros((), device=self.device)
        self.steps = self.samples = 0
        self.seconds = 0.0  # before `started`
        self.start()

    def start(self) -> None:
        """Begin to count the time."""
        self.started = time.perf_counter()

    def pause(self) -> None:
        """Count no more time until `start`, from when the device has done all of the steps so far."""
        self.loss.item()
        self.seconds += time.perf_counter() - self.started

    def count(self, loss: torch.Tensor, samples: int) -> None:
        """One step on so many new samples."""
        self.loss += loss
        self.steps += 1
        self.samples += samples

    def take(self) -> tuple[int, int, float, float]:
        """Steps, new samples, seconds and mean loss since the last call."""
        loss = self.loss.item() / self.steps
        taken = self.steps, self.samples, self.seconds + time.perf_counter() - self.started, loss
        self.reset()
        return taken

    def state_dict(self) -> dict:
        """The sums as numbers."""
        seconds = self.seconds + time.perf_counter() - self.started
        return {"loss": self.loss.item(), "steps": self.steps, "samples": self.samples, "seconds": seconds}

    def load_state_dict(self, state: dict) -> None:
        """Take back what `state_dict` returned."""
        self.loss = torch.tensor(state["loss"], device=self.device)
        self.steps, self.samples, self.seconds = state["steps"], state["samples"], state["seconds"]
        self.start()
