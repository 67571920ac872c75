"""The files of a run that is under way, apart from its results.

    task_00.pt ...                 weights and what they are, kept: merging and later analysis start from these
    resume_02_000015.pt            the 15th save, the state of all parts (`cl.run.state`) after two stages or later
    buffer_02_000015_rank_0.pt     each rank's part of the replay memory that belongs to it

The last two are there only while the run is unfinished. Every file is written whole or not at all: a run that is killed
at any moment goes on from the newest checkpoint whose files are complete, with the same numbers as if it had not been
killed.
"""

import re
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cl.atomic import save_tensors
from cl.distributed.comm import Comm
from cl.networks import weights
from cl.networks.lora import trained_state
from cl.reporting import screen
from cl.reporting.loggers.files import forget
from cl.run.state import Copied, StateTree, copied

CONTENT = {"overwrite", "device", "stage", "step", "steps", "shared", "own"}
_OTHER_VERSION = "{} was written by another version of remerge"


def task_file(folder: Path, stage: int) -> Path:
    """Where the network after a stage lies."""
    return folder / f"task_{stage:02d}.pt"


def task_files(folder: Path) -> dict[int, Path]:
    """The files of the networks in a folder by their stage, in its order, with any number of digits."""
    numbers = {path: re.fullmatch(r"task_(\d+)", path.stem) for path in folder.glob("task_*.pt")}
    return dict(sorted((int(match.group(1)), path) for path, match in numbers.items() if match is not None))


def save_task(folder: Path, stage: int, model: nn.Module, about: dict) -> None:
    """The network after a stage of training, on the CPU, with readable metadata; of one with adapters these alone."""
    state = {name: value.detach().cpu() for name, value in trained_state(model).items()}
    save_tensors(task_file(folder, stage), {"model": state, "stage": stage, **about})


def clear(folder: Path, everything: bool) -> None:
    """Remove what only an unfinished run needs, or with `everything` also the results of a finished one."""
    patterns = ["resume.pt", "resume_[0-9]*.pt", "buffer_[0-9]*_rank_[0-9]*.pt"]
    if everything:
        # results.json first: without it the run counts as unfinished, whatever happens next
        tables = ["results.json", "metrics.csv", "strategy_metrics.csv", "anytime.csv", "config.yaml"]
        patterns = [*tables, "*.png", "*.pdf", "*.svg", "task_*.pt", *patterns]
    for pattern in patterns:
        for file in folder.glob(pattern):
            file.unlink()
    if everything:
        forget(folder)


@dataclass(frozen=True)
class Position:
    """Where a run stands: `stage` stages are finished, and `step` of the `steps` optimizer steps of the next.

    `ranks`: with how many it came there.
    """

    stage: int
    step: int = 0
    steps: int = 0
    ranks: int = 1


class Checkpoints:
    """The checkpoints of one run in its folder; every rank has one, and calls its methods in the same order.

    A checkpoint is complete when the files of all ranks are there. The newest complete one stays until the next but one
    is written, in case that one is damaged later. Its name has the number of the save, which only grows: with other
    ranks a stage has fewer steps. `overwrite`: begin again, but go on with what was itself begun so.
    """

    def __init__(self, folder: Path, tree: StateTree, comm: Comm, device: torch.device, overwrite: bool = False):
        self.folder, self.tree, self.comm = folder, tree, comm
        self.device, self.overwrite = device, overwrite
        self._writer: ThreadPoolExecutor | None = None
        self._writing: Future | None = None
        self._newest: str | None = None  # the name of what this rank has written, or begun to write
        self._number = 0  # of saves

    @property
    def busy(self) -> bool:
        """Whether this rank is still writing; raises OSError where it could not."""
        if self._writing is not None and self._writing.done():
            self.wait()
        return self._writing is not None

    def save(self, position: Position) -> None:
        """Copy the state of all parts, and write it in the background once the one before is written.

        Raises OSError where the one before could not be written.
        """
        self.wait()
        # This also tells that the checkpoint before is complete on all ranks, so older ones are not needed.
        own = self.comm.gather(copied(self.tree.own_state()))
        self._remove_all_but(self._newest)
        content = None
        if self.comm.is_main:
            about = {"overwrite": self.overwrite, "device": self.device.type}
            where = {"stage": position.stage, "step": position.step, "steps": position.steps}
            content = about | where | {"own": own, "shared": copied(self.tree.shared_state())}
        copies = {name: part.copy() for name, part in self.tree.stored.items()}
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._number += 1
        self._newest = f"{position.stage:02d}_{self._number:06d}"
        self._writing = self._writer.submit(self._write, self._newest, content, copies)

    def wait(self) -> None:
        """Until this rank has written what it was given; raises OSError where it could not."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def close(self) -> None:
        """End the thread, after what it has begun."""
        if self._writer is not None:
            self._writer.shutdown()

    def load(self) -> Position | None:
        """Set all parts to where an unfinished run stands; None if there is none, or it is to begin again.

        Rank 0 reads and tells the others, whose disks need not hold its file. A damaged checkpoint is named, and the
        one before it is taken. Raises ValueError where none can be read, for files of another version, and for a run
        that was begun on another kind of device.
        """
        old = self.folder / "resume.pt"
        names, of_old = self.comm.broadcast((self._found(), old.is_file()) if self.comm.is_main else None)
        damage: list[str] = [_OTHER_VERSION.format(old)] if of_old else []
        for name in names:
            content, what = self._read(name)
            damage += what
            if content is not None and self.overwrite and self._begun_otherwise(content):
                break
            if content is not None:
                if damage and self.comm.is_main:
                    screen.say(f"{damage[0]}: the run goes on from the checkpoint before it, {self._file(name).name}")
                return self._take(name, content)
        if self.overwrite:
            self.clear(everything=True)
        elif damage:
            raise ValueError(f"{damage[0]}, and there is no other checkpoint: overwrite=true trains the run again")
        return None

    def clear(self, everything: bool = False) -> None:
        """Remove this rank's files, of which others need not see the disk; `everything`: also results."""
        self._remove_all_but(None)
        if self.comm.is_main:
            clear(self.folder, everything)

    def _found(self) -> list[str]:
        """The names of the checkpoints in the folder, the newest first."""
        names = (re.fullmatch(r"resume_(\d+_(\d+))", path.stem) for path in self.folder.glob("resume_*.pt"))
        return [name[1] for name in sorted(filter(None, names), key=lambda name: int(name[2]), reverse=True)]

    def _read(self, name: str) -> tuple[dict | None, list[str]]:
        """The content of resume_*.pt if the files of all ranks are there and whole; and what is damaged, if any is."""
        content, damaged, there = None, None, True
        if self.comm.is_main:
            try:
                content = weights.load(self._file(name))
                if not isinstance(content, dict) or not CONTENT <= content.keys():
                    raise ValueError(_OTHER_VERSION.format(self._file(name)))
                self._check_tasks(content["stage"])
            except ValueError as error:
                content, damaged = None, str(error)
        content = self.comm.broadcast(content)
        if content is not None:
            self._check_device(name, content["device"])
            try:
                there = all([self._check_stored(part, name, len(content["own"])) for part in self.tree.stored])
            except ValueError as error:
                damaged = str(error)
        told = self.comm.gather({"damaged": damaged, "there": there})
        damage = [each["damaged"] for each in told if each["damaged"]]
        usable = not damage and all(each["there"] for each in told)
        return content if usable else None, damage

    def _begun_otherwise(self, content: dict) -> bool:
        return not content["overwrite"] or content["device"] != self.device.type

    def _check_device(self, name: str, device: str) -> None:
        if device != self.device.type and not self.overwrite:
            raise ValueError(
                f"{self._file(name)} was saved on {device}, and this is {self.device.type}, whose random numbers are "
                f"others: device={device} goes on, overwrite=true trains the run again"
            )

    def _check_tasks(self, stages: int) -> None:
        """Raise ValueError unless the networks of all stages so far are there and whole."""
        for number in range(stages):
            file = task_file(self.folder, number)
            if not file.is_file():
                raise ValueError(f"{file} is missing, which belongs to the run: put it back")
            weights.load(file)

    def _check_stored(self, part: str, name: str, ranks: int) -> bool:
        """Whether the files of a part are there, of this rank or, from other ranks, of all; raises ValueError."""
        files = self._stored_files(part, name, ranks)
        if not all(file.is_file() for file in (files if ranks != self.comm.size else [files[self.comm.rank]])):
            return False
        self.tree.stored[part].check(*files)
        return True

    def _take(self, name: str, content: dict) -> Position:
        ranks = len(content["own"])
        self.tree.load(content["shared"], content["own"], self.comm.rank, self.comm.size)
        for part, stored in self.tree.stored.items():
            stored.load(*self._stored_files(part, name, ranks))
        self._newest, self._number = name, int(name.rpartition("_")[2])
        self._remove_all_but(name)
        return Position(content["stage"], content["step"], content["steps"], ranks)

    def _write(self, name: str, content: dict | None, copies: dict[str, Copied]) -> None:
        for part, copy in copies.items():
            copy.write(self._stored_file(part, name, self.comm.rank))
        if content is not None:
            save_tensors(self._file(name), content)

    def _remove_all_but(self, kept: str | None) -> None:
        """Remove the files of other checkpoints: each rank its own, rank 0 also those of ranks that are no more."""
        for part in self.tree.stored:
            for file in self.folder.glob(f"{part}_*_rank_*.pt"):
                match = re.fullmatch(part + r"_(\d+_\d+)_rank_(\d+)", file.stem)
                if match is None or match[1] == kept:
                    continue
                rank = int(match[2])
                if rank == self.comm.rank or self.comm.is_main and rank >= self.comm.size:
                    file.unlink(missing_ok=True)
        if self.comm.is_main:
            for name in self._found():
                if name != kept:
                    self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self.folder / f"resume_{name}.pt"

    def _stored_file(self, part: str, name: str, rank: int) -> Path:
        return self.folder / f"{part}_{name}_rank_{rank}.pt"

    def _stored_files(self, part: str, name: str, ranks: int) -> list[Path]:
        return [self._stored_file(part, name, rank) for rank in range(ranks)]
