"""A run as a sequence of parts that its caller trains: one run after the other, or several at once."""

from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

from cl.data.rows import Rows
from cl.run.trainer import Trainer


class Part(NamedTuple):
    """The training of a stage, to be done with `trainer`; of a run that goes on, perhaps the rest of it."""

    trainer: Trainer
    samples: Rows
    stage: int
    steps: int

    @property
    def place(self) -> tuple[int, int]:
        """The stage, and how many of its steps are done."""
        return self.stage, self.trainer.step if self.trainer.stage == self.stage else 0


Parts = Generator[Part, None, Path]  # returns the folder of the run


def train_all(parts: Parts) -> Path:
    """Train a run alone."""
    try:
        part = next(parts)
        while True:
            try:
                part.trainer.train(part.samples, part.stage, part.steps)
            except BaseException as error:
                part = parts.throw(error)  # which closes what the run has opened, and raises it again
            else:
                part = next(parts)
    except StopIteration as end:
        return end.value
