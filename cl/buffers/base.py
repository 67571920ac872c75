"""The contract of a replay buffer.

A record is a row of named fields. Per training step a strategy calls, in this order: `receive` once for each draw
requested at the end of the step before, `add` for the new samples, `request` for each draw of the next step. So a draw
always sees the memory as it was after the `add` before it, whether it is fetched in the background or at once.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from cl.buffers.settings import with_policy_options
from cl.data.rows import Rows, Selection


@dataclass(frozen=True)
class Field:
    """A column of the memory: every record has a value of this shape and dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


class Records(Rows):
    """The rows of a draw, with the columns of the fields, the importance `weight` [n] float32 and `ids` [n] int64.

    The ids, on the CPU, tell `ReplayBuffer.update` which records are meant. The weight is the probability of a record
    under a uniform draw over that under the sampling policy (1 where that is uniform). Both may be given as functions,
    which are called when they are asked for: few methods do.
    """

    __slots__ = ("_weight", "_ids")

    def __init__(
        self,
        columns: dict[str, torch.Tensor],
        weight: torch.Tensor | Callable[[], torch.Tensor],
        ids: torch.Tensor | Callable[[], torch.Tensor],
        loss_weight: float = 1.0,
    ):
        self.columns, self.loss_weight, self._weight, self._ids = columns, loss_weight, weight, ids

    @property
    def weight(self) -> torch.Tensor:
        if callable(self._weight):
            self._weight = self._weight()
        return self._weight

    @property
    def ids(self) -> torch.Tensor:
        if callable(self._ids):
            self._ids = self._ids()
        return self._ids

    def part(self, which: Selection, loss_weight: float = 1.0) -> "Records":
        columns = {name: column[which] for name, column in self.columns.items()}
        return Records(columns, lambda: self.weight[which], lambda: self.ids[which], loss_weight)


class Copy(Protocol):
    """The state of a buffer at the time of the copy, in memory of its own."""

    def write(self, path: Path) -> None:
        """Write it to a file for `ReplayBuffer.load`, whole or not at all, and free its memory: it is written once.

        May be called in any thread, also while the buffer is used or closed. Raises OSError.
        """


class ReplayBuffer(ABC):
    """A memory of past samples."""

    fields: Sequence[Field]  # the columns of a record
    serves_ranks = False  # whether it is one memory over several ranks
    wait_seconds = 0.0  # how long the caller has waited for draws

    @classmethod
    def parameters(cls) -> dict[str, inspect.Parameter]:
        """What its constructor takes, with the options of all policies by name."""
        return with_policy_options(inspect.signature(cls).parameters)

    def fetch(self, records: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The same columns for a later `add`; one that needs them in another memory begins to copy them here."""
        return records

    @abstractmethod
    def add(self, records: dict[str, torch.Tensor]) -> None:
        """Offer a batch, one tensor [B, *shape] per field; the insertion policy decides what stays.

        Raises ValueError, with the memory unchanged, for a missing or unknown field, a wrong shape or dtype, unequal
        lengths, and a label out of range.
        """

    @abstractmethod
    def update(self, name: str, ids: torch.Tensor, values: torch.Tensor) -> None:
        """Replace a field (not `y`) of stored records, by the ids [n] that a draw gave; values [n, *shape].

        Draws requested afterwards see it; records that are no longer stored are passed over.
        """

    @abstractmethod
    def request(self, n: int) -> None:
        """Ask for a draw of min(n, stored) different records from the memory as it is now."""

    @abstractmethod
    def receive(self) -> Records:
        """The oldest draw not received yet; raises ValueError if none was requested."""

    @property
    @abstractmethod
    def pending(self) -> int:
        """Number of draws requested and not received."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of records stored by this rank."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of this rank's records at full capacity."""

    @abstractmethod
    def copy(self) -> Copy:
        """Everything of this rank as it is now: records, insertion state, generators and pending draws.

        Waits for draws that are on their way, so all ranks have to come here after the same requests.
        """

    def save(self, path: Path) -> None:
        """Write everything of this rank as it is now."""
        self.copy().write(path)

    @abstractmethod
    def check(self, *paths: Path) -> None:
        """Raise ValueError for files that `load` could not take; changes nothing."""

    @abstractmethod
    def load(self, *paths: Path) -> None:
        """Go on as if nothing had happened since `save`, from the files of all ranks that saved, in order of rank.

        With another number of ranks the records are distributed again, one rank each, and pending draws are repeated.
        Raises ValueError for files of another buffer.
        """

    @abstractmethod
    def close(self) -> None:
        """Free the memory, on all ranks together; a second call does nothing."""

    @abstractmethod
    def abandon(self) -> None:
        """Free this rank's memory alone: after an error, when the others may never close theirs and lose this one."""

    def exit(self, error_type: type | None, *_) -> None:
        """End it as a context manager does: with the other ranks, or after an error without them."""
        self.close() if error_type is None else self.abandon()


def check_columns(fields: Sequence[Field], records: dict[str, torch.Tensor]) -> int:
    """The number of records in a batch; raises ValueError unless it has exactly the declared fields."""
    labels = records.get("y")
    length = labels.shape[0] if labels is not None and labels.ndim else 0
    for field in fields:
        value = records.get(field.name)
        if value is None or len(records) != len(fields):
            raise ValueError(f"a record has the fields {sorted(field.name for field in fields)}, got {sorted(records)}")
        if value.dtype is not field.dtype or value.shape != (length, *field.shape):
            raise ValueError(
                f"field {field.name}: expected {(length, *field.shape)} {field.dtype}, "
                f"got {tuple(value.shape)} {value.dtype}"
            )
    return length


def check_update(fields: Sequence[Field], name: str, ids: torch.Tensor, values: torch.Tensor) -> int:
    """The place of a field among `fields`; raises ValueError unless `values` can replace it in the records `ids`."""
    names = [field.name for field in fields]
    if name not in names or name == "y":
        valid = ", ".join(other for other in names if other != "y")
        raise ValueError(f"there is no field {name} to update; valid: {valid}")
    place = names.index(name)
    expected = (len(ids), *fields[place].shape)
    if values.dtype is not fields[place].dtype or values.shape != expected or ids.dtype is not torch.int64:
        raise ValueError(
            f"field {name}: expected int64 ids and {expected} {fields[place].dtype}, "
            f"got {ids.dtype} and {tuple(values.shape)} {values.dtype}"
        )
    return place


def check_draw_size(n: int) -> None:
    """Raise ValueError for a draw of fewer than 0."""
    if n < 0:
        raise ValueError(f"a draw needs a number of 0 or more, got {n}")
