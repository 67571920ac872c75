"""Imports of many modules without Python's search for garbage: they leave none, and it takes a tenth of their time."""

import contextlib
import gc
from collections.abc import Iterator

_for_good = False


def stay() -> None:
    """Say that this process is a command, so that what it imports first stays to its end."""
    global _for_good
    _for_good = True


@contextlib.contextmanager
def many() -> Iterator[None]:
    """A context in which Python does not look for garbage.

    What exists at the end of a command's first one is never looked at again. Later there may be data of a finished run
    in it, and in a process of the user's at any time.
    """
    global _for_good
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if _for_good:
            gc.freeze()
            _for_good = False
        if was_enabled:
            gc.enable()
