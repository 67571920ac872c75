"""Signals that ask a command to stop: SIGTERM, SIGUSR1 and SIGINT, as schedulers and terminals send them.

The first is remembered while something is under way that can be saved (`deferred`), and raises `Stopped` at once
elsewhere. A second ends the process as if nobody listened; but schedulers signal a launcher and its ranks, and the
launcher passes it on, so that the same signal within a moment is the first one again.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """A signal has ended the command, whose exit status is 128 + `number`; `line` says what was saved."""

    def __init__(self, number: int, line: str):
        super().__init__(line)
        self.number, self.line = signal.Signals(number), line


def _raise(number: signal.Signals) -> None:
    raise Stopped(number, "the same command goes on from what is saved")


MOMENT_SECONDS = 0.3
_asked: signal.Signals | None = None
_asked_at = 0.0
_deferring = 0
_outside = _raise


def listen(outside: Callable[[signal.Signals], None] = _raise) -> None:
    """Listen to the signals from now on; to be called in the main thread.

    `outside`: what is called for one that comes where nothing is deferred, instead of raising `Stopped`.
    """
    global _asked, _outside
    _asked, _outside = None, outside
    for number in SIGNALS:
        signal.signal(number, _take)


def is_again(number: int, before: int | None, moment: float) -> bool:
    """Whether a signal is one that came at `moment` and has come by a second way."""
    return number == before and time.monotonic() - moment < MOMENT_SECONDS


def asked() -> signal.Signals | None:
    """The signal that has come, if any."""
    return _asked


@contextlib.contextmanager
def deferred(done: str) -> Iterator[None]:
    """Within this block a signal is remembered only, for `asked`; at its end it raises `Stopped`, which says `done`."""
    global _deferring
    _deferring += 1
    try:
        yield
    finally:
        _deferring -= 1
    if _asked is not None and not _deferring:
        raise Stopped(_asked, done)


def _take(number: int, frame) -> None:
    global _asked, _asked_at
    if is_again(number, _asked, _asked_at):
        return
    if _asked is not None:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    _asked, _asked_at = signal.Signals(number), time.monotonic()
    if not _deferring:
        _outside(_asked)
