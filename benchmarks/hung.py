"""What happens when one rank of a run hangs or dies: who is named, and how soon all processes have ended.

    python benchmarks/hung.py [--ranks 3] [--timeout 10] [--engines horovod torchrun] [--strategies finetune er]

Trains with the command, strikes each rank in turn at a random moment of training (SIGSTOP, and SIGKILL), and prints a
table: seconds from the stroke until the other ranks had ended, and until the command and every rank had, the status
of the command, and what it printed. A rank that is stopped has to be killed by the launcher, which first waits for what
it has to say.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RANK_VARIABLES = ("HOROVOD_RANK", "RANK")


def rank_processes(parent: int) -> dict[int, int]:
    """The processes of the ranks that a command has started, by their rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) != parent:
                continue
            variables = dict(entry.partition("=")[::2] for entry in (folder / "environ").read_text().split("\0"))
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
        for name in RANK_VARIABLES:
            if name in variables:
                found[int(variables[name])] = int(folder.name)
    return found


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def strike(engine: str, strategy: str, ranks: int, timeout: float, struck: int, how: str, rng: random.Random) -> tuple:
    """Seconds until the other ranks and until everything had ended, the status of the command and what it printed."""
    with tempfile.TemporaryDirectory() as output:
        words = [
            f"strategy={strategy}", "scenario=class2", "epochs=2000", "progress=false", "pictures=[]",
            "log_interval=20", f"launcher={engine}", f"launcher.np={ranks}", f"timeout={timeout}", f"output={output}",
        ]  # fmt: skip
        command = subprocess.Popen(
            [sys.executable, ROOT / "run.py", *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        try:
            while not list(Path(output).rglob("metrics.csv")):  # written at the first interval
                if command.poll() is not None:
                    raise RuntimeError(command.stderr.read())
                time.sleep(0.05)
            time.sleep(rng.uniform(0.5, 2.0))
            processes = rank_processes(command.pid)
            assert sorted(processes) == list(range(ranks)), processes
            os.kill(processes[struck], getattr(signal, how))
            began = time.monotonic()
            others = [process for rank, process in processes.items() if rank != struck]
            while any(map(is_alive, others)):
                time.sleep(0.02)
            others_ended = time.monotonic() - began
            errors = command.communicate()[1]
            while any(map(is_alive, processes.values())):
                time.sleep(0.02)
            said = "\n".join(line for line in errors.splitlines() if "error:" in line)
            return others_ended, time.monotonic() - began, command.returncode, said
        finally:
            command.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ranks", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=10.0)
    parser.add_argument("--engines", nargs="+", default=["horovod", "torchrun"])
    parser.add_argument("--strategies", nargs="+", default=["finetune", "er"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    print("engine     strategy   rank  struck by   others ended   all ended   status   printed", flush=True)
    for engine in arguments.engines:
        for strategy in arguments.strategies:
            for how in ("SIGSTOP", "SIGKILL"):
                for struck in range(arguments.ranks):
                    others, everything, status, errors = strike(
                        engine, strategy, arguments.ranks, arguments.timeout, struck, how, rng
                    )
                    first, *rest = errors.splitlines() or [""]
                    print(
                        f"{engine:10} {strategy:10} {struck:4}  {how:9}   {others:10.1f} s {everything:9.1f} s "
                        f"{status:8}   {first}",
                        flush=True,
                    )
                    for line in rest:
                        print(" " * 67 + line, flush=True)


if __name__ == "__main__":
    main()
