"""Ranks of test_watch.py: train a little network with a replay memory, until one of them is struck.

The standard input has one group a line, as JSON: `engine`, `timeout`, `struck` (a rank), `where`, `how`, `environments`
of the ranks, and `folder`, for what they print and for `result.json`. Where the rank is struck:

    compute    before it comes to an exchange        exchange    in one, in which it waits for another rank
    replay     where others wait for its records     nowhere     not at all

`how`: a signal that it sends to itself, `pause` (SIGSTOP, and SIGCONT after half the timeout), `sleep` (it computes
for a minute) or `error`. Groups, and their ranks, are forked from one process that has imported everything.
"""

import importlib.util
import json
import os
import pickle
import signal
import sys
import threading
import time
from pathlib import Path

import torch

from cl.buffers.base import Field
from cl.buffers.native import NativeBuffer
from cl.distributed import ranks
from cl.distributed.comm import ReduceOptions
from cl.distributed.group import connect, disconnect

STEPS, STRUCK = 30, 12
MOST_GROUPS = 4  # at a time
FIELDS = [Field("x", (8,), torch.float32), Field("y", (), torch.int64)]


class Rank:
    """One rank, which prints the sum of its weights and the number of its exchanges at the end."""

    def __init__(self, engine: str, timeout: float, struck: int, where: str, how: str):
        self.how, self.where = how, where
        refuse_pickle()
        torch.set_num_threads(1)
        self.comm = connect(ranks.started()[0], timeout)
        assert self.comm.engine == engine and self.comm.watch is not None
        self.is_struck = self.comm.rank == struck
        self.is_next = self.comm.rank == (struck + 1) % self.comm.size
        torch.manual_seed(0)
        self.network = torch.nn.Linear(8, 4)
        optimizer = torch.optim.SGD(self.network.parameters(), lr=0.1)
        self.optimizer = self.comm.distribute(optimizer, self.network, 1, ReduceOptions())
        device = torch.device("cpu")
        self.memory = NativeBuffer(60, "reservoir", "uniform", FIELDS, 4, 0, device, self.comm, 60.0)

    def train(self) -> None:
        for step in range(STEPS):
            self.step(step)
        print(f"{self.network.weight.double().sum():.17g}", self.comm.waits.entered, flush=True)
        self.memory.close()

    def step(self, step: int) -> None:
        where = self.where if step == STRUCK else "nowhere"
        random = torch.Generator().manual_seed(1000 * step + self.comm.rank)
        rows = {"x": torch.randn(4, 8, generator=random), "y": torch.randint(4, (4,), generator=random)}
        if where == "replay":
            if self.is_struck:
                self.strike()
            time.sleep(0.2)  # so that the draw meets a rank that is struck
            self.memory.request(60)
        draws = [self.memory.receive() for _ in range(self.memory.pending)]
        self.memory.add(rows)
        self.memory.request(6)
        x, y = (torch.cat([rows[name], *(draw[name] for draw in draws)]) for name in ("x", "y"))
        self.optimizer.zero_grad()
        torch.nn.functional.cross_entropy(self.network(x), y).backward()
        if where == "compute" and self.is_struck:
            self.strike()
        if where == "exchange" and self.is_struck:
            threading.Timer(0.3, self.strike).start()
        if where == "exchange" and self.is_next:
            time.sleep(0.6)
        self.comm.reduce(self.optimizer)
        with self.comm.applying(self.optimizer):
            self.optimizer.step()
        self.comm.sum(torch.tensor(float(len(y))))
        if step == 0:
            assert self.comm.gather((step, {"rank": self.comm.rank})) == [(0, {"rank": rank}) for rank in range(3)]
            assert self.comm.broadcast([self.comm.rank]) == [0]

    def strike(self) -> None:
        if self.how == "sleep":
            time.sleep(60)
        elif self.how == "error":
            raise OSError("a mistake of one rank alone")
        else:
            os.kill(os.getpid(), signal.SIGSTOP if self.how == "pause" else getattr(signal, self.how))


def refuse_pickle() -> None:
    """From here on it is an error to unpickle anything: neither remerge nor the engines do, in any exchange."""

    def refuse(*arguments):
        raise AssertionError("something was unpickled")

    for module in filter(None, map(sys.modules.get, ("pickle", "cloudpickle", "cloudpickle.cloudpickle"))):
        module.load = module.loads = refuse
    pickle.Unpickler = torch.distributed.distributed_c10d._unpickler = refuse


def rank_main(group: dict, number: int) -> None:
    """One rank, to its end."""
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{group['folder']}/{name}{number}", os.O_WRONLY | os.O_CREAT), stream)
    os.environ.update(group["environments"][number])
    status = 0
    try:
        Rank(*(group[name] for name in ("engine", "timeout", "struck", "where", "how"))).train()
    except Exception as error:
        lost = ranks_comm().lost()
        print(f"rank {number}: {lost or error}", file=sys.stderr, flush=True)
        status = 1 if lost is None else 75
    disconnect()
    os._exit(status)


def ranks_comm():
    from cl.distributed import group

    return group._comm


def group_main(group: dict) -> None:
    """Fork the ranks of a group, and note their numbers, statuses and the seconds from the stroke to the last end."""
    pids = []
    for number in range(len(group["environments"])):
        if (pid := os.fork()) == 0:
            rank_main(group, number)
        pids.append(pid)
    struck, seconds, statuses = pids[group["struck"]], None, dict.fromkeys(pids)
    if group["how"] in ("SIGSTOP", "pause"):
        os.waitpid(struck, os.WUNTRACED)
        began = time.monotonic()
        if group["how"] == "pause":
            time.sleep(group["timeout"] / 2)
            os.kill(struck, signal.SIGCONT)
    for pid in pids:
        if pid != struck or group["how"] != "SIGSTOP":
            statuses[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if group["how"] == "SIGSTOP":
        seconds = time.monotonic() - began
        os.kill(struck, signal.SIGKILL)
    result = Path(group["folder"], "result")
    result.write_text(json.dumps({"pids": pids, "statuses": list(statuses.values()), "seconds": seconds}))
    result.rename(result.with_suffix(".json"))
    os._exit(0)


if __name__ == "__main__":
    import torch._dynamo  # which the first step of an optimizer does
    import torch.distributed.distributed_c10d

    if importlib.util.find_spec("horovod") is not None:
        import horovod.torch  # noqa: F401
    torch.set_num_threads(1)
    running = 0
    for line in sys.stdin:
        if running == MOST_GROUPS:
            os.wait()
            running -= 1
        if os.fork() == 0:
            group_main(json.loads(line))
        running += 1
    for _ in range(running):
        os.wait()
