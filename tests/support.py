"""What several tests share: constants, and the commands."""

import subprocess
from pathlib import Path

import forkserver
import pytest

ROOT = Path(__file__).resolve().parent.parent

# Overrides for a run that is small and quick, for what does not depend on the network.
QUICK = ("epochs=1", "backbone.hidden=[16]", "progress=false", "pictures=[]")


def command(*words, script: str = "run.py", **options) -> subprocess.CompletedProcess:
    """`python run.py WORDS` to its end, in a process of the fork server; `options`: those of `forkserver.run`."""
    return forkserver.run([ROOT / script, *words], **{"cwd": ROOT} | options)


def run_killed(config, stage: int) -> None:
    """Train a run that dies when a stage is trained and its network is not saved yet."""
    from cl.run import checkpoint, experiment  # the helpers above need no torch

    save = checkpoint.save_task

    def die(folder, number, *rest):
        if number == stage:
            raise KeyboardInterrupt
        save(folder, number, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save_task", die)
        with pytest.raises(KeyboardInterrupt):
            experiment.run(config)
