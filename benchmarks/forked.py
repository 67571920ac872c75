"""Commands of remerge in forks of one process that has imported everything: a few tenths of a second each.

For benchmarks that run hundreds of small commands (damage.py, full_disk.py). Nothing is imported twice, and no thread
of torch may have started before the first fork: OMP_NUM_THREADS=1 is set here, before torch is imported.
"""

import csv
import hashlib
import json
import os
import re
import runpy
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import hydra._internal.hydra  # noqa: E402, F401
import torch  # noqa: E402

import cl.reporting.page.page  # noqa: E402, F401
import merging.run  # noqa: E402, F401

SECONDS = 120  # after which a command counts as one that hangs
TIMES = re.compile(r"seconds|per_second|peak_memory|^checksum$|^files$|stage_costs|^versions$")
COLUMNS = ("samples_per_second", "replay_wait_seconds")


@dataclass(frozen=True)
class End:
    """How a command ended: its exit status (128 + signal if it was killed, None if it hung) and what it wrote."""

    status: int | None
    out: str
    err: str


def command(words: list, prepare: Callable[[], None] | None = None) -> End:
    """`python WORDS` in the repository's folder: a script, or `-m cl.report`; `prepare` is called in the process."""
    words = [str(word) for word in words]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        pid = os.fork()
        if pid == 0:
            _execute(words, out.fileno(), err.fileno(), prepare)
        status = _wait(pid)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
    return End(status, *texts)


def _wait(pid: int) -> int | None:
    until = time.monotonic() + SECONDS
    pause = 0.002
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code
        time.sleep(pause)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _execute(words: list[str], out: int, err: int, prepare: Callable[[], None] | None) -> None:
    """Never returns."""
    status = 70
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        os.chdir(ROOT)
        if prepare is not None:
            prepare()
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = [str(ROOT / words[0]), *words[1:]]
            runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def numbers(folder: Path) -> dict[str, str]:
    """What results, tables and networks below a folder say, without times: a digest of each file."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.name == "results.json":
            content = json.loads(path.read_text(), object_hook=_timeless)
        elif path.name in ("metrics.csv", "strategy_metrics.csv"):
            with open(path, errors="replace") as file:
                content = [[each[key] for key in each if key not in COLUMNS] for each in csv.DictReader(file)]
        elif path.name.startswith("task_") and path.suffix == ".pt":
            model = torch.load(path)["model"]
            content = {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in model.items()}
        elif path.name in ("report.csv", "report.md"):
            content = path.read_text()
        else:
            continue
        found[str(path.relative_to(folder))] = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return found


def _timeless(found: dict) -> dict:
    return {key: value for key, value in found.items() if not TIMES.search(key)}
