"""A sweep of short runs in one process, and with `jobs` processes beside each other.

    python benchmarks/jobs.py [PAIRS]

Each pair runs both commands, one after the other, into a new folder. Prints the seconds of both, the CPU time of the
command with everything that it has started, and the ratio of the medians.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORDS = ("strategy=er,derpp", "seed=0,1,2,3", "-m")


def measure(jobs: int) -> tuple[float, float]:
    """Wall and CPU seconds of the sweep."""
    with tempfile.TemporaryDirectory() as folder:
        before, began = os.times(), time.perf_counter()
        line = [sys.executable, "run.py", *WORDS, f"jobs={jobs}", f"output={folder}"]
        subprocess.run(line, cwd=ROOT, check=True, capture_output=True)
        after = os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        return time.perf_counter() - began, cpu


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    found: dict[int, list[float]] = {1: [], 2: []}
    for number in range(pairs):
        for jobs, times in found.items():
            wall, cpu = measure(jobs)
            times.append(wall)
            print(f"pair {number + 1}  jobs={jobs}  {wall:5.2f} s  CPU {cpu:5.2f} s", flush=True)
    one, two = (statistics.median(times) for times in found.values())
    print(f"median of {pairs}: jobs=1 {one:.2f} s, jobs=2 {two:.2f} s, ratio {two / one:.2f}")


if __name__ == "__main__":
    main()
