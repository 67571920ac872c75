"""One job of a command or of a notebook: checks it, finds it finished or trains it, here or on ranks of its own."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cl.configuration.place import program as program_of
from cl.distributed import ranks
from cl.reporting import opening, screen
from cl.reporting.backfill import tell_agent
from cl.run.checks import check
from cl.run.folder import begun_elsewhere, finished_run, plain, run_folder

SENDABLE = ("wandb", "tensorboard")  # the loggers that `cl.report` sends finished runs to


def run_or_find(config, words: Sequence[str], program: Sequence[str] | None = None) -> Path:
    """The folder of a run, which is trained if it was not finished before.

    `config`: OmegaConf. `words`: the overrides from which ranks compose the same configuration, also those on other
    hosts. `program`: what Python is given to start a rank, before these words; None: the script of this process.
    """
    launcher = config.launcher.name
    if ranks.started():
        if launcher != "none":
            raise ValueError(f"launcher={launcher} starts ranks itself; within ranks that are started leave it out")
        if ranks.rank() == 0 and ranks.LAUNCHED not in os.environ:  # else the launcher has said it
            opening.run(plain(config), run_folder(plain(config)))
    else:
        folder = finished_run(config)
        if folder is not None:
            loggers = plain(config)["logger"]
            tell_agent(folder, loggers)
            _say_unsent(folder, loggers)
            return folder
        check(plain(config))
        if hint := begun_elsewhere(plain(config)):
            screen.say(hint)
        opening.run(plain(config), run_folder(plain(config)))
        if launcher != "none":
            from cl.distributed.launch import start_ranks

            config = plain(config)
            words = [word for word in words if not word.startswith("launcher")]
            start_ranks(config["launcher"], words, config["timeout"], program or [sys.argv[0]])
            return run_folder(config)
    from cl.run.experiment import run  # imports torch

    return run(config)


def _say_unsent(folder: Path, loggers: dict[str, dict]) -> None:
    """Loggers hear of a run while it is trained; of one that is found they can be told by a command."""
    unsent = [name for name in SENDABLE if name in loggers and not (folder / name).exists()]
    if unsent:
        flags = " ".join(f"--{name}" for name in unsent)
        command = f"{program_of('report')} {screen.place(folder)} {flags}"
        screen.say(f"not in {' and '.join(unsent)}: {command} sends it there")
