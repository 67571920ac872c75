"""How a rank ends. Does not import torch, so that a command that failed early ends fast."""

import os
import sys
from typing import NoReturn


def leave(status: int = 0) -> NoReturn:
    """Leave the group and end this process with `status`, without taking the interpreter down.

    torch.distributed keeps threads that free tensors, and with them ask for the interpreter's lock; one that asks while
    the interpreter ends aborts the process of a rank that succeeded. Destroying the group does not always end them:
    modules that torch imports late keep the group as the default value of an argument.
    """
    if "cl.distributed.group" in sys.modules:  # else there is no group
        from cl.distributed.group import disconnect

        disconnect()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
