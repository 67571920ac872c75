"""What a rank tells the launcher that has started it: lines of JSON through a pipe of its own.

The kinds are `arrived` (it begins to connect), `connected`, and `error` with the line to print, the traceback where
the user asked for it, and whether another rank was lost. So the launcher says an error of all ranks once, and knows
which ranks have not come. Where another launcher has started the rank there is no pipe, and nothing is told; where the
launcher is dead, errors go to the error stream.
"""

import contextlib
import json
import os

from cl.distributed import ranks

PIPE = "REMERGE_REPORT"  # the number of the pipe's descriptor, in the rank's environment
LOST = 75  # exit status of a rank that has lost another one (EX_TEMPFAIL of sysexits.h): the run may be started again
MOST_CHARACTERS = 16_000  # of one message, so that it fits into the pipe at once


def is_read() -> bool:
    """Whether a launcher of ours listens to this process."""
    return PIPE in os.environ


def tell(kind: str, **content) -> None:
    """Tell the launcher something, if it listens."""
    if not is_read():
        return
    content = {key: value[-MOST_CHARACTERS:] if isinstance(value, str) else value for key, value in content.items()}
    try:
        os.write(int(os.environ[PIPE]), json.dumps({"kind": kind, **content}).encode() + b"\n")
    except OSError:
        if "line" in content:
            say(ranks.rank(), content["line"])


def say(rank: int, line: str) -> None:
    """Print a rank's error past streams whose locks another thread may hold."""
    begin = "\n" if os.isatty(2) else ""  # there may be a progress bar
    with contextlib.suppress(OSError):  # it went the same way as the launcher
        os.write(2, f"{begin}rank {rank}: error: {line}\n".encode(errors="replace"))
