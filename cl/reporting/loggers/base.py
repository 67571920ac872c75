"""The contract of loggers, for those of remerge and those of users."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

Kind = Literal["run", "merge", "study"]


class Logger:
    """Does nothing: override what you need. Rank 0 alone has one; an option is an argument of the constructor.

    Stages count from 0. After `start` an error of the kinds `errors` is said once, and the run goes on; any other ends
    the run. All numbers are plain Python ones.
    """

    errors: tuple[type[Exception], ...] = (OSError,)  # of a connection that is lost, of a disk that is full

    def start(self, folder: Path, config: dict, kind: Kind) -> None:
        """Called once, before training, after `load_state_dict` in a run that is resumed; any error ends the run.

        `folder`: of the run. `config`: its whole configuration.
        """

    def log_training(self, step: int, values: dict[str, float]) -> None:
        """Called every `log_interval` steps; `step`: the number of optimizer steps in all stages so far."""

    def log_test(self, stage: int, values: dict[str, float]) -> None:
        """Called after the test of a stage."""

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence]) -> None:
        """Called at the end, before `finish`: the accuracy matrix, or the table of a study."""

    def log_picture(self, path: Path) -> None:
        """Called at the end, before `finish`, for each picture (PNG) that was drawn."""

    def finish(self, results: dict) -> None:
        """Called once, with the content of results.json, or of study.json."""

    def close(self) -> None:
        """Called last, also after an error: ends what `start` began and `finish` did not end."""

    def state_dict(self) -> dict:
        """What a resumed run needs to go on in the same place: plain Python values."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Take back what `state_dict` returned, before `start`; not called where the run had no such logger before."""


class NoLogger(Logger):
    """Nowhere else: metrics.csv is always written."""
