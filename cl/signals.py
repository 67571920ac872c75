"""Signals that ask a command to stop: SIGTERM, SIGUSR1 and SIGINT, as schedulers and terminals send them.

The first is remembered while something is under way that can be saved (`deferred`), and raises `Stopped` at once
elsewhere. A second ends the process as if nobody listened, unless it follows at once: a terminal and a launcher may
both pass on the same Ctrl-C.
"""

import contextlib
import os
import signal
import socket
import threading
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
_answering = False
_outside = _raise


def listen(outside: Callable[[signal.Signals], None] = _raise) -> None:
    """Listen to the signals from now on; to be called in the main thread.

    `outside`: what is called for one that comes where nothing is deferred, instead of raising `Stopped`.
    """
    global _asked, _outside
    _asked, _outside = None, outside
    for number in SIGNALS:
        signal.signal(number, _take)


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Listen within this block, where Python can (in the main thread) and nobody listens yet; then as before."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    if threading.current_thread() is not threading.main_thread() or _take in handlers.values():
        yield
        return
    listen()
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def stop_listening() -> None:
    """Let a signal end the rest of a command, which has nothing to save: its table, and leaving the other ranks."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def ignore() -> None:
    """Let a command come to its end with the status that it has earned; nothing that can hang may follow.

    The end of the interpreter takes Python's own handlers away long before it is through.
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


@contextlib.contextmanager
def answered_by_a_thread() -> Iterator[None]:
    """Within this block a second signal ends the process even where its main thread is not in Python.

    Python's handlers run in the main thread, which may wait for other ranks in C. The bytes that the interpreter writes
    for each signal come at once. For ranks only: asyncio needs these bytes itself.
    """
    global _answering
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_end_at_the_second, args=(reader,), name="signals", daemon=True).start()
    _answering = True
    try:
        yield
    finally:
        _answering = False
        signal.set_wakeup_fd(before)
        writer.close()


def _leave_to_the_parent() -> None:
    """In a forked process, such as a worker of the loader: its signals are not those of the rank."""
    if _answering:
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_leave_to_the_parent)


def _end_at_the_second(reader: socket.socket) -> None:
    first = None
    with reader:
        while data := reader.recv(1):
            now = time.monotonic()
            if data[0] not in SIGNALS:
                continue
            if first is not None and now - first > SAME:
                os._exit(128 + data[0])
            first = now if first is None else first


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
