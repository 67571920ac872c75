"""One rank of test_watch.py: trains a little network with a replay memory, until one of the ranks is struck.

    watch_worker.py ENGINE TIMEOUT RANK WHERE HOW

RANK is struck at WHERE: `compute` (before it comes to an exchange), `exchange` (in one, in which it waits for another
rank), `replay` (where the others wait for records of it) or `nowhere`. HOW: a signal that it sends to itself, `sleep`
(it computes for a minute) or `error`. Prints the sum of its weights at the end.
"""

import os
import signal
import sys
import threading
import time

import torch

from cl.buffers.base import Field
from cl.buffers.native import NativeBuffer
from cl.distributed import ranks
from cl.distributed.comm import ReduceOptions
from cl.distributed.group import connect, disconnect

ENGINE, TIMEOUT, RANK, WHERE, HOW = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]
STEPS, STRUCK = 30, 12

torch.set_num_threads(1)
comm = connect(ranks.started()[0], TIMEOUT)
assert comm.engine == ENGINE and comm.watch is not None
torch.manual_seed(0)
network = torch.nn.Linear(8, 4)
optimizer = comm.distribute(torch.optim.SGD(network.parameters(), lr=0.1), network, 1, ReduceOptions())
fields = [Field("x", (8,), torch.float32), Field("y", (), torch.int64)]
memory = NativeBuffer(60, "reservoir", "uniform", fields, 4, 0, torch.device("cpu"), comm, 60.0)


def strike() -> None:
    if HOW == "sleep":
        time.sleep(60)
    elif HOW == "error":
        raise OSError("a mistake of one rank alone")
    else:
        os.kill(os.getpid(), getattr(signal, HOW))


def trained(step: int) -> float:
    random = torch.Generator().manual_seed(1000 * step + comm.rank)
    rows = {"x": torch.randn(4, 8, generator=random), "y": torch.randint(4, (4,), generator=random)}
    if step == STRUCK and comm.rank == RANK and WHERE == "replay":
        strike()
    if step == STRUCK and comm.rank != RANK and WHERE == "replay":
        time.sleep(0.2)  # so that the draw below meets a rank that is struck
        memory.request(60)
    replayed = [memory.receive() for _ in range(memory.pending)]
    memory.add(rows)
    memory.request(6)
    x, y = (torch.cat([rows[name], *(draw[name] for draw in replayed)]) for name in ("x", "y"))
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(network(x), y).backward()
    if step == STRUCK and WHERE == "compute" and comm.rank == RANK:
        strike()
    if step == STRUCK and WHERE == "exchange":
        if comm.rank == RANK:
            threading.Timer(0.3, strike).start()
        elif comm.rank == (RANK + 1) % comm.size:
            time.sleep(0.6)
    comm.reduce(optimizer)
    with comm.applying(optimizer):
        optimizer.step()
    return float(comm.sum(torch.tensor(float(len(y)))))


try:
    for step in range(STEPS):
        trained(step)
except Exception as error:
    lost = comm.lost()
    print(f"rank {comm.rank}: {lost or error}", file=sys.stderr, flush=True)
    disconnect()
    os._exit(1 if lost is None else 75)
print(f"{network.weight.double().sum():.17g}", comm.waits.entered, flush=True)
memory.close()
disconnect()
os._exit(0)
