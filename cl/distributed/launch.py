"""Starts a job again as several ranks, waits for them, and ends them together.

Each rank runs the same command with `launcher=none` and finds its engine in the environment. Ranks on this machine are
started here, because horovodrun would put the whole environment, secret keys included, on command lines that every user
can read, and would prefix each line of output. Ranks on several hosts are started by horovodrun.
"""

import contextlib
import ctypes
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from cl.distributed.ranks import RENDEZVOUS

GRACE_SECONDS = 20  # after one rank has failed, the time for the others to report their errors
LAUNCHED = "REMERGE_LAUNCHED"  # set in ranks started here, whose parent process prints the table of results


def start_ranks(launcher: dict, overrides: list[str]) -> None:
    """Run `sys.argv[0]` with these overrides as `launcher.np` ranks.

    Raises ValueError for contradicting options, and ChildProcessError, which names the rank that failed first.
    """
    name, np, hosts, hostfile = (launcher[key] for key in ("name", "np", "hosts", "hostfile"))
    if not isinstance(np, int) or np < 1:
        raise ValueError(f"launcher.np must be a whole number of at least 1, got {np}")
    if hosts and hostfile:
        raise ValueError("give launcher.hosts or launcher.hostfile, not both")
    if name == "torchrun" and (hosts or hostfile):
        raise ValueError(
            "launcher=torchrun starts ranks on this machine only: for several hosts, start torchrun on each of them "
            "with launcher=none"
        )
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
    """Wait until all ranks have ended, or until GRACE_SECONDS after the first failure."""
    # One thread per rank, to learn which one failed first: the others fail soon after it.
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
        raise ChildProcessError(f"rank {failed} of {len(ranks)} {how}, so all ranks were ended")


def _tell_end(number: int, rank: subprocess.Popen, ended: queue.SimpleQueue) -> None:
    rank.wait()
    ended.put(number)


def _end(ranks: list[subprocess.Popen]) -> None:
    """End all ranks that still run."""
    for step in (signal.SIGTERM, signal.SIGKILL):
        for rank in ranks:
            if rank.poll() is None:
                rank.send_signal(step)
        deadline = time.monotonic() + 5
        while any(rank.poll() is None for rank in ranks) and time.monotonic() < deadline:
            time.sleep(0.05)


def _die_with_parent() -> None:
    """Ask Linux to end this rank when its parent process ends; called in the rank before it starts."""
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
    """What torch.distributed wants in the environment of each rank; the ranks meet at a file.

    A port would have to be chosen here and opened by rank 0, and another process can take it in between.
    """
    with tempfile.TemporaryDirectory(prefix="remerge-ranks-") as folder:
        yield [
            _names("", RANK=rank, WORLD_SIZE=np, LOCAL_RANK=rank, LOCAL_WORLD_SIZE=np)
            | {RENDEZVOUS: str(Path(folder) / "store")}
            for rank in range(np)
        ]


def _names(prefix: str, **values: int) -> dict[str, str]:
    return {prefix + name: str(value) for name, value in values.items()}


def _horovodrun() -> str:
    path = Path(sys.executable).with_name("horovodrun")
    if not path.is_file():
        raise ValueError("launcher=horovod needs Horovod, which is not installed; `make horovod` builds it")
    return str(path)
