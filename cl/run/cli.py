"""The command line around Hydra: flags anywhere, errors in one line, one table at the end.

Hydra gives composition, sweeps, launchers and completion; four things are added to it:

- Its argparse takes no override after a flag (`unrecognized arguments: seed=0,1,2`), so the arguments are put in order.
- A sweep over a group takes options that only the swept members have (`dataset=mnist,kmnist dataset.root=PATH`).
- A user's mistake is one line that says what is valid, and exit status 1; `debug=true` shows the traceback instead.
- After the last job the runs of this command are summed up in one table (mean +- std over seeds).
"""

import contextlib
import gc
import os
import signal
import statistics
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser

from cl import __version__, imports, signals
from cl.configuration import arguments
from cl.configuration.composing import folders_of_job, own_folders, register_resolvers, use_own, words_of_job
from cl.configuration.settings import Merge
from cl.configuration.trust import check_given
from cl.distributed import ranks, reports
from cl.distributed.failures import RanksFailed
from cl.distributed.leaving import leave
from cl.reporting import screen
from cl.reporting.reading import read_results
from cl.run import sweeping
from cl.run.job import run_or_find_each
from cl.run.mistakes import is_loss, one_line
from cl.values import WORDS

_finished_runs: list[Path] = []  # folders of the runs that this process finished or found finished
_reported: set[str] = set()  # errors already printed: the jobs of a sweep share most of their mistakes
_swept: set[str] = set()  # keys that this command sweeps over
_lost = False  # whether another rank was lost
_mistaken = False  # whether something else was wrong
_process: int | None = None  # the process that `launch` runs in


def launch(main, command: str, prepare: Callable | None = None) -> None:
    """Run a `hydra.main` function on `sys.argv`; never returns.

    Exits with 0, 1 (an error), 75 (ranks were lost, and nothing else was wrong) or 128 + signal.
    `command`: the name of its configuration, run or merge. `prepare`: changes settings and flags before.
    """
    global _process, _lost, _mistaken
    _process, _lost, _mistaken = os.getpid(), False, False
    _finished_runs.clear()
    _reported.clear()
    _swept.clear()
    sweeping.expect(_swept, _report)
    if os.getcwd() not in sys.path:  # for the user's own metrics, callbacks and components
        sys.path.append(os.getcwd())
    words, overrides, flags = sys.argv[1:], [], []
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on unchanged; they are worded by cl.run.mistakes
    register_resolvers()
    stopped = None
    imports.stay()
    signals.listen()
    answering = contextlib.ExitStack()  # to the end of this process if it is a rank
    try:
        if ranks.started():  # raises for variables of launchers that contradict one another
            answering.enter_context(signals.answered_by_a_thread())
        overrides, flags = arguments.ordered(words)
        if "--version" in flags:
            print(f"remerge {__version__}")
            sys.exit(0)
        use_own(own_folders(overrides, flags))
        arguments.check_overrides(overrides, command)
        if prepare is not None:
            overrides, flags = prepare(overrides, flags)
        if arguments.is_sweep(flags):
            overrides = _for_each_job(overrides)
            sweeping.announce(_swept, overrides, flags)
        sys.argv[1:] = overrides + flags
        main()
    except signals.Stopped as stop:
        stopped = stop
        if stop.line and ranks.rank() == 0:
            again = any(word.startswith("overwrite=") and WORDS.get(word.partition("=")[2].lower()) for word in words)
            several = command == "merge" or arguments.is_sweep(flags)  # of which some may be finished by now
            hint = " (without overwrite=true)" if again and several else ""
            screen.say(f"\n{stop.number.name}: {stop.line}{hint}", sys.stderr)
    except BrokenPipeError:
        _nobody_reads()
    except (Exception, sweeping.Refused) as error:
        error = error.__cause__ if isinstance(error, sweeping.Refused) else error
        line = one_line(error, command, overrides, _extra_folder(flags))
        # A composition error comes before there is a config, so `debug` is read from the command line as well.
        asked = [word.partition("=")[2].lower() for word in words if word.startswith("debug=")]
        _report(_failure(error, line, debug=any(WORDS.get(word) for word in asked)))
    records, best = sweeping.close(stopped is not None)
    signals.stop_listening()
    _finished_runs.extend(Path(folder) for record in records for folder in record.folders)
    try:
        if _finished_runs and ranks.LAUNCHED not in os.environ:
            from cl.reporting import closing

            closing.show(list(dict.fromkeys(_finished_runs)))
        if best:
            screen.say(f"\n{best}")
    except BrokenPipeError:
        _nobody_reads()
    _list_failures(records)
    status = 128 + stopped.number if stopped is not None else 1 if _mistaken else reports.LOST if _lost else 0
    if _is_rank():
        leave(status)
    signals.ignore()
    gc.freeze()  # or the interpreter looks through all that there is before it ends
    sys.exit(status)


def _nobody_reads() -> None:
    """End where what read the output has ended, as `head` does."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(128 + signal.SIGPIPE)


def _for_each_job(overrides: list[str]) -> list[str]:
    """The overrides of a sweep so that options of a swept group are left to its jobs.

    Hydra also composes a configuration of what all jobs have in common, in which a swept group has its default option;
    that takes no option of another. A value is therefore made a sweep over one value, which only the jobs are given.
    """
    parsed = OverridesParser.create().parse_overrides(overrides)
    _swept.update(override.key_or_group for override in parsed if override.is_sweep_override())
    if not any(key not in Merge.__annotations__ and "." not in key for key in _swept):
        return overrides
    return [
        override.input_line
        if override.is_sweep_override() or override.is_delete() or override.is_hydra_override()
        or "." not in override.key_or_group
        else f"{override.get_key_element()}=choice({override.get_value_element_as_str() or chr(39) * 2})"
        for override in parsed
    ]  # fmt: skip


def _extra_folder(flags: list[str]) -> str | None:
    """The folder that --config-dir names."""
    for place, flag in enumerate(flags):
        name, equals, value = flag.partition("=")
        if name in ("--config-dir", "-cd"):
            return value if equals else flags[place + 1]
    return None


def run_job(config, run: Callable | None = None) -> float | None:
    """One job of a command: trains it, or finds it finished, and notes its folder for the table.

    Returns the average accuracy (in its mean over `seeds`), the objective of Hydra's optimising sweepers; None after an
    error, which is said at once: a sweep goes on with its other jobs.
    """
    with sweeping.job() as record:
        try:
            if _process != os.getpid():
                config.progress = False  # bars of several processes would write over one another
            folders = _folders(config, run)
        except BrokenPipeError:
            _nobody_reads()
        except Exception as error:
            if _process != os.getpid() and record is None:
                raise
            failure = _failure(
                error, one_line(error, "run", words_of_job()), WORDS.get(str(config.get("debug")).lower()) is True
            )
            folders = [str(folder.absolute()) for folder in getattr(error, "folders", [])]
            if record is not None:
                record.failure, record.folders = failure, folders
            else:
                _finished_runs.extend(map(Path, folders))
            if _process == os.getpid():
                _report(failure, record.words if record is not None else "")
            return None
        if ranks.rank() > 0 or not folders:  # a study prints its own tables
            return None
        found = [read_results(folder / "results.json") for folder in (folders if run is None else folders[-1:])]
        value = statistics.fmean(content.get("average_accuracy", content.get("average_error")) for content in found)
        if record is None:
            _finished_runs.extend(folders)
        else:
            record.folders, record.value = [str(folder.absolute()) for folder in folders], value
        return value


def _folders(config, run: Callable | None) -> list[Path]:
    """Do a job; the folders of what it has trained or found."""
    check_given(config, words_of_job())
    use_own(folders_of_job())  # a launcher may have started this process
    started = ranks.started()
    if run is not None and started and started[2] > 1:  # each would do the same work in the same folders
        raise ValueError(
            f"{started[2]} ranks were started, but merging runs in one process: start it without srun, mpirun or "
            "torchrun; run.py strategy=independent trains on several ranks, and run=FOLDER merges its networks"
        )
    ranks.prepare()
    return run(config) if run is not None else run_or_find_each(config, _words_of_ranks())


def _words_of_ranks() -> list[str]:
    """The command line from which ranks compose the configuration of this job: also those on other hosts."""
    words = words_of_job()
    words += [word for word in words_of_job("hydra") if word.startswith("hydra.searchpath=")]
    folders = [source.path for source in HydraConfig.get().runtime.config_sources if source.provider == "command-line"]
    return words + [f"--config-dir={folder}" for folder in folders]


def _failure(error: Exception, line: str, debug: bool) -> dict:
    """What went wrong, as it can be handed on between processes; `ranks`: what ranks of our launcher reported."""
    loss = error.is_loss if isinstance(error, RanksFailed) else is_loss(error)
    said = error.errors if isinstance(error, RanksFailed) else []
    trace = "".join(traceback.format_exception(error)) if debug and not said else ""
    return {"line": (_lost_rank() or line) if loss and not said else line, "loss": loss, "ranks": said, "trace": trace}


def _report(failure: dict, words: str = "") -> None:
    """Say what went wrong: a rank of our launcher tells the launcher, which says the same of several ranks once."""
    global _lost, _mistaken
    loss, line, job = failure["loss"], failure["line"], f"job {words}: " if words else ""
    _lost, _mistaken = _lost or loss, _mistaken or not loss
    for who, text, trace in failure["ranks"]:
        if text not in _reported:
            _reported.add(text)
            print(f"{trace}{who}error: {job}{text}", file=sys.stderr)
    if not line or line in _reported:
        return
    _reported.add(line)
    if reports.is_read():
        reports.tell("error", line=job + line, trace=failure["trace"], lost=loss)
        return
    where = f"rank {ranks.rank()}: " if _is_rank() else ""
    print(failure["trace"], end="", file=sys.stderr)
    screen.say(f"{where}error: {job}{line}", sys.stderr)


def _list_failures(records: list[sweeping.Record]) -> None:
    """The jobs of a sweep that failed, at its end; not where all failed alike, which was said once."""
    global _mistaken, _lost
    failed: dict[str, list[str]] = {}
    for record in records:
        if record.failure is not None:
            _lost, _mistaken = _lost or record.failure["loss"], _mistaken or not record.failure["loss"]
            texts = [record.failure["line"], *(text for _, text, _ in record.failure["ranks"])]
            failed.setdefault(next(filter(None, texts), ""), []).append(record.words or f"job {record.number}")
    number = sum(map(len, failed.values()))
    if not failed or number == len(records) and len(failed) == 1 and set(failed) <= _reported:
        return
    screen.say(f"\n{number} of {len(records)} jobs failed:", sys.stderr)
    for line, jobs in failed.items():
        screen.say(f"  {'; '.join(jobs)}: {line}", sys.stderr)


def _lost_rank() -> str | None:
    """Which rank the others have lost, as far as they know."""
    if "cl.distributed.group" not in sys.modules:  # not imported where the command failed before
        return None
    from cl.distributed.group import lost

    return lost()


def _is_rank() -> bool:
    """Whether this process is one rank of several; not, where the variables that would tell are the mistake."""
    try:
        return ranks.started() is not None
    except ValueError:
        return False
