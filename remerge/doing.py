"""Runs, merges, sweeps and studies from Python, by the code of the commands."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cl import signals
from cl.configuration import plugins
from cl.distributed import ranks
from cl.run.folder import plain
from cl.run.job import run_or_find_each
from cl.run.mistakes import one_line
from remerge.results import Failure, Run, Runs, SweepFailed
from remerge.words import configuration, jobs_of, words_of

PROGRAM = ("-m", "remerge", "run")


def run(*words: str, config_dir: str | Path | None = None, **values) -> Run:
    """Train a strategy on a scenario, or find what was trained: `run("strategy=er", "scenario=class5", seed=0)`.

    `words` are those of `python run.py`, `values` are keys without a dot (`**{"optimizer.lr": 0.1}` for others);
    `config_dir`: a folder of your own options. An interrupted call goes on when it is repeated. Raises ValueError for
    mistakes, in one line.
    """
    found = _runs(words_of(words, values), config_dir, most=1)
    return found[0]


def _runs(words: list[str], config_dir: str | Path | None, most: int | None = None) -> list[Run]:
    """The runs of some words, one for each of `seeds`, of which there may be `most`."""
    with _job():
        own = [] if config_dir is None else [f"--config-dir={Path(config_dir).resolve()}"]
        config = configuration("run", words, config_dir)
        if most is not None and plain(config)["seeds"] > most:
            raise ValueError(f"remerge.run gives one run, got seeds={config.seeds}: remerge.sweep gives several")
        return [Run(folder, trust=config.trust) for folder in run_or_find_each(config, [*words, *own], PROGRAM)]


def merge(*words: str, config_dir: str | Path | None = None, **values) -> Run:
    """Merge networks of single tasks: `merge("fusion=ties", "scenario=class5", seed=0)`; `.baselines` has the others.

    Words and values are those of `python merge.py`. Raises ValueError for mistakes, in one line.
    """
    from merging.command import merge as do_merge

    with _job():
        given = words_of(words, values)
        if any(word.startswith("study=") for word in given):
            raise ValueError('a study is remerge.study("study=equal_budget", seeds=range(5))')
        config = configuration("merge", given, config_dir)
        *baselines, folder = do_merge(config)
        return Run(folder, [Run(baseline, trust=config.trust) for baseline in baselines], config.trust)


def study(
    *words: str, seeds: Sequence[int] = (0,), config_dir: str | Path | None = None, name: str = "equal_budget", **values
) -> Runs:
    """Compare both schools under equal budgets: `study("scenario=class5", seeds=range(5))`.

    Returns the runs of all rows; `.page` is the file of the page. Raises ValueError for mistakes, and for rows that
    failed once all others are done.
    """
    from merging.command import study_folder

    with _job():
        seeds = [int(seed) for seed in seeds]
        given = [f"study={name}", *words_of(words, values)]
        every = [*given, f"study.seeds={seeds}".replace(" ", "")]
        folder = study_folder(configuration("merge", every, config_dir), every, config_dir and str(config_dir))
        own = [] if config_dir is None else [f"--config-dir={Path(config_dir).resolve()}"]
        _in_a_process(["merge", *given, *own, "-m", f"seed={','.join(map(str, seeds))}"])
        return Runs.of_study(folder)


def sweep(
    *words: str,
    jobs: int | str = 1,
    command: str = "run",
    config_dir: str | Path | None = None,
    **values,
) -> Runs:
    """All combinations of several values: `sweep("strategy=er,derpp", "scenario=class5", seed=range(3), jobs=2)`.

    Text with commas is swept over as on a command line, and so is a list or a range given as a value, unless the option
    is a list itself (`pictures=[]`). `jobs`: how many
    at a time, each in a process of its own, or "auto"; 1: one after the other in this process. `command`: run or merge.
    Raises SweepFailed, which has the finished runs, once all jobs are done, if some of them failed.
    """
    if command not in ("run", "merge"):
        raise ValueError(f"command must be run or merge, got {command!r}")
    jobs = plugins.jobs_of({"jobs": jobs})
    every = jobs_of(words, values, command, config_dir)
    for job in every:  # mistakes of all jobs are known before the first one starts
        configuration(command, job, config_dir)
    found, failed = _one_by_one(every, command, config_dir) if jobs == 1 else _at_once(every, command, config_dir, jobs)
    if failed:
        raise SweepFailed(Runs(found), failed, len(every))
    return Runs(found)


def _one_by_one(every: list[list[str]], command: str, config_dir) -> tuple[list[Run], list[Failure]]:
    found, failed = [], []
    for number, words in enumerate(every, start=1):
        if sys.stdout.isatty() or len(every) > 1:
            print(f"{command} {number}/{len(every)}  {' '.join(words)}", flush=True)
        try:
            if command == "run":
                found += _runs(words, config_dir)
            else:
                result = merge(*words, config_dir=config_dir)
                found += [*result.baselines, result]
        except Exception as error:
            failed.append(Failure(tuple(words), one_line(error, command, words)))
    return found, failed


def _at_once(every: list[list[str]], command: str, config_dir, jobs: int | str) -> tuple[list[Run], list[Failure]]:
    from cl.jobs.sweep import Job, Outcome, do
    from merging.command import merge as do_merge

    def tell(place: int, outcome: Outcome) -> None:
        what = f"failed: {outcome.error}" if outcome.error else f"{outcome.seconds:.1f} s"
        print(f"{command} {place + 1}/{len(every)}  {' '.join(every[place])}  {what}", flush=True)

    folder, merge = config_dir and str(config_dir), do_merge if command == "merge" else None
    with _job():
        outcomes = do([Job(command, tuple(words), folder, merge, PROGRAM) for words in every], jobs, tell)
    found = [
        Run(folder, trust=configuration(command, words, config_dir).trust)
        for words, outcome in zip(every, outcomes)
        for folder in outcome.folders
    ]
    return found, [Failure(outcome.words, outcome.error) for outcome in outcomes if outcome.error]


@contextlib.contextmanager
def _job() -> Iterator[None]:
    """What stands around a job in a process that does other things as well."""
    if os.getcwd() not in sys.path:  # for the user's own components, as on the command line
        sys.path.append(os.getcwd())
    if ranks.started():
        raise ValueError("remerge is called by one process, and starts ranks itself (launcher=torchrun launcher.np=2)")
    torch = sys.modules.get("torch")
    drawn = None if torch is None else torch.get_rng_state()
    try:
        with signals.listening():
            yield
    finally:
        if drawn is not None:  # what the caller draws does not depend on whether a run was trained or found
            torch.set_rng_state(drawn)


def _in_a_process(words: list[str]) -> None:
    """Run a command, and print what it prints; raises ValueError with its error.

    A study needs an event loop of its own, and a notebook has one already.
    """
    line = [sys.executable, "-u", "-m", "remerge", *words]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        last = ""
        try:
            for text in process.stdout:
                last = text.strip() or last
                print(text, end="", flush=True)
            status = process.wait()
        except BaseException:  # Ctrl-C among them: its runs are saved
            process.terminate()
            process.wait()
            raise
    if status:
        raise ValueError(last.removeprefix("error: "))
