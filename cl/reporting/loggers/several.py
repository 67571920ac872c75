"""The loggers of a run, each under its name: told the same, one after the other.

Strict at the start: a logger that cannot begin ends the run before training, in one line. Afterwards a lost connection
or a full disk is said once, and training goes on; what is missing then can be sent later (`python -m cl.report`).
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cl.build import build, locate
from cl.reporting.loggers import told
from cl.reporting.loggers.base import Kind, Logger
from cl.values import is_plain

PLAIN = (type(None), bool, int, float, str)  # what a state is made of, beside lists, tuples and dicts
BASE = "cl.reporting.loggers.base.Logger"


class Loggers(Logger):
    """Several loggers by name."""

    def __init__(self, loggers: dict[str, Logger]):
        self.loggers = loggers
        self.folder = Path()
        self._warned: set[str] = set()

    @classmethod
    def of_config(cls, nodes: dict[str, dict]) -> "Loggers":
        """Those of the nodes of `logger`; raises ValueError for one that is no logger or has wrong options."""
        made = {}
        for name, node in nodes.items():
            kind = locate(node, f"logger.{name}")
            if not isinstance(kind, type) or not issubclass(kind, Logger):
                raise ValueError(f"logger.{name}._target_={node['_target_']} must be a class derived from {BASE}")
            made[name] = build(node, f"logger.{name}")
        return cls(made)

    def start(self, folder: Path, config: dict, kind: Kind) -> None:
        """Raises ValueError for one that cannot begin."""
        self.folder = folder
        for name, logger in self.loggers.items():
            try:
                logger.start(folder, config, kind)
            except Exception as error:
                what = f"{type(error).__name__}: " if not isinstance(error, ValueError) else ""
                others = [other for other in self.loggers if other != name] or ["csv"]
                raise ValueError(
                    f"logger {name} cannot start: {what}{error}; logger=[{','.join(others)}] goes without it"
                ) from error

    def log_training(self, step: int, values: dict[str, float]) -> None:
        self._each(lambda logger: logger.log_training(step, dict(values)))

    def log_test(self, stage: int, values: dict[str, float]) -> None:
        self._each(lambda logger: logger.log_test(stage, dict(values)))

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence]) -> None:
        self._each(lambda logger: logger.log_table(name, columns, rows))

    def log_picture(self, path: Path) -> None:
        self._each(lambda logger: logger.log_picture(path))

    def finish(self, results: dict) -> None:
        """Tell them the tables and the pictures in the folder as well."""
        for name, table in told.tables(self.folder, results).items():
            self.log_table(name, *table)
        for path in told.pictures(self.folder, results):
            self.log_picture(path)
        self._each(lambda logger: logger.finish(dict(results)))

    def close(self) -> None:
        """Close all of them, also after an error of one; raises the first such error."""
        failed: list[BaseException] = []
        for name in self.loggers:
            try:
                self._guarded(name, lambda logger: logger.close())
            except BaseException as error:
                failed.append(error)
        if failed:
            raise failed[0]

    def state_dict(self) -> dict:
        """The states by name; raises ValueError for what a checkpoint cannot hold."""
        states = {name: logger.state_dict() for name, logger in self.loggers.items()}
        for name, state in states.items():
            if not is_plain(state, PLAIN):
                raise ValueError(
                    f"logger {name}: state_dict must hold plain Python values (numbers, text, None, lists, tuples, "
                    f"dicts), got {state!r}"
                )
        return states

    def load_state_dict(self, state: dict) -> None:
        """Give each that the run had before its state; checkpoints of earlier versions hold that of wandb alone."""
        states = {"wandb": state} if "run_id" in state else state
        for name, logger in self.loggers.items():
            if states.get(name):
                logger.load_state_dict(states[name])

    def adopt(self, states: list[dict], rank: int) -> None:
        """Take back the state of a run that another number of ranks began: rank 0 had the loggers."""
        self.load_state_dict(states[0])

    @property
    def failed(self) -> bool:
        """Whether some values did not reach a logger."""
        return bool(self._warned)

    def _each(self, tell: Callable[[Logger], None]) -> None:
        for name in self.loggers:
            self._guarded(name, tell)

    def _guarded(self, name: str, tell: Callable[[Logger], None]) -> None:
        logger = self.loggers[name]
        try:
            tell(logger)
        except logger.errors as error:
            if name not in self._warned:
                self._warned.add(name)
                print(
                    f"logger {name}: {type(error).__name__}: {' '.join(str(error).split())}: the run goes on, and some "
                    "of its values may be missing there (docs/loggers.md says how to send a finished run again)",
                    file=sys.stderr,
                )
