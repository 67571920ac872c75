"""Where the numbers of training go: the history of the run, metrics.csv, the logger, and the progress bar."""

from cl.reporting.history import History
from cl.reporting.loggers import told
from cl.reporting.loggers.base import Logger, NoLogger
from cl.reporting.metrics_file import MetricsFile, State
from cl.reporting.progress import Progress


class Recorder:
    """Takes a row each `log_interval` steps; `metrics` is None on all ranks but the first, which alone writes."""

    def __init__(
        self,
        history: History,
        progress: Progress | None = None,
        metrics: MetricsFile | None = None,
        logger: Logger | None = None,
        log_interval: int = 100,
    ):
        self.history, self.metrics = history, metrics
        self.progress = progress or Progress("", 0, 0, False)
        self.logger, self.log_interval = logger or NoLogger(), log_interval
        self.kept: State | None = None  # rows of an earlier process that this one goes on after

    @property
    def files(self) -> State:
        """The files of rows so far, with their checksums."""
        return {} if self.metrics is None else self.metrics.state_dict()

    def state_dict(self) -> dict:
        """The rows so far, by their checksums."""
        return {"files": self.files}

    def load_state_dict(self, state: dict) -> None:
        """Note what `state_dict` returned, for the metrics file of this process."""
        self.kept = state["files"]

    def row(self, row: dict, logged: dict[str, float] | None = None) -> None:
        """One interval of training, with the columns of metrics.csv, and the numbers that the strategy has logged."""
        logged = logged or {}
        self.progress.note = f"loss {row['loss']:.4f}"
        if self.metrics is not None:
            self.metrics.append(row)
            self.metrics.append_logged(row, logged)
        self.logger.log_training(row["step"], told.of_row(row, logged))

    def test(self, stage: int, step: int, value: float) -> None:
        """A test at an interval or after a stage: the accuracy, or the error, of what has been seen so far."""
        self.history.evaluations.append([step, value])
        if self.metrics is not None:
            self.metrics.append_test([stage, step, value])
        self.logger.log_training(step, told.of_anytime(self.history.measure, value))
