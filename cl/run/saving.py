"""When the state within a task is saved: every so often, and when a signal asks the run to stop.

Ranks have to save after the same step, and a clock or a signal is not the same on all. So they ask each other, about
twice a second and not at every step: that would cost an exchange more per step.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path

import torch

from cl import signals
from cl.distributed.comm import Comm
from cl.run.checkpoint import Checkpoints, Position

UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
ASK_EVERY = 0.5  # seconds


class Saver:
    """Saves a run's state within its stages. `every`: a time such as 10min, a number of steps of a stage, or None.

    Every rank calls all methods in the same order.
    """

    def __init__(self, checkpoints: Checkpoints, comm: Comm, every: int | str | None, folder: Path):
        self.checkpoints, self.comm, self.folder = checkpoints, comm, folder
        self.every_steps = every if isinstance(every, int) else None
        self.every_seconds = _seconds(every) if isinstance(every, str) else None
        self.saved = self.asked = time.monotonic()
        self.steps = self.ask_at = self.asked_at = 0

    def within(self, stage: int, steps: int, name: str) -> Callable[[int], None]:
        """What is to be called after each of the `steps` steps of a stage, with its number; `name`: for messages."""

        def after_step(step: int) -> None:
            self.steps += 1
            due = self.every_steps is not None and step % self.every_steps == 0
            number = None
            if self.comm.size == 1:
                number = signals.asked()
                due = due or self._is_time() and not self.checkpoints.busy
            elif self.steps >= self.ask_at:
                agreed, number = self._ask()
                due = due or agreed
            if due or number is not None:
                self._save(Position(stage, step, steps, self.comm.size))
            if number is not None:
                self._stop(number, f"step {step} of {steps} of {name}")

        return after_step

    def end_stage(self, stage: int, name: str, last: bool) -> None:
        """Save the state after a stage, and stop where a signal has asked for it and it was not the last."""
        self._save(Position(stage + 1, ranks=self.comm.size))
        self.checkpoints.wait()
        number = signals.asked() if self.comm.size == 1 else self._ask()[1]
        if number is not None and not last:
            self._stop(number, name)

    def _save(self, position: Position) -> None:
        self.checkpoints.save(position)
        self.saved = time.monotonic()

    def _stop(self, number: int, where: str) -> None:
        self.checkpoints.wait()
        self.comm.gather(None)  # else rank 0 could speak before all have saved
        raise signals.Stopped(number, f"saved after {where}, and the same command goes on from there: {self.folder}")

    def _is_time(self) -> bool:
        return self.every_seconds is not None and time.monotonic() - self.saved >= self.every_seconds

    def _ask(self) -> tuple[bool, int | None]:
        """Whether it is time to save on all ranks, and the signal that one of them has got."""
        now, number = time.monotonic(), signals.asked()
        pace = ASK_EVERY * (self.steps - self.asked_at) / max(now - self.asked, 1e-6)
        main = self.comm.is_main
        own = [main * float(self._is_time()), float(self.checkpoints.busy), main * max(1.0, min(pace, 1e5))]
        own += [float(number == each) for each in signals.SIGNALS]
        time_is_up, busy, pause, *got = self.comm.sum(torch.tensor(own, dtype=torch.float64)).tolist()
        self.ask_at, self.asked_at, self.asked = self.steps + int(pause), self.steps, now
        return time_is_up > 0 and not busy, next((each for each, count in zip(signals.SIGNALS, got) if count), None)


def _seconds(text: str) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)([a-z]+)", text).groups()
    return float(number) * UNITS[unit]
