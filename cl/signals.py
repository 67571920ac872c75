"""Signals that ask a command to stop: SIGTERM, SIGUSR1 and SIGINT, as schedulers and terminals send them.

The first is remembered while something is under way that can be saved (`deferred`), and raises `Stopped` at once
elsewhere. A second ends the process as if nobody listened, unless it follows at once: a terminal and a launcher may
both pass on the same Ctrl-C.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
SAME = 1.0  # seconds within which several signals are one


class Stopped(KeyboardInterrupt):
    """A signal has ended the command, whose exit status is 128 + `number`; `line` says what was saved."""

    def __init__(self, number: int, line: str):
        super().__init__(line)
        self.number, self.line = signal.Signals(number), line


def _raise(number: signal.Signals) -> None:
    raise Stopped(number, "the same command goes on from what is saved")


_asked: signal.Signals | None = None
_since = 0.0  # when it came
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


def ignore() -> None:
    """Let the rest of a command, which has nothing to save, come to its end with the status that it has earned.

    It is the table of results and the end of the interpreter, which takes Python's own handlers away long before it.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


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
    global _asked, _since
    now = time.monotonic()
    if _asked is not None:
        if now - _since > SAME:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        return
    _asked, _since = signal.Signals(number), now
    if not _deferring:
        _outside(_asked)
