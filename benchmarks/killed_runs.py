"""Commands that are started, watched step by step and killed; what kills.py is made of."""

import contextlib
import csv
import itertools
import json
import os
import random
import secrets
import shlex
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before the server starts: it is read when Python starts

import forkserver

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "REMERGE_KILLS"  # names the chain that a process belongs to
WAIT = 240.0  # seconds after which a command hangs
STEPS = '''"""Writes every step of every rank into a file, at once, so that it is there after a kill."""

import os
import time

from cl.run.callbacks import Callback


class Steps(Callback):
    all_ranks = True

    def on_run_start(self, context):
        self.file = os.open(f"steps_{context.rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.write("start", os.getpid(), context.first_stage, context.first_step)
        self.stage = context.first_stage

    def on_stage_start(self, stage, num_samples, steps):
        self.stage = stage
        self.write("stage", stage, steps)

    def on_step(self, step, loss):
        self.write("step", self.stage, step)
        time.sleep(0.003)  # a step of a larger network, during which a checkpoint can be written

    def write(self, *words):
        os.write(self.file, (" ".join(map(str, (*words, time.monotonic_ns()))) + "\\n").encode())
'''
# Of results.json and metrics.csv, what depends on the clock or on the process (of the first, the sum of the second).
TIMES = ("seconds", "samples_per_second", "peak_memory_bytes", "checksum", "git_commit", "metrics.csv")


@dataclass
class Start:
    """A start of training: the process, where it went on, its last step as (stage, step), and when (seconds)."""

    pid: int
    position: tuple[int, int]
    last: tuple[int, int]
    began: float
    ended: float
    steps: int = 0


class Command:
    """`run.py WORDS` in a folder of its own."""

    def __init__(self, words: list[str], folder: Path):
        self.words, self.folder, self.token = words, folder, secrets.token_hex(8)
        self.line = shlex.join(["python", str(ROOT / "run.py"), *words])
        folder.mkdir(parents=True)
        (folder / "step_log.py").write_text(STEPS)

    def start(self) -> "Attempt":
        env = {**os.environ, TOKEN: self.token}
        return Attempt(self, forkserver.start([ROOT / "run.py", *self.words], cwd=self.folder, env=env))


class Attempt:
    """One process of a command, with its ranks."""

    def __init__(self, command: Command, process):
        self.command, self.process = command, process

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def starts(self) -> list[Start]:
        """The starts of rank 0 so far, of earlier processes of the command as well."""
        return self._read(0)[0]

    def wait_until(self, reached: Callable[[list[Start]], bool]) -> bool:
        """Wait until the starts of rank 0 are so; False where the command ends before."""
        deadline = time.monotonic() + WAIT
        while True:
            ended = self.ended
            if reached(self.starts):
                return True
            if ended:
                return False
            if time.monotonic() > deadline:
                self.kill("all", random.Random())
                raise TimeoutError(f"no step in {WAIT:.0f} s: {self.command.line}  (in {self.command.folder})")
            time.sleep(0.005)

    def kill(self, victims: str, choice: random.Random) -> None:
        """SIGKILL to the process with all ranks, or to one of the ranks."""
        files = sorted(self.command.folder.glob("steps_*"))
        ranks = [self._read(int(file.name.rpartition("_")[2]))[0] for file in files]
        pids = [found[-1].pid for found in ranks if found and belongs(found[-1].pid, self.command.token)]
        if victims == "one" and len(files) > 1:
            pids = pids and [choice.choice(pids)]
        else:
            self.process.kill()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait for its end; its status and what it wrote to stderr. Raises TimeoutExpired where it hangs."""
        if self.process.stdout.closed:
            return self.process.returncode, ""
        _, error = self.process.communicate(timeout=WAIT)
        return self.process.returncode, error

    def _read(self, rank: int) -> tuple[list[Start], dict[int, int]]:
        """Starts of a rank, and the number of steps of each stage."""
        starts, stages = [], {}
        file = self.command.folder / f"steps_{rank}"
        for line in file.read_text().splitlines() if file.exists() else ():
            kind, *numbers = line.split()
            *numbers, now = map(int, numbers)
            if kind == "start":
                starts.append(Start(numbers[0], tuple(numbers[1:]), tuple(numbers[1:]), now / 1e9, now / 1e9))
            elif kind == "stage":
                stages[numbers[0]] = numbers[1]
            else:
                starts[-1].last, starts[-1].ended = tuple(numbers), now / 1e9
                starts[-1].steps += 1
        return starts, stages

    # Of a whole run:

    def index(self, position: tuple[int, int]) -> int:
        """The number of steps before a position."""
        stages = self._read(0)[1]
        return sum(count for stage, count in stages.items() if stage < position[0]) + position[1]

    @property
    def total(self) -> int:
        return sum(self._read(0)[1].values())

    @property
    def seconds(self) -> float:
        """From the start of training to its last step."""
        (only,) = self.starts
        return only.ended - only.began

    def lost(self, starts: list[Start]) -> list[int]:
        """The steps between where each start went on and the last step of the one before it."""
        return [self.index(before.last) - self.index(after.position) for before, after in zip(starts, starts[1:])]


def belongs(pid: int, token: str) -> bool:
    """Whether a process is one of a chain."""
    try:
        return f"{TOKEN}={token}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def no_process_left(token: str, seconds: float = 20) -> list[str]:
    """What is to be said of processes of a chain that have not ended so long after it."""
    deadline = time.monotonic() + seconds
    while pids := [int(path.name) for path in Path("/proc").glob("[0-9]*") if belongs(int(path.name), token)]:
        if time.monotonic() > deadline:
            return [f"processes {pids} are left"]
        time.sleep(0.1)
    return []


def pictures(folder: Path) -> Path:
    """The digits of scikit-learn as picture files, for data sets that are streamed."""
    if not folder.exists():
        from PIL import Image
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        for number, (image, label) in enumerate(zip(images, labels)):
            place = folder / ("test" if number % 5 == 0 else "train") / str(label)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image.reshape(8, 8) * 15).astype("uint8")).save(place / f"{number}.png")
    return folder


def differences(whole: Path, killed: Path) -> list[str]:
    """In what the folder of a run that was killed is not that of one that was not."""
    expected, got = ({path.relative_to(top) for path in top.rglob("*") if path.is_file()} for top in (whole, killed))
    wrong = [f"{name} is left behind" for name in sorted(got - expected)]
    wrong += [f"{name} is missing" for name in sorted(expected - got)]
    for name in sorted(expected & got):
        one, other = whole / name, killed / name
        where = ""
        if name.suffix == ".json":
            one, other = (_timeless(json.loads(path.read_text())) for path in (one, other))
            where = ", ".join(key for key in {**one, **other} if one.get(key) != other.get(key))
        elif name.name == "metrics.csv":
            rows = enumerate(itertools.zip_longest(_rows(one), _rows(other)))
            where = ", ".join(f"row {number}" for number, (row, killed) in rows if row != killed)
        elif one.read_bytes() != other.read_bytes():
            where = "its bytes"
        if where:
            wrong.append(f"{name} differs: {where}")
    return wrong


def _timeless(content):
    if isinstance(content, dict):
        return {key: _timeless(value) for key, value in content.items() if not any(word in key for word in TIMES)}
    return [_timeless(value) for value in content] if isinstance(content, list) else content


def _rows(path: Path) -> list[dict]:
    with path.open() as file:
        return [_timeless(row) for row in csv.DictReader(file)]
