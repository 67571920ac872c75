"""Several jobs side by side from Python, without Hydra's command line: what a notebook calls."""

import contextlib
import io
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass
from pathlib import Path

from cl.configuration import place
from cl.configuration.composing import composed
from cl.jobs import sizes
from cl.jobs.pool import Pool


@dataclass(frozen=True)
class Job:
    """`words`: overrides as on the command line of `command` (run or merge); `folder`: what --config-dir names.

    `merge`: for merge, what does it (`merging.command.merge`): a function of a module, from a configuration to folders.
    `program`: what Python is given to start ranks (`cl.run.job.run_or_find`), where `launcher` asks for some.
    """

    command: str
    words: tuple[str, ...]
    folder: str | None = None
    merge: Callable | None = None
    program: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a job: its folders (the baselines of a merge first), or its error in one line, and its seconds."""

    words: tuple[str, ...]
    folders: list[Path]
    error: str | None
    seconds: float


def do(jobs: Sequence[Job], size: int | str, on_done: Callable[[int, Outcome], None] | None = None) -> list[Outcome]:
    """Do all jobs, `size` at a time, each in another process; returns their outcomes in the same order.

    `size`: a number, or auto: as many as there are processors for their threads, or GPUs. `on_done`: called with place
    and outcome of each job that is done, in this thread. After an error here, or Ctrl-C, what runs is saved and ended
    first. The processes run nothing of the caller's script.
    """
    configs = [config for config in _plain(jobs) if size == "auto" or config["device"] in ("auto", "cuda")]
    size, gpus = sizes.shared_out(None if size == "auto" else size, configs)
    pool = Pool(size, gpus, ("merging.run",) if any(job.merge for job in jobs) else ())
    found: dict[int, Outcome] = {}
    try:
        places = {pool.submit(_do, job): place for place, job in enumerate(jobs)}
        open_ = set(places)
        while open_:
            done, open_ = wait(open_, return_when=FIRST_COMPLETED)
            for future in done:
                place = places[future]
                try:
                    found[place] = future.result()
                except RuntimeError as error:  # its process has died
                    found[place] = Outcome(jobs[place].words, [], str(error), 0.0)
                if on_done is not None:
                    on_done(place, found[place])
    except BaseException:
        pool.close(at_once=True)
        raise
    pool.close(at_once=False)
    return [found[place] for place in range(len(jobs))]


def _plain(jobs: Sequence[Job]) -> list[dict]:
    """The configurations that decide how many jobs there is room for; one with a mistake is left out, its job tells."""
    from cl.run.folder import plain

    found = []
    for job in jobs:
        with contextlib.suppress(Exception):
            found.append(plain(composed(job.command, job.words, job.folder)))
    return found


def _do(job: Job) -> Outcome:
    """In another process."""
    from cl.run.job import run_or_find_each
    from cl.run.mistakes import one_line

    began, folders, error = time.monotonic(), [], None
    place.forget()  # folders of earlier jobs
    try:
        words = list(job.words)
        with contextlib.redirect_stdout(io.StringIO()):  # the lines of single tasks
            config = composed(job.command, words, job.folder)
            config.progress = False
            if job.merge is not None:
                folders = job.merge(config)
            else:
                own = [] if job.folder is None else [f"--config-dir={Path(job.folder).resolve()}"]
                folders = run_or_find_each(config, words + own, job.program)
    except Exception as wrong:
        error = one_line(wrong, job.command, list(job.words), job.folder)
    return Outcome(job.words, [Path(folder) for folder in folders], error, time.monotonic() - began)
