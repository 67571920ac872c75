"""What a run has measured and cost so far: saved with every checkpoint, turned into results.json at the end."""

from dataclasses import asdict, dataclass, field


@dataclass
class History:
    """Accuracies in [0, 1], or errors; a row per stage of training, an entry per task.

    `rows` with every output in question, `known_rows` with the outputs of the sample's task only (empty where tasks
    share their outputs); the two `untrained` rows are those of the network before training.
    """

    untrained: list[float]
    untrained_known: list[float] | None
    rows: list[list[float]] = field(default_factory=list)
    known_rows: list[list[float]] = field(default_factory=list)
    gradient_steps: int = 0
    labelled_samples: int = 0  # that entered a loss, new and replayed
    measure: str = "accuracy"  # what the rows are: accuracy, or error
    train_seconds: float = 0.0
    eval_seconds: float = 0.0

    def add(self, row: list[float], known_row: list[float] | None) -> None:
        """What was measured after a stage."""
        self.rows.append(row)
        if known_row is not None:
            self.known_rows.append(known_row)

    def state(self) -> dict:
        """For a checkpoint; `History(**state)` takes it back."""
        return asdict(self)
