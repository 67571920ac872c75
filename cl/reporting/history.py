"""What a run has measured and cost so far: saved with every checkpoint, turned into results.json at the end."""

from dataclasses import asdict, dataclass, field

TOTALS = ("train_seconds", "gradient_steps", "labelled_samples")


@dataclass
class History:
    """Accuracies in [0, 1], or errors; a row per stage of training, an entry per task.

    `rows` over all outputs, `task_aware_rows` over the outputs of the sample's task (empty where tasks share their
    outputs); the two `untrained` rows are those of the network before training.
    """

    untrained: list[float]
    untrained_task_aware: list[float] | None
    rows: list[list[float]] = field(default_factory=list)
    task_aware_rows: list[list[float]] = field(default_factory=list)
    gradient_steps: int = 0
    labelled_samples: int = 0  # that entered a loss, new and replayed
    measure: str = "accuracy"  # what the rows are: accuracy, or error
    passes: list[dict[str, int]] = field(default_factory=list)  # of each stage on all ranks (`cl.step.passes`)
    stages: list[dict[str, float]] = field(default_factory=list)  # of each stage what it has added to the TOTALS
    evaluations: list[list[float]] = field(default_factory=list)  # [steps so far, measure of what was seen so far]
    train_seconds: float = 0.0
    eval_seconds: float = 0.0

    def start(self, untrained: list[float], untrained_task_aware: list[float] | None) -> None:
        """What the network reaches before training."""
        self.untrained, self.untrained_task_aware = untrained, untrained_task_aware

    def add(self, row: list[float], task_aware_row: list[float] | None) -> None:
        """What was measured after a stage."""
        self.rows.append(row)
        if task_aware_row is not None:
            self.task_aware_rows.append(task_aware_row)

    def end_stage(self, passes: dict[str, int]) -> None:
        """Note what a stage has cost."""
        self.passes.append(passes)
        before = {name: sum(stage[name] for stage in self.stages) for name in TOTALS}
        self.stages.append({name: getattr(self, name) - before[name] for name in TOTALS})

    def state_dict(self) -> dict:
        """All of it, for a checkpoint."""
        return asdict(self)

    def load_state_dict(self, state: dict) -> None:
        """Take back what `state_dict` returned."""
        for name, value in state.items():
            setattr(self, name, value)
