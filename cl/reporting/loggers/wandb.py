"""Weights & Biases: a run of theirs for each run, merge and study of ours, also one that is resumed or sent later.

Which run of theirs that is stands in wandb/remerge.json in our run's folder. An id made from the configuration and the
seed was rejected: two people of a team would write into one run, and wandb never takes the id of a deleted run again.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from cl.atomic import write_json
from cl.checksums import read_json
from cl.reporting.loggers import told
from cl.reporting.loggers.base import Kind, Logger

RECORD = Path("wandb", "remerge.json")  # in a run's folder: by ENTITY/PROJECT the id, and in which modes it is complete
STEP, STAGE = "train/step", "test/stage"
AXES = {STEP: told.TRAINING, STAGE: told.TEST}  # and the first parts of the names that are drawn against each
FINISH_SECONDS = 600  # that the end of a run waits for a lost connection; the files stay, for wandb sync
REMEDY = "remove it, and the run gets a new run of wandb"
ROWS = ("results.json", "config.yaml", "metrics.csv", "strategy_metrics.csv", "anytime.csv", "*.png", "*.pdf", "*.svg")
FILES = {"none": (), "results": ROWS, "checkpoints": (*ROWS, "task_*.pt")}


class WandbLogger(Logger):
    """`mode` online needs an account (`wandb login`). `artifacts`: which files are uploaded at the end.

    Code of the user may log to the same run, so a row has whatever step wandb is at: wandb drops lower ones. The axes
    are values of their own, STEP and STAGE.
    """

    # Whatever wandb raises after the start: its own errors, those of its process, of sockets, and of answers of a
    # server or proxy that it cannot read (pydantic).
    errors = (Exception,)

    def __init__(
        self,
        project: str,
        entity: str | None,
        mode: Literal["online", "offline", "disabled"],
        tags: list[str],
        artifacts: Literal["none", "results", "checkpoints"] = "none",
    ):
        if mode == "online" and not (os.environ.get("WANDB_API_KEY") or _has_login()):
            raise ValueError(
                "wandb needs an account: run `wandb login`, or choose logger.wandb.mode=offline (of a report: "
                "WANDB_MODE=offline)"
            )
        self.options = {"project": project, "entity": entity, "mode": mode, "tags": tags}
        self.artifacts, self.folder, self.run = artifacts, Path(), None
        self.run_id: str | None = None  # of a run that is resumed
        self.step = 0  # of wandb, of the next row at least: it does not know how far an offline run came
        self.reached = {STEP: -1, STAGE: -1}  # what wandb has already: a resumed run repeats what is after a checkpoint
        self.failed = self.partial = False
        self.silent = False  # whether wandb prints nothing

    def start(self, folder: Path, config: dict, kind: Kind) -> None:
        import wandb

        self.folder = folder
        run_id = None if in_sweep() else self._record(folder).get("id", self.run_id)
        self.partial = run_id is None and told.begun_without(folder)
        settings = {"finish_timeout": FINISH_SECONDS, "finish_timeout_raises": True}
        settings |= {"silent": True} if self.silent else {}  # else as WANDB_SILENT says
        settings = {name: value for name, value in settings.items() if name in wandb.Settings.model_fields}
        self.run = wandb.init(
            dir=folder.absolute(),  # its service may have been started in another folder
            group=folder.parent.name,
            name=f"{folder.parent.name}/{folder.name}",
            job_type=kind,
            config=config,
            id=run_id,
            resume=None if run_id is None else "allow",
            settings=wandb.Settings(**settings),
            **self.options,
        )
        self.run_id = self.run.id
        self.step = max(self.step, self.run.starting_step)  # `step` is 0 until something is logged (wandb 0.31)
        if not self.partial:  # else the whole of it can be sent later, as a run of its own
            self._note()
        self.reached = {axis: self.run.summary.get(axis, -1) for axis in self.reached}
        for axis, names in AXES.items():
            self.run.define_metric(axis)
            for name in names:
                self.run.define_metric(f"{name}/*", step_metric=axis)

    def log_training(self, step: int, values: dict[str, float]) -> None:
        self._log(STEP, step, values)

    def log_test(self, stage: int, values: dict[str, float]) -> None:
        self._log(STAGE, stage, values)

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence]) -> None:
        import wandb

        data = [list(row) for row in rows]
        with self._watched():
            self._send({name: wandb.Table(columns=list(columns), data=data, allow_mixed_types=True)})

    def log_picture(self, path: Path) -> None:
        import wandb

        with self._watched():
            self._send({f"pictures/{path.stem}": wandb.Image(str(path))})

    def finish(self, results: dict) -> None:
        try:
            with self._watched():
                self.run.summary.update(told.numbers(results))
                self._upload()
        finally:
            self._end(exit_code=0)
        if not (self.failed or self.partial):  # else `cl.report --wandb` sends the whole of it
            self._note(complete=True)

    def close(self) -> None:
        # A run of wandb that is left open takes what the next job of a sweep logs.
        if self.run is not None:
            self._end(exit_code=1)

    def state_dict(self) -> dict:
        return {"run_id": self.run_id, "step": self.step}

    def load_state_dict(self, state: dict) -> None:
        self.run_id, self.step = state.get("run_id"), state.get("step", 0)

    def is_complete(self, folder: Path) -> bool:
        """Whether wandb has all of a finished run, in this project and mode."""
        return self.options["mode"] in self._record(folder).get("complete", ())

    def _log(self, axis: str, place: int, values: dict[str, float]) -> None:
        if place > self.reached[axis]:
            self._send(values | {axis: place})

    def _send(self, values: dict) -> None:
        with self._watched():
            step = max(self.step, self.run.step)
            self.run.log(values, step=step, commit=True)
            self.step = step + 1

    def _upload(self) -> None:
        import wandb

        patterns = FILES[self.artifacts] if self.options["mode"] != "disabled" else ()
        if files := sorted({path for pattern in patterns for path in self.folder.glob(pattern)}):
            name = f"{self.folder.parent.name}_{self.folder.name}"[-128:]
            artifact = wandb.Artifact(name, type="results" if self.artifacts == "results" else "networks")
            for path in files:
                artifact.add_file(str(path))
            self.run.log_artifact(artifact)

    def _end(self, exit_code: int) -> None:
        run, self.run = self.run, None
        with self._watched():
            run.finish(exit_code)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Inside this block an error is remembered: what is missing can be sent later."""
        try:
            yield
        except Exception:
            self.failed = True
            raise

    @property
    def _project(self) -> str:
        return f"{self.options['entity'] or ''}/{self.options['project']}"

    def _record(self, folder: Path) -> dict:
        """What is known of the run of wandb that belongs to a folder."""
        path = folder / RECORD
        return read_json(path, remedy=REMEDY)["runs"].get(self._project, {}) if path.is_file() else {}

    def _note(self, complete: bool = False) -> None:
        if self.options["mode"] == "disabled":
            return
        path, before = self.folder / RECORD, self._record(self.folder)
        if before.get("id", self.run_id) != self.run_id:  # the agent of a sweep tries once more what was done before
            return
        runs = read_json(path, remedy=REMEDY)["runs"] if path.is_file() else {}
        modes = {*before.get("complete", ()), *([self.options["mode"]] if complete else ())}
        write_json(path, {"runs": runs | {self._project: {"id": self.run_id, "complete": sorted(modes)}}})


def in_sweep() -> bool:
    """Whether `wandb agent` has started this process, and chosen its run of wandb."""
    return "WANDB_SWEEP_ID" in os.environ


def _has_login() -> bool:
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    return netrc.is_file() and "wandb" in netrc.read_text()
