"""A rank whose engine has a thread that wants to free a tensor in the very moment in which the interpreter ends.

The thread asks for the interpreter's lock while a function of `atexit` runs, the last one, and gets it when something
is destroyed that waits, which is after the interpreter has begun to end.
"""

import atexit
import sys
import time


def keep_the_lock() -> None:
    """Run until the other rank has answered, so that the tensor is needed no more."""
    until = time.monotonic() + 2
    while time.monotonic() < until:
        pass


class Waits:
    """What takes a while to destroy."""

    def __del__(self, sleep=time.sleep):
        sleep(0.5)


sys.setswitchinterval(1000)  # so that nothing takes the lock from the one that has it
sys.kept = Waits()
atexit.register(keep_the_lock)  # before those of torch, because the first is called last

import torch  # noqa: E402
import torch.distributed  # noqa: E402

from cl.distributed import ranks  # noqa: E402
from cl.distributed.group import connect  # noqa: E402
from cl.distributed.leaving import leave  # noqa: E402

comm = connect(ranks.started()[0], timeout=60)
x = torch.zeros(8)
if not comm.is_main:
    time.sleep(1)
torch.distributed.all_reduce(x, async_op=True)
if "leave" in sys.argv:
    leave()
