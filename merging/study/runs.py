"""The runs of a study: each is done once, in its ordinary folder, and what is finished is not done again."""

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cl.checksums import DamagedError, read_json
from cl.configuration.settings import MERGE_KEYS
from cl.jobs.pool import Pool
from cl.reporting import progress
from cl.run.folder import run_folder
from merging.study import worker
from merging.study.configurations import Configurations, folder_of

INTERVAL = 60  # seconds between lines where there is no bar
NEEDED = {"run": ("passes", "persistent", "stage_costs"), "merge": ("passes", "persistent")}  # in results.json


class RunError(Exception):
    """What kept a run from its results, in one line; `diverged`: its training did."""

    def __init__(self, line: str, diverged: bool = False):
        super().__init__(line)
        self.diverged = diverged


class Progress(progress.Progress):
    """One bar for the whole study: runs that are done, of how many, and the time that is left.

    Where there is no terminal a line says so once in a while.
    """

    def __init__(self, name: str, expected: int, show: bool):
        super().__init__(name, expected, 0, show, unit="run")
        self.name, self.failures = name, 0
        self.lines = show and not sys.stderr.isatty()
        self._said = time.monotonic()

    def step(self) -> None:
        super().step()
        if self.lines and time.monotonic() - self._said >= INTERVAL:
            self._said = time.monotonic()
            note = f", {self.note}" if self.note else ""
            print(f"{self.name}: {self.done} of {self.total} runs{note}", file=sys.stderr, flush=True)

    def failed(self) -> None:
        """One more run of a row has failed."""
        self.failures += 1
        self.note = f"{self.failures} failed"


class Runs:
    """Does runs on the processes of `pool`."""

    def __init__(self, pool: Pool, configurations: Configurations, progress: Progress):
        self.pool, self.configurations, self.progress = pool, configurations, progress
        self._tasks: dict[Path, asyncio.Task] = {}  # by folder

    async def result(self, command: str, words: Sequence[str], **values) -> tuple[Path, dict]:
        """Folder and results of a run or merge, done if they are not there; raises RunError."""
        config = self.configurations.of(command, words, **values)
        folder = folder_of(config)
        try:
            if command == "merge" and not (folder / "results.json").is_file() and config["run"] is None:
                base = {key: value for key, value in config.items() if key not in MERGE_KEYS}
                await self._once("networks", config, run_folder(base))
            await self._once(command, config, folder)
            return folder, _read(folder)
        finally:
            self.progress.step()

    async def _once(self, kind: str, config: dict, folder: Path) -> None:
        if folder not in self._tasks:
            self._tasks[folder] = asyncio.create_task(self._do(kind, config, folder))
        await self._tasks[folder]

    async def _do(self, kind: str, config: dict, folder: Path) -> None:
        if not (folder / "results.json").is_file():
            try:
                error = await self.pool.call(worker.execute, kind, config)
            except RuntimeError as crash:
                error = str(crash), False
            if error is not None:
                raise RunError(*error)


def _read(folder: Path) -> dict:
    """The results of a finished run."""
    try:
        found = read_json(folder / "results.json", remedy="remove the folder, and it is made again")
    except DamagedError as error:
        raise RunError(str(error)) from error
    missing = [key for key in ("kind", *NEEDED.get(found.get("kind"), ())) if key not in found]
    if missing:
        raise RunError(
            f"{folder / 'results.json'} says nothing of {', '.join(missing)}, it was made by an earlier version: "
            "remove the folder, and it is made again"
        )
    return found
