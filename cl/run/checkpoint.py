"""Checkpoints: the network after each task, and what it takes to go on from there.

    task_00.pt ...         weights and what they are, kept: merging and later analysis start from these
    resume.pt              the state of all parts (`cl.run.state`), only while the run is unfinished
    buffer_00_rank_0.pt    each rank's part of the replay memory that belongs to it, only while the run is unfinished

Every file is written whole or not at all, and resume.pt last: a run that is killed at any moment goes on after the last
task whose files are complete, with the same numbers as if it had not been killed.
"""

import re
import zipfile
from pathlib import Path

from torch import nn

from cl.atomic import save_tensors
from cl.distributed.comm import Comm
from cl.networks import weights
from cl.run.state import StateTree


def task_file(folder: Path, stage: int) -> Path:
    """Where the network after a stage lies."""
    return folder / f"task_{stage:02d}.pt"


def task_files(folder: Path) -> dict[int, Path]:
    """The files of the networks in a folder by their stage, in its order, with any number of digits."""
    numbers = {path: re.fullmatch(r"task_(\d+)", path.stem) for path in folder.glob("task_*.pt")}
    return dict(sorted((int(match.group(1)), path) for path, match in numbers.items() if match is not None))


def save_task(folder: Path, stage: int, model: nn.Module, about: dict) -> None:
    """The network after a stage of training, on the CPU, with readable metadata."""
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    save_tensors(task_file(folder, stage), {"model": state, "stage": stage, **about})


def save_resume(folder: Path, stage: int, tree: StateTree, comm: Comm) -> None:
    """What a run needs to go on after `stage`; every rank calls this."""
    for name, part in tree.stored.items():
        part.save(_stored_file(folder, name, stage, comm.rank))
    own = comm.gather(tree.own_state())  # resume.pt says that the files of all ranks are there
    if comm.is_main:
        save_tensors(folder / "resume.pt", {"stage": stage, "shared": tree.shared_state(), "own": own})
    if tree.stored and stage:
        comm.gather(None)  # the files of the stage before are needed until resume.pt names this one
        for name in tree.stored:
            _stored_file(folder, name, stage - 1, comm.rank).unlink(missing_ok=True)


def load_resume(folder: Path, tree: StateTree, comm: Comm) -> int | None:
    """Set all parts to where an unfinished run stands; the stage that was finished last, or None if there is no run.

    Rank 0 reads and tells the others, whose disks need not hold the file. Raises ValueError for a file that is damaged
    or of another version.
    """
    found, file = None, folder / "resume.pt"
    if comm.is_main and file.is_file():
        found = weights.load(file)
    found = comm.broadcast(found)
    if found is None:
        return None
    if not {"stage", "shared", "own"} <= found.keys():
        raise ValueError(f"{file} was written by another version of remerge: overwrite=true trains the run again")
    if comm.is_main:
        _check_task_files(folder, found["stage"])
    ranks = len(found["own"])
    tree.load(found["shared"], found["own"][comm.rank] if ranks == comm.size else None)
    for name, part in tree.stored.items():
        part.load(*(_stored_file(folder, name, found["stage"], rank) for rank in range(ranks)))
    return found["stage"]


def _check_task_files(folder: Path, stage: int) -> None:
    """Raise ValueError unless the networks of all stages so far are there and whole, as far as their ends tell."""
    for number in range(stage + 1):
        file = task_file(folder, number)
        if not zipfile.is_zipfile(file):
            what = "is damaged" if file.is_file() else "is missing"
            raise ValueError(f"{file} {what}, and the run cannot go on without it: overwrite=true trains it again")


def clear(folder: Path, everything: bool) -> None:
    """Remove what only an unfinished run needs, or with `everything` also the results of a finished one."""
    patterns = ["resume.pt", "buffer_*.pt"]
    if everything:
        # results.json first: without it the run counts as unfinished, whatever happens next
        tables = ["results.json", "metrics.csv", "strategy_metrics.csv", "config.yaml"]
        patterns = [*tables, "*.png", "*.pdf", "*.svg", "task_*.pt", *patterns]
    for pattern in patterns:
        for file in folder.glob(pattern):
            file.unlink()


def _stored_file(folder: Path, name: str, stage: int, rank: int) -> Path:
    return folder / f"{name}_{stage:02d}_rank_{rank}.pt"
