"""A callback of one's own (docs/callbacks.md).

python run.py +callbacks.losses._target_=my_callbacks.Losses trust=[my_callbacks]
"""

import json

import torch

from cl.run.callbacks import Callback, RunContext


class Losses(Callback):
    """Keeps the loss of every so many steps, and writes losses.json into the folder of the run."""

    def __init__(self, every: int = 10):
        self.every, self.losses = every, []

    def on_run_start(self, context: RunContext) -> None:
        self.file = context.folder / "losses.json"

    def on_step(self, step: int, loss: torch.Tensor) -> None:
        if step % self.every == 0:
            self.losses.append(loss.item())

    def on_stage_end(self, stage: int, row: list[float]) -> None:
        self.file.write_text(json.dumps(self.losses))

    def state_dict(self) -> dict:
        return {"losses": self.losses}

    def load_state_dict(self, state: dict) -> None:
        self.losses = state["losses"]
