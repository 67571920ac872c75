"""The jobs of a sweep as one: how many are done, the time that is left, what failed, and all results at the end.

Jobs run in this process, in processes beside it, or on hosts of a cluster, as the launcher has it. Each writes what
became of it into a folder below <output>/.hydra/ that the environment names; the command reads it there and removes it.
So every launcher is followed alike, also those of others, which hand on neither folders nor errors.
"""

import contextlib
import json
import logging
import math
import os
import shutil
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from cl.atomic import atomic_write
from cl.configuration.composing import words_of_job
from cl.configuration.place import ROOT
from cl.configuration.plugins import check_launcher, check_sweeper, direction
from cl.distributed import ranks
from cl.reporting import screen
from cl.run.lock import InUseError, locked

FOLDER = "REMERGE_SWEEP"  # names the folder of the records to all processes of a sweep
LOOK_SECONDS = 0.2  # between two looks for new records
OWN = ("hydra_plugins.remerge_launcher.", "hydra._internal.core_plugins.")  # launchers that know where the code is
FOUND_SECONDS = 0.1  # a job that takes less has found its run finished
NEW_SECONDS = 60  # after which a folder of a sweep that nobody holds was left behind
SHOWING = {
    "--cfg",
    "-c",
    "--info",
    "-i",
    "--help",
    "-h",
    "--hydra-help",
    "--shell-completion",
    "-sc",
}  # nothing is done
LOST = "its process ended before it was done; the same command tries it again"


class Refused(BaseException):
    """A mistake in how a sweep is set up, which is its cause; Hydra makes a warning of any Exception of a callback."""


@dataclass
class Record:
    """What became of a job; `words`: what it does not have in common with the others."""

    number: int
    words: str
    process: list = field(default_factory=list)  # host and number of the process
    done: bool = False
    folders: list[str] = field(default_factory=list)
    value: float | None = None  # its average accuracy, or error
    seconds: float = 0.0
    failure: dict | None = None  # what `cl.run.cli` reports

    def write(self, folder: str | Path) -> None:
        """Write it, unless the command has ended meanwhile; a cluster goes on with its jobs."""
        if not Path(folder).is_dir():
            return
        with atomic_write(Path(folder) / f"{self.number}.json", "w") as file:
            json.dump(asdict(self), file)


class Sweep:
    """The sweep of this command; `tell`: called with every failure of a job in another process."""

    def __init__(self, folder: Path, config: DictConfig, keys: set[str], tell: Callable[[dict, str], None]):
        self.folder, self.tell, self.keys = folder, tell, sorted(keys)
        self.total = _expected(config)
        self.direction = direction(config)
        self.began = time.monotonic()
        self.records: dict[int, Record] = {}  # of jobs that are done
        self.processes: set[tuple] = set()  # that do jobs
        self._held = contextlib.ExitStack()
        self._held.enter_context(locked(folder))
        self._looking, self._ended = threading.Lock(), threading.Event()
        self._watch = threading.Thread(target=self._follow, name="sweep", daemon=True)
        (folder / "keys").write_text(json.dumps(self.keys))
        self._watch.start()

    def line(self, place: int, words: str, seconds: str = "") -> str:
        """`run 3/8  strategy=er seed=2  about 40 s left`."""
        parts = [f"run {place}" + (f"/{self.total}" if self.total else ""), words, seconds, self._left()]
        return "  ".join(part for part in parts if part)

    def _left(self) -> str:
        """The time that is left if all jobs that are not done take as long as those that were trained."""
        trained = [record.seconds for record in self.records.values() if record.seconds > FOUND_SECONDS]
        rest = (self.total or 0) - len(self.records)
        if not trained or rest <= 0:
            return ""
        return f"about {duration(statistics.fmean(trained) * math.ceil(rest / len(self.processes)))} left"

    def _follow(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Take note of new records, and tell of those of other processes; jobs of this one have told themselves."""
        with self._looking:
            self._look()

    def _look(self) -> None:
        for path in sorted(self.folder.glob("*.json"), key=lambda path: path.stat().st_mtime):
            number = int(path.stem)
            record = None if number in self.records else read(path)
            if record is not None:
                self.processes.add(tuple(record.process))
            if record is None or not record.done:
                continue
            self.records[number] = record
            if record.process == this_process():
                continue
            if record.failure is not None:
                self.tell(record.failure, record.words)
            print(self.line(len(self.records), record.words, duration(record.seconds)), flush=True)

    def close(self, stopped: bool) -> list[Record]:
        """The jobs in their order; of those that were not done, each has failed unless the command was stopped."""
        self._ended.set()
        self._watch.join()
        self.look()
        for path in self.folder.glob("*.json"):
            record = read(path)
            if record is not None and not record.done and not stopped:
                record.failure = {"line": LOST, "trace": "", "loss": False, "ranks": []}
                self.records[record.number] = record
        self._held.close()
        shutil.rmtree(self.folder, ignore_errors=True)  # a job of a cluster may write into it meanwhile
        return [self.records[number] for number in sorted(self.records)]

    def best(self) -> str:
        """The best of an optimising sweep, in words; empty of another."""
        found = [record for record in self.records.values() if record.value is not None]
        if self.direction is None or not found:
            return ""
        best = (min if self.direction == "minimize" else max)(found, key=lambda record: record.value)
        reached = f"error {best.value:.4g}" if self.direction == "minimize" else f"accuracy {100 * best.value:.2f} %"
        return f"best: {best.words}  {reached}  {screen.place(best.folders[-1])}"


_sweep: Sweep | None = None
_keys: set[str] = set()  # that the command line sweeps over
_tell: Callable[[dict, str], None] = lambda failure, words: None  # noqa: E731


def expect(keys: set[str], tell: Callable[[dict, str], None]) -> None:
    """Before Hydra begins: what the command line sweeps over, and who is told of failures."""
    global _sweep, _keys, _tell
    _sweep, _keys, _tell = None, keys, tell
    os.environ.pop(FOLDER, None)


def announce(keys: set[str], overrides: list[str], flags: list[str]) -> None:
    """Say what will be done, before Hydra composes the configuration of each job."""
    if not keys or ranks.started() or set(flag.partition("=")[0] for flag in flags) & SHOWING:
        return
    jobs = next((word.partition("=")[2] for word in reversed(overrides) if word.startswith("jobs=")), "1")
    beside = f", {jobs} jobs at a time" if jobs.isdigit() and int(jobs) > 1 else ""
    screen.say(f"a sweep over {', '.join(sorted(keys))}{beside}")


def close(stopped: bool) -> tuple[list[Record], str]:
    """The jobs of this command and its best one; none, where it was no sweep."""
    global _sweep
    if _sweep is None:
        return [], ""
    sweep, _sweep = _sweep, None
    os.environ.pop(FOLDER, None)
    records = sweep.close(stopped)
    return records, sweep.best()


class Follow(Callback):
    """What Hydra calls in the process of the command, before the sweeper and the launcher are made."""

    def on_multirun_start(self, config: DictConfig, **_) -> None:
        global _sweep
        if ranks.rank() > 0:
            return
        try:
            check_launcher(config)
            if hint := check_sweeper(config):
                print(hint, file=sys.stderr)
            # What Optuna and its sweeper log is said by the lines of the jobs.
            for name in ("optuna.study", "optuna.storages"):
                logging.getLogger(name).setLevel(logging.WARNING)
            logging.getLogger("hydra_plugins").addHandler(logging.NullHandler())
            folder = Path(str(config.hydra.sweep.dir)).absolute()
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob("sweep-*"):  # by a command that was killed; a new one may not be locked yet
                with contextlib.suppress(InUseError, FileNotFoundError):
                    if time.time() - left.stat().st_mtime > NEW_SECONDS:
                        with locked(left):
                            shutil.rmtree(left, ignore_errors=True)
            own = Path(tempfile.mkdtemp(prefix="sweep-", dir=folder))
        except (ValueError, OSError) as error:
            raise Refused from error
        if not str(config.hydra.launcher._target_).startswith(OWN):
            paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
            os.environ["PYTHONPATH"] = os.pathsep.join(paths)
        params = config.hydra.sweeper.get("params") or {}
        _sweep = Sweep(own, config, _keys | {str(key) for key in params}, _tell)
        os.environ[FOLDER] = str(own)


@contextlib.contextmanager
def job() -> Iterator[Record | None]:
    """One job, whose record is written when the block ends; None outside of a sweep."""
    folder = os.environ.get(FOLDER)
    if folder is None or HydraConfig.get().mode != RunMode.MULTIRUN or ranks.rank() > 0:
        yield None
        return
    record = Record(HydraConfig.get().job.num, own_words(_keys_in(folder)), this_process())
    record.write(folder)
    if _sweep is not None:
        _sweep.look()
        print(_sweep.line(len(_sweep.records) + 1, record.words), flush=True)
    began = time.monotonic()
    yield record
    record.done, record.seconds = True, time.monotonic() - began
    record.write(folder)


def failed(number: int, line: str) -> None:
    """A launcher knows that the process of a job has ended."""
    folder = os.environ[FOLDER]
    record = read(Path(folder) / f"{number}.json") or Record(number, "")
    record.done, record.failure = True, {"line": line, "trace": "", "loss": False, "ranks": []}
    record.write(folder)


def read(path: Path) -> Record | None:
    """A record; None if there is none."""
    try:
        return Record(**json.loads(path.read_text()))
    except (FileNotFoundError, json.JSONDecodeError):  # a file system of several hosts shows it before it is whole
        return None


def this_process() -> list:
    return [socket.gethostname(), os.getpid()]


def own_words(keys) -> str:
    """What this job does not have in common with the others."""
    return " ".join(word for word in words_of_job() if word.lstrip("+").partition("=")[0] in keys)


def _keys_in(folder: str) -> list[str]:
    try:
        return json.loads((Path(folder) / "keys").read_text())
    except FileNotFoundError:
        return [word.partition("=")[0] for word in words_of_job()]


def _expected(config: DictConfig) -> int | None:
    """How many jobs a sweep has; None where its sweeper does not say."""
    sweeper = config.hydra.sweeper
    if str(sweeper._target_).endswith(".BasicSweeper"):
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        words = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
        words += OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
        with contextlib.suppress(HydraException):  # the sweeper will tell
            return len(BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(words), None)[0])
        return None
    sampler = str((sweeper.get("sampler") or {}).get("_target_"))
    return None if sampler.endswith("GridSampler") else sweeper.get("n_trials")


def duration(seconds: float) -> str:
    """`0.8 s`, `40 s`, `12 min`, `3.5 h`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"
