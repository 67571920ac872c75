"""A metric and a callback that are defined in the script itself.

    python examples/own_metric.py

`trust` allows the configuration to name code of this file; a module of its own is named in the same way.
"""

import remerge
from cl.run.callbacks import Callback


def worst_task(matrix: list[list[float]], untrained: list[float]) -> float:
    """The accuracy on the task that is remembered worst; matrix[i][j]: on task j after stage i."""
    return min(matrix[-1])


class Largest(Callback):
    """Keeps the largest loss of each stage."""

    def __init__(self):
        self.largest: list[float] = []

    def on_stage_start(self, stage, num_samples, steps):
        self.largest.append(0.0)

    def on_step(self, step, loss):
        self.largest[-1] = max(self.largest[-1], loss.item())

    def on_run_end(self, results):
        print("largest loss of each stage:", [round(value, 2) for value in self.largest])


if __name__ == "__main__":
    run = remerge.run(
        "strategy=er",
        "scenario=class5",
        "+metrics.worst_task._target_=__main__.worst_task",
        "+callbacks.largest._target_=__main__.Largest",
        seed=0,
        epochs=1,
        trust=["__main__"],
    )
    print("worst task:", round(run.worst_task, 3), "of", run.accuracy_matrix[-1].round(3).tolist())
    print(run)
