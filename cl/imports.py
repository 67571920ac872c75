"""Imports of many modules without Python's search for garbage: they leave none, and it takes a tenth of their time."""

import contextlib
import gc
from collections.abc import Iterator

_for_good = False


def stay() -> None:
    """Say that this process is a command, so that what it imports stays to its end."""
    global _for_good
    _for_good = True


@contextlib.contextmanager
def many() -> Iterator[None]:
    """A context in which Python does not look for garbage.

    In a command what exists at its end is never looked at again. In a process of the user's it is: there may be garbage
    of the user's in it.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if _for_good:
            gc.freeze()
        if was_enabled:
            gc.enable()
