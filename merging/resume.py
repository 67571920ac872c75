"""What a merge has trained so far, in its folder: an interrupted merge goes on after the last of it.

    trained_02_00.pt    the first curve or network that was trained in merging two networks, only while unfinished
    .training_02_01/    checkpoints within the training of the second one

A file is written whole or not at all, as soon as the training is over: before anything is measured.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import torch

from cl.atomic import save_tensors
from cl.networks import weights
from cl.reporting import screen
from cl.run.checkpoint import Checkpoints, Position
from cl.run.remains import OF_MERGE, TRAINING
from cl.run.saving import Saver
from cl.run.session import Session
from cl.run.state import StateTree
from cl.run.trainer import Trainer
from merging.fusion import State


class Trained:
    """The files of one merge of `networks`; they are of use for these alone."""

    def __init__(self, folder: Path, networks: Sequence[State]):
        self.folder, self.networks = folder, networks
        self._digest: str | None = None

    def load(self, number: int, tree: StateTree) -> bool:
        """Set all parts to where they were after a training; False if it was not finished.

        Raises ValueError for a file that is damaged, of other networks or of another version.
        """
        file = self._file(number)
        if not file.exists():
            return False
        found = weights.load(file, remedy="remove it, and the same command trains it again")
        if not isinstance(found, dict) or found.keys() != {"networks", "state"}:
            raise ValueError(f"{file} was written by another version of remerge: remove it to train it again")
        if found["networks"] != self._name():
            raise ValueError(f"{file} is of other networks than those that are merged now: remove it to train it again")
        tree.load(found["state"], [{}])
        return True

    def save(self, number: int, tree: StateTree) -> None:
        """The state of all parts after a training."""
        save_tensors(self._file(number), {"networks": self._name(), "state": tree.shared_state()})
        _remove(self._place(number))

    @contextmanager
    def within(
        self, number: int, trainer: Trainer, tree: StateTree, session: Session, steps: int
    ) -> Iterator[Position | None]:
        """Inside this block a training goes on from its newest checkpoint, if there is one, and is saved on its way.

        `tree`: all that it changes.
        """
        tree.register("networks", self)
        checkpoints = Checkpoints(self._place(number), tree, session.comm, session.device)
        with closing(checkpoints):
            position = checkpoints.load()
            if position is not None:
                screen.say(f"resumed in training {number + 1} of the merge, step {position.step} of {steps}")
            saver = Saver(checkpoints, session.comm, session.config["checkpoint"]["every"], self.folder)
            trainer.after_step = saver.within(0, steps, f"training {number + 1} of the merge")
            yield position

    def state_dict(self) -> dict:
        """Of which networks a checkpoint is."""
        return {"networks": self._name()}

    def load_state_dict(self, state: dict) -> None:
        """Raises ValueError for a checkpoint of other networks."""
        if state != self.state_dict():
            raise ValueError(
                f"a training in {self.folder} is of other networks than those that are merged now: overwrite=true "
                "merges again"
            )

    def _place(self, number: int) -> Path:
        return self.folder / f".training_{len(self.networks):02d}_{number:02d}"

    def _file(self, number: int) -> Path:
        return self.folder / f"trained_{len(self.networks):02d}_{number:02d}.pt"

    def _name(self) -> str:
        """Of the networks, from their weights."""
        if self._digest is None:
            digest = hashlib.sha256()
            for state in self.networks:
                for name, value in state.items():
                    digest.update(name.encode())
                    digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
            self._digest = digest.hexdigest()
        return self._digest


def clear(folder: Path) -> None:
    """Remove the files of a merge that is finished, or begins again."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if OF_MERGE.fullmatch(path.name):
            path.unlink()
        elif TRAINING.fullmatch(path.name):
            _remove(path)


def _remove(place: Path) -> None:
    if place.is_dir():
        for file in place.iterdir():
            file.unlink()
        place.rmdir()
