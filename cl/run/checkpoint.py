"""Checkpoints: the network after each task, and what it takes to go on from there.

    task_00.pt ...         weights and what they are, kept: merging and later analysis start from these
    resume.pt              everything else of the newest task, only while the run is unfinished
    buffer_00_rank_0.pt    each rank's part of the replay memory that belongs to it, likewise

Every file is written whole or not at all, and resume.pt last: a run that is killed at any moment goes on after the last
task whose files are complete, with the same numbers as if it had not been killed.
"""

import re
from pathlib import Path

from torch import nn

from cl.atomic import save_tensors
from cl.buffers.base import ReplayBuffer
from cl.distributed.comm import Comm
from cl.networks import weights
from cl.reporting.history import History
from cl.step.updater import Updater
from cl.strategies.base import Strategy


def task_file(folder: Path, stage: int) -> Path:
    """Where the network after a stage lies."""
    return folder / f"task_{stage:02d}.pt"


def task_files(folder: Path) -> dict[int, Path]:
    """The files of the networks in a folder by their stage, in its order, whatever its number of digits."""
    numbers = {path: re.fullmatch(r"task_(\d+)", path.stem) for path in folder.glob("task_*.pt")}
    return dict(sorted((int(match.group(1)), path) for path, match in numbers.items() if match is not None))


def save_task(folder: Path, stage: int, model: nn.Module, about: dict) -> None:
    """The network after a stage of training, on the CPU, with readable metadata."""
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    save_tensors(task_file(folder, stage), {"model": state, "stage": stage, **about})


def save_resume(
    folder: Path,
    stage: int,
    updater: Updater,
    strategy: Strategy,
    buffer: ReplayBuffer | None,
    history: History,
    comm: Comm,
) -> None:
    """What a run needs, beside the network, to go on after `stage`; every rank calls this."""
    if buffer is not None:
        buffer.save(_buffer_file(folder, stage, comm.rank))
        comm.gather(None)  # resume.pt says that all parts are there
    if comm.is_main:
        states = {"updater": updater.state_dict(), "strategy": strategy.state_dict(), "history": history.state()}
        save_tensors(folder / "resume.pt", {"stage": stage, **states})
    if buffer is not None and stage:
        comm.gather(None)  # the parts of the stage before are needed until resume.pt names this one
        _buffer_file(folder, stage - 1, comm.rank).unlink(missing_ok=True)


def load_resume(
    folder: Path, model: nn.Module, updater: Updater, strategy: Strategy, buffer: ReplayBuffer | None, comm: Comm
) -> tuple[int, History] | None:
    """Set everything to where an unfinished run stands; the next stage and the history, or None if there is no run.

    Rank 0 reads, the others are told: its disk need not be theirs, and all end with the same bits, also at the start.
    """
    found = None
    if comm.is_main and (folder / "resume.pt").is_file():
        state = weights.load(folder / "resume.pt")
        task = weights.load(task_file(folder, state["stage"]))
        found = state | {"model": task["model"]}
    found = comm.broadcast(found)
    if found is None:
        if comm.size > 1:
            model.load_state_dict(comm.broadcast({name: value.cpu() for name, value in model.state_dict().items()}))
        return None
    model.load_state_dict(found["model"])
    updater.load_state_dict(found["updater"])
    strategy.load_state_dict(found["strategy"])
    if buffer is not None:
        buffer.load(*(_buffer_file(folder, found["stage"], rank) for rank in range(comm.size)))
    return found["stage"] + 1, History(**found["history"])


def clear(folder: Path, everything: bool) -> None:
    """Remove what only an unfinished run needs, or with `everything` also the results of a finished one."""
    patterns = ["resume.pt", "buffer_*.pt"]
    if everything:
        # results.json first: without it the run counts as unfinished, whatever happens next
        patterns = ["results.json", "metrics.csv", "config.yaml", "*.png", "*.pdf", "*.svg", "task_*.pt", *patterns]
    for pattern in patterns:
        for file in folder.glob(pattern):
            file.unlink()


def _buffer_file(folder: Path, stage: int, rank: int) -> Path:
    return folder / f"buffer_{stage:02d}_rank_{rank}.pt"
