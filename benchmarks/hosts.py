"""Runs over two hosts: equal bits, and the seconds until the last process has ended after a loss.

    python benchmarks/hosts.py [--engines torchrun,horovod] [--cases finished,signal,link,host,rank] [--timeout 15]

The hosts are two network namespaces with a cable between them (namespaces.py); instead of ssh a script starts a shell
in the other one. Each run has one rank on each host and replays records of both.

    finished   the run ends, with the same bits as two ranks on one host
    signal     SIGTERM to the command
    link       the cable is pulled
    host       all processes of the second host are killed
    rank       the rank of the second host is stopped (SIGSTOP)

The status is 1 if something else happens, or if a process is left; 2 if there can be no namespaces here.
"""

import argparse
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from namespaces import ADDRESSES, TwoHosts

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = ("strategy=er", "scenario=class2", "backbone.hidden=[16]", "progress=false", "pictures=[]", "launcher.np=2")
CASES = ("finished", "signal", "link", "host", "rank")
# For each way to be lost, the status of the command and what it has to say.
EXPECTED = {"signal": (143, "saved"), "link": (75, "rank"), "host": (75, "host"), "rank": (75, "rank 1")}
MOST_SECONDS = 40  # beyond the timeout


def start(hosts: TwoHosts, words: list[str], log: Path) -> subprocess.Popen:
    """`python run.py WORDS` on the first host."""
    places = ",".join(f"{address}:1" for address in ADDRESSES.values())
    line = [str(hosts.wrappers[0]), str(ROOT / "run.py"), *words, f"launcher.hosts={places}"]
    with log.open("w") as out:
        return subprocess.Popen(
            line, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, "REMERGE_SSH": str(hosts.ssh)}
        )


def weights(folder: Path) -> list:
    import torch

    (path,) = folder.rglob("task_01.pt")
    return [value for _, value in sorted(torch.load(path)["model"].items())]


def finish(hosts: TwoHosts, engine: str, folder: Path) -> str:
    """The first case; says whether the bits are those of one host."""
    import torch

    words = [*OPTIONS, "epochs=1", f"launcher={engine}"]
    process = start(hosts, [*words, f"output={folder / 'two'}"], folder / "log")
    if process.wait(300) != 0:
        return (folder / "log").read_text()
    line = [sys.executable, str(ROOT / "run.py"), *words, f"output={folder / 'one'}"]
    subprocess.run(line, cwd=ROOT, check=True, capture_output=True)
    same = all(map(torch.equal, weights(folder / "one"), weights(folder / "two")))
    return "equal bits" if same else "other bits than on one host"


def rank_of(hosts: TwoHosts, letter: str) -> int:
    """The process of a host's rank."""
    for pid in hosts.pids(letter):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"launcher=none" in words:
            return pid
    raise OSError(f"host {letter} has no rank")


def lose(hosts: TwoHosts, engine: str, case: str, timeout: int, folder: Path) -> tuple[float, int, list[str]]:
    """Seconds until no process is left, the status, and the lines that were printed after the event."""
    log = folder / "log"
    words = [*OPTIONS, "epochs=[1,3000]", f"launcher={engine}", f"timeout={timeout}", f"output={folder / 'out'}"]
    process = start(hosts, words, log)
    while "task  1/2" not in log.read_text():
        if process.poll() is not None:
            return math.nan, process.returncode, log.read_text().splitlines()  # it ended before the event
        time.sleep(0.1)
    time.sleep(1.0)
    before, began = len(log.read_text()), time.monotonic()
    if case == "signal":
        process.send_signal(signal.SIGTERM)
    elif case == "link":
        hosts.set_cable("down")
    elif case == "rank":
        os.kill(rank_of(hosts, "b"), signal.SIGSTOP)
    else:
        for pid in hosts.pids("b"):
            os.kill(pid, signal.SIGKILL)
    while (left := [*hosts.pids("a"), *hosts.pids("b")]) and time.monotonic() - began < timeout + MOST_SECONDS:
        time.sleep(0.05)
    seconds = time.monotonic() - began
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    hosts.set_cable("up")
    lines = log.read_text()[before:].splitlines()
    return seconds, process.wait(30) if not left else -1, [line for line in lines if line]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", default="torchrun,horovod")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--timeout", type=int, default=15)
    arguments = parser.parse_args()
    engines, cases = arguments.engines.split(","), arguments.cases.split(",")
    if unknown := set(cases) - set(CASES):
        parser.error(f"--cases has unknown names {', '.join(sorted(unknown))}; valid: {', '.join(CASES)}")
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        try:
            hosts = TwoHosts(Path(folder)).__enter__()
        except OSError as error:
            print(f"two network namespaces cannot be made here: {error}", file=sys.stderr)
            return 2
        try:
            print(f"engine    case      seconds  status  what was printed (timeout={arguments.timeout})")
            for engine in engines:
                for case in cases:
                    own = Path(folder) / f"{engine}_{case}"
                    own.mkdir()
                    if case == "finished":
                        said = finish(hosts, engine, own)
                        failed |= said != "equal bits"
                        print(f"{engine:8}  {case:8}                  {said}", flush=True)
                        continue
                    seconds, status, lines = lose(hosts, engine, case, arguments.timeout, own)
                    wanted, words = EXPECTED[case]
                    wrong = math.isnan(seconds) or status != wanted or words not in " ".join(lines)
                    failed |= wrong
                    print(f"{engine:8}  {case:8}  {seconds:7.1f}  {status:6}  {'WRONG' if wrong else ''}")
                    for line in lines:
                        print(f"          {line}", flush=True)
        finally:
            hosts.__exit__()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
