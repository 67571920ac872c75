"""A process that imports the libraries once, and is forked for every process that does jobs.

multiprocessing has a server of that kind, which was rejected: its processes run the script of the user again (a
notebook, or a script without `if __name__ == "__main__"`), and there is one for the whole process, whose modules torch
or a user may have chosen. This one is told nothing but where modules are found, and starts while its client goes on.

A forked process has two sockets to its client: one for jobs (`cl.jobs.worker`), and one whose end means that the client
is gone, and which carries the request to stop.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection

# What a run imports. What only some runs need (wandb, timm, a data set's module) is imported by them.
MODULES = (
    "torch", "cl.run.experiment", "cl.run.cli", "cl.buffers.native", "cl.strategies.derpp", "cl.reporting.plots",
    "matplotlib.figure", "matplotlib.backends.backend_agg", "hydra._internal.hydra",
)  # fmt: skip
BEGIN = "import json, sys; sys.path[:] = json.loads(sys.argv[3]); from cl.jobs import server; server.main()"
FORK = b"f"
END_SECONDS = 2.0  # for the server and its processes, once their client has no more for them to do


# ---- In the client ---------------------------------------------------------------------------------------------------


_servers: list["Server"] = []  # the one of this process, once there is one
_starting = threading.Lock()


def server(more: Sequence[str] = ()) -> "Server":
    """The server of this process, which is started if there is none; it lasts as long as this process.

    `more`: modules that it shall import beside those of a run; they are only heeded when it starts.
    """
    with _starting:
        if not _servers or not _servers[0].is_ours():
            _servers[:] = [Server((*MODULES, *more))]
        return _servers[0]


class Server:
    """The client's end. Returns before anything is imported, which takes a second or two."""

    def __init__(self, modules: Sequence[str]):
        self._socket, theirs = socket.socketpair()
        self._lock = threading.Lock()
        self._client, self._forked = os.getpid(), False
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-c", BEGIN, str(number), json.dumps(list(modules)), json.dumps(sys.path)],
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
            )
        atexit.register(self._close)

    def is_ours(self) -> bool:
        """Whether it is there, and this process has started it (and is not a copy of the one that has)."""
        return self._client == os.getpid() and self._process.poll() is None

    def fork(self) -> tuple[Connection, socket.socket]:
        """A new process: the connection to its jobs, and the socket that ends it when it is closed.

        Raises OSError if the server has ended.
        """
        (jobs, their_jobs), (control, their_control) = socket.socketpair(), socket.socketpair()
        with their_jobs, their_control, self._lock:
            self._forked = True
            socket.send_fds(self._socket, [FORK], [their_jobs.fileno(), their_control.fileno()])
        return Connection(jobs.detach()), control

    def _close(self) -> None:
        """It may be in the middle of its imports, for jobs that were not needed."""
        if os.getpid() != self._client:
            return
        self._socket.close()
        if self._forked:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)
        self._process.kill()
        self._process.wait()


# ---- In the server ---------------------------------------------------------------------------------------------------


def main() -> None:
    """Import, and then fork whenever the client asks, until it is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # a terminal sends them to all; it ends with its client
    signal.signal(signal.SIGCHLD, _reap)
    client = socket.socket(fileno=int(sys.argv[1]))
    client.set_inheritable(False)
    gc.disable()  # nothing that is imported is garbage; looking for it takes a tenth of the time
    for name in json.loads(sys.argv[2]):
        importlib.import_module(name)
    sys.argv[1:] = []
    gc.freeze()  # pages of what is imported stay shared with the processes
    while True:
        request, handles, _, _ = socket.recv_fds(client, 1, 2)
        if not request:
            break
        if os.fork() == 0:
            client.close()
            _work(*handles)
        for handle in handles:
            os.close(handle)
    with contextlib.suppress(ChildProcessError):  # until none is left: their CPU time counts as that of the command
        while True:
            os.wait()
    os._exit(0)  # the end of an interpreter that has torch takes a while, and the command waits for it


def _reap(*_) -> None:
    """Let processes that have ended go."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _work(jobs: int, control: int) -> None:
    """Do jobs in this process, and end it: not through the end of the interpreter, which is the server's."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        from cl.jobs import worker

        status = worker.work(Connection(jobs), socket.socket(fileno=control))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
