"""What several tests share: constants, and the commands."""

import subprocess
from pathlib import Path

import forkserver

ROOT = Path(__file__).resolve().parent.parent

# Overrides for a run that is small and quick, for what does not depend on the network.
QUICK = ("epochs=1", "backbone.hidden=[16]", "progress=false", "pictures=[]")


def command(*words, script: str = "run.py", **options) -> subprocess.CompletedProcess:
    """`python run.py WORDS` to its end, in a process of the fork server; `options`: those of `forkserver.run`."""
    return forkserver.run([ROOT / script, *words], **{"cwd": ROOT} | options)
