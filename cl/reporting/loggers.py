"""Where metrics go beside metrics.csv."""

import os
from pathlib import Path
from typing import Literal


class NoLogger:
    """Nowhere else."""

    def start(self, folder: Path, config: dict) -> None:
        """Called once, before training."""

    def log(self, values: dict) -> None:
        """Called with each row of metrics.csv, and with the accuracies after each task."""

    def finish(self, results: dict) -> None:
        """Called once, with the content of results.json."""

    def close(self) -> None:
        """Called last, also after an error: ends what `start` began and `finish` did not end."""

    def state_dict(self) -> dict:
        """What a resumed run needs to go on in the same place."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Take back what `state_dict` returned, before `start`."""


ROW = "remerge/row"  # the number of a row, which its summary says of the last one


class WandbLogger(NoLogger):
    """Weights & Biases: a run per seed, grouped by configuration; `mode` online needs an account (`wandb login`).

    Code of the user may log to the same run, so a row has whatever step wandb is at: wandb drops lower ones.
    """

    def __init__(
        self, project: str, entity: str | None, mode: Literal["online", "offline", "disabled"], tags: list[str]
    ):
        if mode == "online" and not (os.environ.get("WANDB_API_KEY") or _has_login()):
            raise ValueError("logger.mode=online needs an account: run `wandb login`, or choose logger.mode=offline")
        self.options = {"project": project, "entity": entity, "mode": mode, "tags": tags}
        self.run = None
        self.run_id: str | None = None  # of a run that is resumed
        self.rows = 0  # so far
        self.logged = 0  # rows that wandb has already: a resumed run repeats those after its checkpoint
        self.step = 0  # of the next row at least: wandb does not know how far an offline run came that is resumed

    def start(self, folder: Path, config: dict) -> None:
        import wandb

        self.run = wandb.init(
            dir=folder,
            group=folder.parent.name,
            name=f"{folder.parent.name}/{folder.name}",
            config=config,
            id=self.run_id,
            resume=None if self.run_id is None else "allow",
            **self.options,
        )
        self.run_id = self.run.id
        self.logged = self.run.summary.get(ROW, 0)

    def log(self, values: dict) -> None:
        self.rows += 1
        if self.rows > self.logged:
            step = max(self.step, self.run.step)
            self.run.log(values | {ROW: self.rows}, step=step, commit=True)
            self.step = step + 1

    def finish(self, results: dict) -> None:
        numbers = {key: value for key, value in results.items() if isinstance(value, (int, float))}
        self.run.summary.update(numbers)
        self._end(exit_code=0)

    def close(self) -> None:
        # A run of wandb that is left open takes what the next job of a sweep logs.
        if self.run is not None:
            self._end(exit_code=1)

    def state_dict(self) -> dict:
        return {"run_id": self.run_id, "step": self.step, "rows": self.rows}

    def load_state_dict(self, state: dict) -> None:
        self.run_id, self.step, self.rows = state.get("run_id"), state.get("step", 0), state.get("rows", 0)

    def _end(self, exit_code: int) -> None:
        self.run.finish(exit_code)
        self.run = None


def _has_login() -> bool:
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    return netrc.is_file() and "wandb" in netrc.read_text()
