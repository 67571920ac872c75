"""How the ranks of a launcher ended: the cause in words, and each error once with the ranks that had it."""

import signal
from dataclasses import dataclass, field

from cl.distributed.reports import LOST
from cl.signals import SIGNALS


class RanksFailed(ChildProcessError):
    """Ranks have failed; `errors`: what they reported, as (who, line, traceback). The message may be empty.

    `is_loss`: whether ranks were lost, so that the same command may go on from the last checkpoint.
    """

    def __init__(self, message: str, errors: list[tuple[str, str, str]], is_loss: bool):
        super().__init__(message)
        self.errors, self.is_loss = errors, is_loss


@dataclass
class Ending:
    """How `total` ranks have ended.

    `ended`: statuses as in `subprocess` of those that ended by themselves, in that order. `killed`: ranks that the
    launcher has killed. `errors`: the first error that each rank reported. `lost_hosts`: names and reasons. `unable`:
    those of hosts whose agents could not start a rank. `late`: what is said of ranks that have not come in time.
    """

    total: int
    ended: dict[int, int] = field(default_factory=dict)
    killed: list[int] = field(default_factory=list)
    errors: dict[int, dict] = field(default_factory=dict)
    lost_hosts: dict[str, str] = field(default_factory=dict)
    unable: dict[str, str] = field(default_factory=dict)
    late: str = ""

    @property
    def failed(self) -> bool:
        return any(self.ended.values()) or bool(self.killed or self.lost_hosts or self.unable or self.late)

    @property
    def signal(self) -> int | None:
        """The signal after which all ranks that failed have ended as they are asked to: with 128 + its number."""
        numbers = {status - 128 for status in self.ended.values() if status}
        others = self.killed or self.lost_hosts or self.unable or self.late
        return numbers.pop() if not others and len(numbers) == 1 and numbers <= set(SIGNALS) else None

    @property
    def is_loss(self) -> bool:
        """Whether ranks were lost, rather than told of a mistake: starting them again may help."""
        statuses = [status for status in self.ended.values() if status]
        if self.unable:
            return False
        if self.lost_hosts or self.late or not statuses:
            return self.failed
        return statuses[0] < 0 or all(status == LOST or status < 0 for status in statuses)

    def cause(self) -> str:
        """What came first, in words."""
        if self.unable:
            return "; ".join(f"host {name} could not start its ranks ({why})" for name, why in self.unable.items())
        if self.lost_hosts:
            return "; ".join(f"host {name} was lost ({reason})" for name, reason in self.lost_hosts.items())
        if self.late:
            return self.late
        failures = {rank: status for rank, status in self.ended.items() if status}
        told = {rank: status for rank, status in failures.items() if status != LOST}
        if told:
            rank, status = next(iter(told.items()))
            return f"rank {rank} of {self.total} {_how(status)}"
        if self.killed:
            return f"{numbers(self.killed)} of {self.total} did not answer and had to be killed"
        return f"{numbers(list(failures))} of {self.total} lost another rank"

    def error(self) -> RanksFailed:
        """The exception that says all of it."""
        errors = merged(self.errors, self.total)
        mistake = len(errors) == 1 and errors[0][0] == "" and not self.is_loss
        return RanksFailed("" if mistake else f"{self.cause()}, so all ranks were ended", errors, self.is_loss)


def merged(errors: dict[int, dict], total: int) -> list[tuple[str, str, str]]:
    """Each line once, with the ranks that had it unless these are all; (who, line, traceback) in the order of ranks.

    Lines about a lost rank differ in what the engine of each saw, so the first stands for all of them.
    """
    ranks: dict[str, list[int]] = {}
    first: dict[str, dict] = {}
    for rank, error in sorted(errors.items()):
        key = "lost" if error.get("lost") else f"line {error['line']}"
        first.setdefault(key, error)
        ranks.setdefault(key, []).append(rank)
    found = []
    for key, error in first.items():
        who = "" if len(ranks[key]) == total else f"{numbers(ranks[key])}: "
        found.append((who, error["line"], error.get("trace", "")))
    return found


def numbers(ranks: list[int]) -> str:
    """`rank 1`, or `ranks 1, 3-5`."""
    parts: list[list[int]] = []
    for rank in sorted(ranks):
        if parts and rank == parts[-1][-1] + 1:
            parts[-1].append(rank)
        else:
            parts.append([rank])
    words = [", ".join(map(str, part)) if len(part) < 3 else f"{part[0]}-{part[-1]}" for part in parts]
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(words)}"


def _how(status: int) -> str:
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"
