"""What a rank that waits says of the ranks for which it waits, from what each of them has last told."""

from dataclasses import dataclass

REPLAY = "replay buffer"  # the place of a wait that is no exchange
# After this long a rank is called silent: several heartbeats, and less than the whole wait.
SILENT_SECONDS = 10
# How long the engine may take to raise its own error when a rank is gone; some never do.
GRACE_SECONDS = 3
DEADLOCK_SECONDS = 30


@dataclass
class State:
    """A rank as another one, or it itself, knows it.

    `entered`: exchanges that it has entered. `place`: the name of the wait that its main thread is in, or None.
    `waited`: seconds in this wait. `silent`: seconds since its last heartbeat. `ended`: how it left, or empty.
    """

    rank: int
    host: str
    process: int
    entered: int = 0
    place: str | None = None
    waited: float = 0.0
    silent: float = 0.0
    ended: str = ""

    def __str__(self) -> str:
        return f"rank {self.rank} (host {self.host}, process {self.process})"

    def is_silent(self, timeout: float) -> bool:
        """Whether several heartbeats are missing."""
        return not self.ended and self.silent >= min(SILENT_SECONDS, timeout / 2)

    @property
    def where(self) -> str:
        """The wait in words."""
        return f"in the {REPLAY}" if self.place == REPLAY else f"in exchange {self.entered} ({self.place})"


def verdict(own: State, others: list[State], timeout: float) -> str | None:
    """The line with which all ranks end, or None while this rank does not wait, or has no reason to end.

    A wait over `timeout` seconds ends with the names of the ranks that are silent, or else of those that have not come
    to the exchange; a rank that is gone ends the wait at once. Where all are there and none is silent, the engine, or
    the buffer, has DEADLOCK_SECONDS more to say what is wrong.
    """
    if own.place is None:
        return None
    ended = [other for other in others if other.ended]
    if ended and own.waited >= min(GRACE_SECONDS, timeout):
        return f"{describe_ended(ended)}; {_who_waits(own, others, ended, timeout)}"
    if own.waited < timeout:
        return None
    silent = [other for other in others if other.is_silent(timeout)]
    if silent:
        return f"{describe_silent(silent)}; {_who_waits(own, others, silent, timeout)}"
    if own.place == REPLAY:
        return None
    behind = [other for other in others if not other.ended and other.entered < own.entered]
    late = [other for other in behind if other.place is None] or behind
    if not late:  # ranks that do not exchange the same, for which Horovod would wait for ever
        if own.waited < timeout + DEADLOCK_SECONDS:
            return None
        if all(other.place is not None and other.entered == own.entered for other in others if not other.ended):
            return f"all ranks wait {own.where}, for {own.waited:.0f} s by now, and none is silent"
        return f"{own} waits {own.where} for {own.waited:.0f} s, which the others have left"
    if all(other.place == REPLAY for other in late):
        last = f"{_plural(late, 'it waits', 'they wait')} {late[0].where}"
    else:
        last = f"the last exchange was {' and '.join(sorted({str(other.entered) for other in late}))}"
    return (
        f"{_names(late)} {_plural(late, 'is', 'are')} alive but {own.waited:.0f} s late, {last}; "
        f"{_who_waits(own, others, late, timeout)}"
    )


def describe_ended(ended: list[State]) -> str:
    """Ranks that are gone, in words."""
    return " and ".join(f"{other} {other.ended}" for other in ended)


def describe_silent(silent: list[State]) -> str:
    """Ranks that are silent, in words."""
    seconds = min(other.silent for other in silent)
    return f"{_names(silent)} {_plural(silent, 'has', 'have')} been silent for {seconds:.0f} s"


def _who_waits(own: State, others: list[State], named: list[State], timeout: float) -> str:
    """`ranks 0, 1 wait for it in exchange 12 (gradients), rank 3 in the replay buffer`."""
    places: dict[str, list[int]] = {own.where: []}
    for each in sorted([own, *others], key=lambda state: state.rank):
        if each.place is not None and each not in named and not each.ended and not each.is_silent(timeout):
            places.setdefault(each.where, []).append(each.rank)
    parts = []
    for where, ranks in places.items():
        verb = "" if parts else f" {_plural(ranks, 'waits', 'wait')} for {_plural(named, 'it', 'them')}"
        parts.append(f"rank{_plural(ranks, '', 's')} {', '.join(map(str, ranks))}{verb} {where}")
    return ", ".join(parts)


def _names(states: list[State]) -> str:
    return " and ".join(map(str, states))


def _plural(of: list, one: str, several: str) -> str:
    return one if len(of) == 1 else several
