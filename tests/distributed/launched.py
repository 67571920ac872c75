"""A command for the tests of launchers, whose ranks do as they are told: python launched.py 0=work 1=fail:no data

Needs no torch, so it starts quickly. Each rank notes its process and its environment in the folder LAUNCHED_FOLDER.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from cl.distributed import ranks, reports

folder = Path(os.environ["LAUNCHED_FOLDER"])
engine, rank, size = ranks.started()
attempt = len(list(folder.glob(f"{rank}_*.json")))
plan = dict(word.split("=", 1) for word in sys.argv[1:] if word[0].isdigit())
words = plan.get(f"{rank}.{attempt}", plan.get(str(rank), "ok")).split(":")
received = []


def note(**more) -> None:
    """Write what this rank knows; whole or not at all, because the tests look while it runs."""
    content = {"pid": os.getpid(), "environment": dict(os.environ), "received": received, "folder": os.getcwd()}
    part = folder / f".{rank}_{attempt}"
    part.write_text(json.dumps(content | more))
    part.replace(folder / f"{rank}_{attempt}.json")


def take(number: int, frame) -> None:
    received.append(number)
    note()
    if "stubborn" not in words:
        time.sleep(0.2)  # as if it saved something
        os._exit(128 + number)


for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
    signal.signal(number, take)
child = subprocess.Popen(["sleep", "60"]).pid if "child" in words else None
if "late" not in words:
    reports.tell("arrived")
    reports.tell("connected")
note(child=child)
if words[0] == "fail":
    reports.tell("error", line=words[1], lost="lost" in words)
    sys.exit(reports.LOST if "lost" in words else 1)
elif words[0] == "status":
    sys.exit(int(words[1]))
elif words[0] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
elif words[0] == "stop":
    os.kill(os.getpid(), signal.SIGSTOP)
elif words[0] == "work":
    time.sleep(60)
elif words[0] == "print":
    print(words[1], flush=True)
