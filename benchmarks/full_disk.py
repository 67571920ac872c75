"""Runs commands on a disk that is full, or becomes read-only, at each of their writes; needs root, for `mount`.

    python benchmarks/full_disk.py --steps 24

A run and a merge on a small disk of memory, a few kilobytes larger each time, so that it is full at each write in turn;
and a run whose folder becomes read-only after each of its rows. Right is one line that names a file, with exit status
1, no half-written file, and that the same command then goes on, once there is room, to the numbers of one that was
never disturbed. A disk that is large enough has to give these at once.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from damage import CURVE, LOGS, SAVES, do, merge, run, the_run
from forked import End, command, numbers

CASES = {
    "run": lambda folder: run(folder, *LOGS, *SAVES),
    "run, reference": lambda folder: run(folder, *SAVES, "buffer=reference", "pictures=[png]"),
    "merge": lambda folder: merge(folder, *CURVE),
}
ROOM = "size=64m"


def mount(*words) -> None:
    for _ in range(100):
        done = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True)
        if "busy" not in done.stderr:
            break
        time.sleep(0.01)  # a checkpoint is being written
    if done.returncode:
        sys.exit(f"error: cannot mount a disk ({done.stderr.strip()}): run this as root")


def umount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def under_way(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith((".tmp", ".part", ".lock"))]


def judged(end: End, folder: Path, words: list, expected: dict, removes: bool) -> str:
    """The outcome of a command on a bad disk, and of the same command on a good one; a mistake begins with MISTAKE.

    `removes`: whether files can be removed from the bad disk.
    """
    said = end.err.splitlines()
    if end.status not in (0, 1) or "Traceback" in end.err:
        return f"MISTAKE: status {end.status}\n{end.err}"
    if end.status == 1 and (len(said) != 1 or str(folder) not in said[0]):
        return f"MISTAKE: no line with a file:\n{end.err}"
    left = under_way(folder) if removes else []
    again = command(words)
    if left := left or under_way(folder):
        return f"MISTAKE: left {left[0].name}"
    if again.status or numbers(folder) != expected:
        return f"MISTAKE: the same command ended with {again.status} and other numbers\n{again.err}"
    return "done at once" if not end.status else "one line, then the same numbers"


def full(name: str, words_of: Callable[[Path], list], steps: int, below: Path) -> Counter:
    """A disk that is full at each write in turn."""
    folder, found = below / "disk", Counter()
    mount("-t", "tmpfs", "-o", ROOM, "tmpfs", folder)
    do(words_of(folder))
    expected, needed = numbers(folder), shutil.disk_usage(folder).used
    umount(folder)
    largest = 4 * needed // 4096 + 8  # checkpoints take room, too, while the run is under way
    for step in range(steps):
        pages = 2 + largest * step // steps
        mount("-t", "tmpfs", "-o", f"size={pages * 4096}", "tmpfs", folder)
        end = command(words_of(folder))
        mount("-o", f"remount,{ROOM}", folder)
        outcome = judged(end, folder, words_of(folder), expected, removes=True)
        umount(folder)
        found[outcome.partition("\n")[0]] += 1
        if outcome.startswith("MISTAKE"):
            print(f"{name}, {pages} pages: {outcome}", flush=True)
    return found


def read_only(name: str, words_of: Callable[[Path], list], steps: int, below: Path) -> Counter:
    """A run's folder that becomes read-only after so many rows."""
    folder, found = below / "disk", Counter()
    do(words_of(folder))
    expected, place = numbers(folder), the_run(folder)
    for rows in range(1, steps + 1):
        shutil.rmtree(folder)
        folder.mkdir()

        def prepare(rows=rows) -> None:
            from cl.reporting.metrics_file import MetricsFile

            append, count = MetricsFile.append, []

            def counted(self, row) -> None:
                append(self, row)
                count.append(row)
                if len(count) == rows:  # a mount on top: a file system with open files cannot be made read-only
                    mount("--bind", place, place)
                    mount("-o", "remount,bind,ro", place)

            MetricsFile.append = counted

        end = command(words_of(folder), prepare)
        if subprocess.run(["mountpoint", "-q", str(place)]).returncode == 0:
            umount(place)
        outcome = judged(end, folder, words_of(folder), expected, removes=False)
        found[outcome.partition("\n")[0]] += 1
        if outcome.startswith("MISTAKE"):
            print(f"{name}, read-only after {rows} rows: {outcome}", flush=True)
    shutil.rmtree(folder)
    folder.mkdir()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=24, help="sizes of the disk, and rows before it is read-only")
    parser.add_argument("--cases", default=";".join(CASES), help="separated by semicolons")
    arguments = parser.parse_args()
    started, mistakes = time.perf_counter(), 0
    with tempfile.TemporaryDirectory(prefix="disk-") as below:
        (Path(below) / "disk").mkdir()
        for name in arguments.cases.split(";"):
            tests = [("full", full), *([("read-only", read_only)] if name.startswith("run") else [])]
            for kind, test in tests:
                for outcome, count in sorted(test(name, CASES[name], arguments.steps, Path(below)).items()):
                    print(f"{name:16} {kind:10} {outcome:40} {count:4}", flush=True)
                    mistakes += count if outcome.startswith("MISTAKE") else 0
    print(f"{time.perf_counter() - started:.0f} s, {mistakes} mistakes")
    sys.exit(mistakes > 0)


if __name__ == "__main__":
    main()
