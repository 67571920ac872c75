"""Where the numbers of training go: the history of the run, metrics.csv, the logger, and the progress bar."""

from cl.reporting.history import History
from cl.reporting.loggers import NoLogger
from cl.reporting.progress import Progress
from cl.reporting.results import MetricsFile


class Recorder:
    """Takes a row each `log_interval` steps; `metrics` is None on all ranks but the first, which alone writes."""

    def __init__(
        self,
        history: History,
        progress: Progress | None = None,
        metrics: MetricsFile | None = None,
        logger: NoLogger | None = None,
        log_interval: int = 100,
    ):
        self.history, self.metrics = history, metrics
        self.progress = progress or Progress("", 0, 0, False)
        self.logger, self.log_interval = logger or NoLogger(), log_interval

    def row(self, row: dict, logged: dict[str, float] | None = None) -> None:
        """One interval of training, with the columns of metrics.csv, and the numbers that the strategy has logged."""
        logged = logged or {}
        if self.metrics is not None:
            self.metrics.append(row)
            self.metrics.append_logged(row, logged)
        self.logger.log(row | {f"strategy/{name}": value for name, value in logged.items()})
