"""The loop over epochs and batches of one stage; it knows no method and no configuration."""

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from cl import seeding
from cl.data.loader import epoch_batches, num_batches
from cl.data.rows import Rows
from cl.distributed.comm import Comm
from cl.reporting.history import History
from cl.reporting.loggers import NoLogger
from cl.reporting.progress import Progress
from cl.reporting.results import MetricsFile
from cl.step.schedules import Schedule
from cl.strategies.base import Strategy


@dataclass
class Trainer:
    """Trains a strategy, one stage at a time; what it costs is added to `history`."""

    strategy: Strategy
    schedule: Schedule
    batch_size: int
    seed: int
    device: torch.device
    log_interval: int
    history: History
    progress: Progress
    metrics: MetricsFile | None  # None on all ranks but the first
    logger: NoLogger
    comm: Comm = field(default_factory=Comm)
    each_epoch: Callable[[], None] | None = None  # called before each of them

    @property
    def _groups(self) -> list[dict]:
        return self.strategy.updater.optimizer.param_groups  # others after each load_state_dict

    def train(self, samples: Rows, stage: int, steps: int) -> float:
        """`steps` steps in as many passes over `samples` as they take; returns the mean loss of the last interval.

        Raises ValueError when the loss is not finite, at the end of the interval in which that happened, and when the
        weights are not, before the first step or after the last.
        """
        self._check_weights(f"before the first step of stage {stage + 1}")
        started = time.perf_counter()
        # Streams named by the stage: nothing of them has to be saved between stages.
        torch.manual_seed(seeding.derive(self.seed, "network", stage))
        self.strategy.transform.reseed(seeding.derive(self.seed, "augmentation", stage))
        rank, ranks = self.comm.rank, self.comm.size
        batch_size = self.batch_size * self.strategy.updater.accumulation_steps
        fewest = self.strategy.fewest_samples
        epoch_steps = num_batches(len(samples), batch_size, ranks, fewest)
        meter = _Meter(self.device)
        step, loss = 0, math.nan
        for epoch in range(-(-steps // epoch_steps)):
            if self.each_epoch is not None:
                self.each_epoch()
            batches = epoch_batches(samples, batch_size, self.seed, stage, epoch, rank, ranks, fewest)
            for batch in itertools.islice(batches, steps - step):
                if not self.schedule.is_constant:
                    self._set_rate((step + 0.5) / steps, steps / epoch_steps, steps)
                meter.count(self.strategy.observe(batch), len(batch) if batch.loss_weight else 0)
                step += 1
                self.progress.step()
                if step % self.log_interval == 0 or step == steps:
                    loss = self._log(meter, stage, epoch, samples)
        self._check_weights(f"after the last step of stage {stage + 1}")
        self.history.train_seconds += time.perf_counter() - started
        return loss

    def _set_rate(self, progress: float, epochs: float, steps: int) -> None:
        factor = self.schedule.factor(progress, epochs, steps)
        for group, rate in zip(self._groups, self.strategy.updater.base_rates):
            group["lr"] = rate * factor

    def _check_weights(self, when: str) -> None:
        """The last step is followed by no loss that would tell."""
        model = self.strategy.model
        statistics = (item for item in model.named_buffers() if item[0].endswith(("running_mean", "running_var")))
        named = [*model.named_parameters(), *statistics]
        if not torch.stack([torch.isfinite(value).all() for _, value in named]).all():
            names = [name for name, value in named if not torch.isfinite(value).all()]
            raise ValueError(
                f"{when} {', '.join(names[:3])}{' ...' * (len(names) > 3)} has numbers that are not finite"
            )

    def _not_finite(self, loss: float, rate: float, samples: Rows) -> str:
        """What is known of a loss that is not finite."""
        words = f"the loss is {loss} after {self.history.gradient_steps} steps, the last at a learning rate of {rate:g}"
        strength = getattr(self.strategy, "strength", None)
        if strength is not None:
            words += f" and a penalty of strength {strength:g} (strategy.lambda_, or twice strategy.c)"
        for name, column in samples.columns.items():
            if isinstance(column, torch.Tensor) and not torch.isfinite(column).all():
                return f"{words}: the column {name} of the training data has numbers that are not finite"
        more = "" if strength is None else " or a weaker penalty"
        return f"{words}: training has diverged, perhaps a lower learning rate{more} helps"

    def _log(self, meter: "_Meter", stage: int, epoch: int, training_set: Rows) -> float:
        """Close an interval; returns its mean loss."""
        buffer, rate = self.strategy.buffer, self._groups[0]["lr"]
        steps, samples, seconds, loss = meter.take()
        # One exchange per interval. The mean of the ranks' losses is that of all samples, as they are weighed.
        own = [loss, samples, self.strategy.take_replayed(), 0.0, 0]
        if buffer is not None:
            own[3:] = buffer.wait_seconds, len(buffer)
        sums = self.comm.sum(torch.tensor(own, dtype=torch.float64, device=self.device))
        loss, samples, replayed, waited, stored = sums.tolist()
        loss, waited = loss / self.comm.size, waited / self.comm.size
        self.history.gradient_steps += steps
        self.history.labelled_samples += int(samples + replayed)
        if not math.isfinite(loss):
            raise ValueError(self._not_finite(loss, rate, training_set))
        row = {
            "stage": stage,
            "epoch": epoch,
            "step": self.history.gradient_steps,
            "loss": loss,
            "learning_rate": rate,
            "samples_per_second": samples / seconds,
            "replay_wait_seconds": waited,
            "buffer_records": int(stored),
        }
        if self.metrics is not None:
            self.metrics.append(row)
        self.logger.log(row)
        return loss


class _Meter:
    """Sums over an interval; the loss stays on the device until the interval ends, so no step waits for it."""

    def __init__(self, device: torch.device):
        self.device = device
        self._reset()

    def _reset(self) -> None:
        self.loss = torch.zeros((), device=self.device)
        self.steps = self.samples = 0
        self.started = time.perf_counter()

    def count(self, loss: torch.Tensor, samples: int) -> None:
        self.loss += loss
        self.steps += 1
        self.samples += samples

    def take(self) -> tuple[int, int, float, float]:
        """Steps, new samples, seconds and mean loss since the last call."""
        loss = self.loss.item() / self.steps
        taken = self.steps, self.samples, time.perf_counter() - self.started, loss
        self._reset()
        return taken
