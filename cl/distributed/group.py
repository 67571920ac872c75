"""The group of ranks of this process, and checks that all ranks have the same network."""

import hashlib

from torch import nn

from cl.distributed import reports
from cl.distributed.comm import Comm
from cl.distributed.encoding import encode

_comm: Comm | None = None


def connect(engine: str | None, timeout: float) -> Comm:
    """The group of this process, created once and shared by the jobs of a sweep.

    `engine`: horovod, torch or None. `timeout`: seconds that a rank waits for another, here and in every exchange.
    """
    global _comm
    if _comm is None:
        reports.tell("arrived")
        _comm = _made(engine, timeout)
        if engine is not None:
            _comm.introduce()
        if _comm.size > 1:
            _comm.guard(timeout)
        reports.tell("connected")
    return _comm


def _made(engine: str | None, timeout: float) -> Comm:
    if engine == "horovod":
        from cl.distributed.horovod_comm import HorovodComm

        return HorovodComm(timeout)
    if engine == "torch":
        from cl.distributed.torch_comm import TorchComm

        return TorchComm(timeout)
    return Comm()


def lost() -> str | None:
    """After an error of the engine or the buffer: the rank that is gone or silent, or None if none is known to be.

    Takes up to 1.5 seconds.
    """
    return None if _comm is None else _comm.lost()


def disconnect() -> None:
    """Leave the group, if there is one."""
    global _comm
    if _comm is not None:
        _comm.close()
        _comm = None


def check_equal(comm: Comm, model: nn.Module) -> None:
    """Raise RuntimeError unless the network is the same on every rank to the last bit."""
    if comm.size == 1:
        return
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(encode([name, value.contiguous()]))
    digests = comm.gather(digest.hexdigest())
    odd = [rank for rank, other in enumerate(digests) if other != digests[0]]
    if odd:
        raise RuntimeError(
            f"the networks of ranks {odd} differ from that of rank 0, expected equal ones: the results of this run are "
            "wrong, discard it"
        )


def equalise_statistics(comm: Comm, model: nn.Module, average: bool) -> None:
    """Set the batch-norm statistics of every rank to their mean (`average`), or to those of rank 0."""
    if comm.size == 1:
        return
    # What is frozen is alike already; the mark is that of cl.networks.modes, a room above this one.
    changing = [module for module in model.modules() if not getattr(module, "is_frozen", False)]
    own = [buffer for module in changing for buffer in module.buffers(recurse=False)]
    buffers = [buffer for buffer in own if buffer.is_floating_point()]
    if not buffers:
        return
    factor = 1.0 if average else float(comm.is_main * comm.size)
    for buffer, value in zip(buffers, comm.mean([factor * buffer for buffer in buffers])):
        buffer.copy_(value)
