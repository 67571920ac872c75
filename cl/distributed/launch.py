"""Starts a job once more as several ranks, waits for them, and ends them together.

Each rank runs the same command with `launcher=none` and finds its engine in the environment. On this machine the ranks
are started here: horovodrun would put the whole environment, keys included, on command lines that everybody can read,
and its own word before each line. Over several hosts it is horovodrun that starts them.
"""

import contextlib
import ctypes
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

GRACE_SECONDS = 20  # for the other ranks to say what they saw, once one has failed
LAUNCHED = "REMERGE_LAUNCHED"  # set in ranks that were started here: the table is printed by the one who started them


def start_ranks(launcher: dict, overrides: list[str]) -> None:
    """Run `sys.argv[0]` with these overrides as `launcher.np` ranks.

    Raises ValueError for options that make no sense, and ChildProcessError that names the rank which failed first.
    """
    name, np, hosts, hostfile = (launcher[key] for key in ("name", "np", "hosts", "hostfile"))
    if not isinstance(np, int) or np < 1:
        raise ValueError(f"launcher.np must be a whole number of at least 1, got {np}")
    if hosts and hostfile:
        raise ValueError("give launcher.hosts or launcher.hostfile, not both")
    if name == "torchrun" and (hosts or hostfile):
        raise ValueError("launcher=torchrun starts ranks on this machine only; for several, start torchrun on each")
    command = [sys.executable, sys.argv[0], *overrides, "launcher=none"]
    if hosts or hostfile:
        where = ["-H", hosts] if hosts else ["--hostfile", hostfile]
        commands = [[_horovodrun(), "-np", str(np), *where, "--gloo", *command]]
        environments = contextlib.nullcontext([{}])
    else:
        commands = [command] * np
        environments = _horovod_environments(np) if name == "horovod" else _torch_environments(np)
    with environments as extra:
        ranks = []
        try:
            for own, words in zip(extra, commands):
                env = {**os.environ, **own, LAUNCHED: "1"}
                ranks.append(subprocess.Popen(words, env=env, preexec_fn=_die_with_parent))
            _wait(ranks)
        finally:
            _end(ranks)


def _wait(ranks: list[subprocess.Popen]) -> None:
    """Until all are done, or one failed and the others have had their time."""
    # A thread for each, because the rank to name is the one that ended first: those that miss it end at its heels.
    ended = queue.SimpleQueue()
    for number, rank in enumerate(ranks):
        threading.Thread(target=_tell_end, args=(number, rank, ended), daemon=True).start()
    failed, deadline = None, None
    for _ in ranks:
        try:
            number = ended.get(timeout=deadline and max(0, deadline - time.monotonic()))
        except queue.Empty:
            break
        if failed is None and ranks[number].returncode:
            failed, deadline = number, time.monotonic() + GRACE_SECONDS
    if failed is not None:
        code = ranks[failed].returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        raise ChildProcessError(f"rank {failed} of {len(ranks)} {how}, so all of them were ended")


def _tell_end(number: int, rank: subprocess.Popen, ended: queue.SimpleQueue) -> None:
    rank.wait()
    ended.put(number)


def _end(ranks: list[subprocess.Popen]) -> None:
    """No rank outlives its run."""
    for step in (signal.SIGTERM, signal.SIGKILL):
        for rank in ranks:
            if rank.poll() is None:
                rank.send_signal(step)
        deadline = time.monotonic() + 5
        while any(rank.poll() is None for rank in ranks) and time.monotonic() < deadline:
            time.sleep(0.05)


def _die_with_parent() -> None:
    """In a rank, before it starts: ask Linux to end it when the process that started it is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


@contextlib.contextmanager
def _horovod_environments(np: int):
    """What Horovod's Gloo controller wants in the environment of each rank; the ranks meet at a server of Horovod's."""
    from cl.distributed.rendezvous import horovod_rendezvous  # imports Horovod

    with horovod_rendezvous(np) as port:
        yield [
            {
                **_names("HOROVOD_", RANK=rank, SIZE=np, LOCAL_RANK=rank, LOCAL_SIZE=np, CROSS_RANK=0, CROSS_SIZE=1),
                "HOROVOD_HOSTNAME": "localhost",
                "HOROVOD_CONTROLLER": "gloo",
                "HOROVOD_CPU_OPERATIONS": "gloo",
                "HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1",
                "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
                "HOROVOD_GLOO_IFACE": "lo0" if sys.platform == "darwin" else "lo",
            }
            for rank in range(np)
        ]


@contextlib.contextmanager
def _torch_environments(np: int):
    """What torch.distributed wants in the environment of each rank; rank 0 is where they meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    yield [
        _names("", RANK=rank, WORLD_SIZE=np, LOCAL_RANK=rank, LOCAL_WORLD_SIZE=np, MASTER_PORT=port)
        | {"MASTER_ADDR": "127.0.0.1"}
        for rank in range(np)
    ]


def _names(prefix: str, **values: int) -> dict[str, str]:
    return {prefix + name: str(value) for name, value in values.items()}


def _horovodrun() -> str:
    path = Path(sys.executable).with_name("horovodrun")
    if not path.is_file():
        raise ValueError("launcher=horovod needs Horovod, which is not installed; `make horovod` builds it")
    return str(path)
