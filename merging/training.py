"""The runs that merges train, which several commands may ask for at the same time: one trains, the others wait."""

from collections.abc import Callable, Sequence
from pathlib import Path

from omegaconf import OmegaConf

from cl.reporting import screen
from cl.run import checkpoint, experiment
from cl.run.folder import check_writable, finished_run, plain, run_folder
from cl.run.lock import locked


def train(base: dict, make_start: Callable | None = None) -> Path:
    """Train a run unless it is finished, or wait for the command that trains it; returns its folder.

    With overwrite=true a run that another command has trained while this one waited is not trained once more: that
    command may be reading its networks.
    """
    config = OmegaConf.create(base)
    finished = finished_run(config)
    if finished is not None:
        return finished
    folder = run_folder(plain(config))
    check_writable(folder)
    before = _written(folder)
    with locked(folder, wait=True):
        if _written(folder) != before:
            finished = finished_run(OmegaConf.merge(config, {"overwrite": False}))
        return finished or experiment.run(config, make_start)


def train_all(bases: Sequence[dict]) -> list[Path]:
    """Train baselines, or find them; returns their folders. Of those that were finished one line tells."""
    found = [finished_run(OmegaConf.create(base), quiet=True) for base in bases]
    if any(found):
        names = ", ".join(base["strategy"]["name"] for base, folder in zip(bases, found) if folder is not None)
        screen.say(f"baselines that were finished before: {names}")
    return [folder or train(base) for base, folder in zip(bases, found)]


def _written(folder: Path) -> tuple:
    """What of a run is there, and since when; it is something else after the run was trained."""
    times = [file.stat().st_mtime_ns for file in checkpoint.task_files(folder).values()]
    return (folder / "results.json").is_file(), *times
