"""The runs of a study: each is done once, in its ordinary folder, and what is finished is not done again."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from cl.checksums import DamagedError, read_json
from cl.configuration.settings import MERGE_KEYS
from cl.jobs.pool import Pool
from cl.run.folder import run_folder
from merging.study import worker
from merging.study.configurations import Configurations, folder_of

NEEDED = {"run": ("passes", "persistent", "stage_costs"), "merge": ("passes", "persistent")}  # in results.json


class RunError(Exception):
    """What kept a run from its results, in one line; `diverged`: its training did."""

    def __init__(self, line: str, diverged: bool = False):
        super().__init__(line)
        self.diverged = diverged


class Progress:
    """One line for the whole study: runs that are done, of how many, and the time that is left."""

    def __init__(self, name: str, expected: int, show: bool):
        self.failures = 0
        interval = 0.1 if sys.stderr.isatty() else 10
        self.bar = tqdm(
            total=expected, desc=name, unit="run", disable=not show, mininterval=interval, leave=False,
            dynamic_ncols=True, smoothing=0.05,
        )  # fmt: skip

    def expect(self, more: int) -> None:
        """There are so many runs more than was thought, or fewer."""
        self.bar.total += more

    def done(self) -> None:
        self.bar.update()

    def failed(self) -> None:
        """One more run of a row has failed."""
        self.failures += 1
        self.bar.set_postfix_str(f"{self.failures} failed")

    def close(self) -> None:
        self.bar.close()


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
            self.progress.done()

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
