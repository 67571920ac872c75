"""The contract of a replay buffer, and how its capacity is written down.

A record is a row of named fields. Per training step a strategy calls, in this order: `receive` once for each draw
requested at the end of the step before, `add` for the new samples, `request` for each draw of the next step. So a draw
always sees the memory as it was after the `add` before it, whether it is fetched in the background or at once.
"""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch

ADMISSIONS = ("reservoir", "class_balanced", "candidates")
DRAWS = ("uniform", "class_balanced")


@dataclass(frozen=True)
class Field:
    """A column of the memory: every record has a value of this shape and dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(slots=True)
class Records:
    """The result of a draw of n: `columns[name]` [n, *shape], `weight` [n] float32, and `ids` [n] int64 on the CPU.

    The ids name the records for `ReplayBuffer.update`. The weight is the probability of a record under a uniform draw
    over that under the draw law (1 where that is so).
    """

    columns: dict[str, torch.Tensor]
    weight: torch.Tensor
    ids: torch.Tensor
    share: float = 1.0  # of the mean over the whole draw, where it is cut into several backward passes

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.weight)


class ReplayBuffer(ABC):
    """A memory of past samples."""

    serves_ranks = False  # whether it is one memory over several ranks
    wait_seconds = 0.0  # how long the caller has waited for draws

    @abstractmethod
    def add(self, records: dict[str, torch.Tensor]) -> None:
        """Offer a batch, one tensor [B, *shape] per field; the admission law decides what stays.

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
    def save(self, path: Path) -> None:
        """Write everything of this rank: records, admission state, generators and pending draws."""

    @abstractmethod
    def load(self, *paths: Path) -> None:
        """Go on as if nothing had happened since `save`, from the files of all ranks that saved, in order of rank.

        With another number of ranks the records are dealt out anew, each to one rank, and the pending draws are drawn
        anew. Raises ValueError for files of another buffer.
        """

    @abstractmethod
    def close(self) -> None:
        """Free the memory, on all ranks together; a second call does nothing."""


def parse_capacity(capacity: int | str) -> tuple[float, str]:
    """Number and unit ("records", "%" or "/class") of a capacity: 200, "10%" or "20/class"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%|/class)?", str(capacity).replace(" ", ""))
    if match:
        number, unit = float(match.group(1)), match.group(2) or "records"
        if number > 0 and (unit == "%" and number <= 100 or unit != "%" and number.is_integer()):
            return number, unit
    raise ValueError(
        f"buffer.capacity must be a positive number of records, a share of the training samples such as 10%, "
        f"or a number per class such as 20/class; got {capacity!r}"
    )


def total_capacity(capacity: int | str, num_training: int, num_classes: int) -> int:
    """The capacity in records over all ranks."""
    number, unit = parse_capacity(capacity)
    if unit == "%":
        return max(1, round(number / 100 * num_training))
    return int(number * num_classes) if unit == "/class" else int(number)


def check_laws(admission: str, draw: str, candidates: int | None) -> None:
    """Raise ValueError for a law that does not exist or lacks its number."""
    if admission not in ADMISSIONS:
        raise ValueError(f"buffer.admission={admission} does not exist; valid: {', '.join(ADMISSIONS)}")
    if draw not in DRAWS:
        raise ValueError(f"buffer.draw={draw} does not exist; valid: {', '.join(DRAWS)}")
    if (admission == "candidates") != (candidates is not None):
        raise ValueError(
            "buffer.candidates, the number of samples of each batch that replace a stored one, belongs to "
            f"buffer.admission=candidates: got admission={admission}, candidates={candidates}"
        )
    if candidates is not None and candidates < 1:
        raise ValueError(f"buffer.candidates must be at least 1, got {candidates}")
