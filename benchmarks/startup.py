"""The time of a command until it trains or ends, in units of `import torch`.

    python benchmarks/startup.py [--rounds 5] [--data PATH] [--top 15]

Each round runs every command once, on one core, after `python -c "import torch"` as the unit, so that changes of the
machine's speed affect all of them. The table has medians over the rounds: the ratio of wall-clock times, the ratio of
processor times (which other processes change little), and the seconds. Training is timed up to its first step
(`benchmarks/first_step.py`); with --data, the folder of MNIST, also on Split MNIST. The last table shows the import
times by package, from Python's -X importtime. Every process finds its modules compiled, in a folder of the benchmark,
as after the first start of an installation. What is being done is said before torch is imported: the second table has
the seconds until the first line of output, through a pipe.
Limits: 1.5 until the first training step; 1 s for a mistake that needs no torch; 0.5 s until the first line.
"""

import argparse
import collections
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNIT = [sys.executable, "-c", "import torch"]
LIMIT, LIMIT_SECONDS, LIMIT_FIRST_LINE = 1.5, 1.0, 0.5


def commands(data: str | None, folder: Path) -> dict[str, list[str]]:
    """The commands to time, by name; the output folder of runs that train is emptied before each."""
    run, first = [sys.executable, "run.py"], [sys.executable, "benchmarks/first_step.py", "run.py"]
    output = f"output={folder / 'new'}"
    mnist = [*first, "+experiment=split_mnist_er", "buffer.capacity=200", f"dataset.root={data}", output]
    return {
        "first step, digits": [*first, output],
        **({"first step, Split MNIST": mnist} if data else {}),
        "a finished run": [*run, f"output={folder / 'finished'}", "steps=1", "pictures=[]"],
        "--help": [*run, "--help"],
        "an unknown option": [*run, "sed=1"],
        "a wrong value": [*run, "strategy.alpha=-1", output],
    }


def environment(folder: Path) -> dict[str, str]:
    """The environment of this process, with compiled modules in the folder of the benchmark."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": str(folder / "compiled")}


def timed(command: list[str], folder: Path) -> tuple[float, float]:
    """Run a command; returns its wall-clock seconds and its processor seconds. Status 1 is allowed, for mistakes."""
    subprocess.run(["rm", "-rf", folder / "new"], check=True)
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime


def first_lines(folder: Path) -> dict[str, list[str]]:
    """The commands whose first line is timed, by name; the output folder is empty."""
    output, report = f"output={folder / 'new'}", [sys.executable, "-m", "cl.report", str(folder / "finished"), "--page"]
    return {
        "run.py": [sys.executable, "run.py", output],
        "run.py, a sweep": [sys.executable, "run.py", output, "-m", "seed=0,1"],
        "run.py, finished": [sys.executable, "run.py", f"output={folder / 'finished'}", "steps=1", "pictures=[]"],
        "merge.py": [sys.executable, "merge.py", output],
        "merge.py, a study": [sys.executable, "merge.py", "study=equal_budget", output],
        "cl.report --page": report,
    }


def seconds_to_line(command: list[str], folder: Path) -> float:
    """Seconds until a command writes its first line; it is stopped then."""
    subprocess.run(["rm", "-rf", folder / "new"], check=True)
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    line = process.stdout.readline()
    seconds = time.perf_counter() - started
    process.kill()
    process.communicate()
    if not line.strip():
        raise RuntimeError(f"{' '.join(command)} wrote no line")
    return seconds


def costs(command: list[str], folder: Path) -> tuple[dict[str, float], int]:
    """Seconds for importing each top-level package without its dependencies, and the number of modules."""
    line = [command[0], "-X", "importtime", *command[1:]]
    done = subprocess.run(line, cwd=ROOT, env=environment(folder), capture_output=True, text=True)
    packages, count = collections.Counter(), 0
    for microseconds, name in re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", done.stderr):
        packages[name.partition(".")[0]] += int(microseconds) / 1e6
        count += 1
    return packages, count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", help="folder of MNIST/raw/")
    parser.add_argument("--top", type=int, default=15, help="packages in the table of imports")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        chosen = commands(arguments.data, folder)
        for command in (UNIT, *chosen.values()):  # compiles the modules, and trains the run for "a finished run"
            timed(command, folder)
        rows = collections.defaultdict(list)
        for _ in range(arguments.rounds):
            unit = timed(UNIT, folder)
            rows["import torch"].append((*unit, 1.0, 1.0))
            for name, command in chosen.items():
                seconds = timed(command, folder)
                rows[name].append((*seconds, seconds[0] / unit[0], seconds[1] / unit[1]))
        lines = {
            name: statistics.median(seconds_to_line(command, folder) for _ in range(arguments.rounds))
            for name, command in first_lines(folder).items()
        }
        packages, count = costs(chosen["first step, digits"], folder)
    print(f"{'':24}  ratio  by processor  seconds  processor s")
    for name, found in rows.items():
        wall, processor, ratio, by_processor = map(statistics.median, zip(*found))
        print(f"{name:24}  {ratio:5.2f}  {by_processor:12.2f}  {wall:7.2f}  {processor:11.2f}")
    print(f"\nlimits: {LIMIT} until the first step, {LIMIT_SECONDS} s for a mistake")
    print(f"\n{'first line':24}  seconds  (limit: {LIMIT_FIRST_LINE} s)")
    for name, seconds in lines.items():
        print(f"{name:24}  {seconds:7.2f}")
    print(f"\n{count} modules until the first step; seconds for imports by package:")
    for name, seconds in packages.most_common(arguments.top):
        print(f"{name:24}  {seconds:5.2f}")


if __name__ == "__main__":
    main()
