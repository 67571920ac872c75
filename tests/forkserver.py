"""Runs run.py and merge.py in processes that need not import torch again, with an interface like that of `subprocess`.

`python run.py` spends seconds of CPU time on imports before it does anything. A server imports the libraries once and
forks a process for each command. Nothing of remerge is imported before the fork, no thread of torch has started,
and the process ends as the interpreter does, with its exit status or signal: only the imports are shared. The tests in
test_forkserver.py compare it with `subprocess`.

What is read while an interpreter starts cannot be asked for: flags of Python, and variables of the environment such as
PYTHONPATH or OMP_NUM_THREADS. Such a test starts its process with `subprocess`. So does one that compiles a network
(the compiler wants to be imported in an order of its own).
"""

import atexit
import functools
import gc
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# pidfd_open makes signals and waiting safe for processes that are not children of the one that asks; Linux has it.
SUPPORTED = hasattr(os, "pidfd_open")
READ_AT_START = ("PYTHON", "LD_", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "GOMP_", "MPL")  # begins of variables' names
SET_BY_IMPORTS = ("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK")  # by scikit-learn, in every process that imports it
MESSAGE_BYTES = 1 << 17  # more than an environment takes; one packet of a Unix socket holds it


# ---- In the tests ----------------------------------------------------------------------------------------------------


def run(
    line: Sequence[str], *, cwd: Path | str, timeout: float = 600, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess:
    """Run `[script, *arguments]` to its end and return its status and what it wrote, as text.

    Raises subprocess.TimeoutExpired after `timeout` seconds; the process is killed then.
    """
    process = start(line, cwd=cwd, env=env)
    out, err = process.communicate(timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def start(line: Sequence[str], *, cwd: Path | str, env: Mapping[str, str] | None = None) -> "Process":
    """Start `[script, *arguments]`; `env`: its whole environment, by default that of the tests."""
    line, env = [str(word) for word in line], dict(os.environ if env is None else env)
    return Process(line, str(cwd), env) if SUPPORTED else Fresh(line, str(cwd), env)


class Fresh(subprocess.Popen):
    """The same by `subprocess`, for systems without pidfd_open and to compare with."""

    def __init__(self, line: list[str], cwd: str, env: dict[str, str]):
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        super().__init__([sys.executable, *line], cwd=cwd, env=env, text=True, **pipes)


class Process:
    """A process of the server, with the methods and names of `subprocess.Popen`."""

    def __init__(self, line: list[str], cwd: str, env: dict[str, str]):
        self.args, self.returncode = line, None
        ours, theirs = zip(os.pipe(), os.pipe())
        with open(os.devnull) as nothing:
            self.pid, self._handle = server().start(line, cwd, env, (nothing.fileno(), *theirs))
        for pipe in theirs:
            os.close(pipe)
        self.stdout, self.stderr = map(os.fdopen, ours)

    def poll(self) -> int | None:
        if self.returncode is None and _readable(self._handle, 0):
            self.returncode = server().status(self.pid)
            os.close(self._handle)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None and not _readable(self._handle, timeout):
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.poll()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What is left of both streams; a process that does not end in time is killed, unlike by `subprocess`."""
        with ThreadPoolExecutor(2) as readers:
            texts = [readers.submit(stream.read) for stream in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                self.wait()
                raise
        self.stdout.close()
        self.stderr.close()
        return texts[0].result(), texts[1].result()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _readable(handle: int, timeout: float | None) -> bool:
    """Whether the process behind a pidfd ends within so many seconds."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(None if timeout is None else 1000 * timeout))


@functools.cache
def server() -> "Server":
    """The server of this process, started when it is first needed."""
    return Server()


class Server:
    """The tests' end of the socket to the process that forks; that ends when this end is closed."""

    def __init__(self):
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen([sys.executable, __file__], stdin=theirs, stdout=subprocess.DEVNULL)
        self.env = dict(os.environ)
        atexit.register(self.close)

    def start(self, line: list[str], cwd: str, env: dict[str, str], streams: Sequence[int]) -> tuple[int, int]:
        """The number and the pidfd of a new process with these descriptors as its standard streams."""
        changed = [name for name, _ in env.items() ^ self.env.items() if name.startswith(READ_AT_START)]
        changed = [name for name in changed if name not in SET_BY_IMPORTS]
        if changed:
            raise ValueError(f"{changed[0]} is read when Python starts: start this process with subprocess")
        content = json.dumps(["start", line, cwd, env]).encode()
        if len(content) > MESSAGE_BYTES:
            raise ValueError(
                f"a command and its environment have {len(content)} bytes, at most {MESSAGE_BYTES} are sent"
            )
        socket.send_fds(self.socket, [content], streams)
        answer, (handle,), _, _ = socket.recv_fds(self.socket, MESSAGE_BYTES, 1)
        return json.loads(answer), handle

    def status(self, pid: int) -> int:
        """The exit status of a process that has ended, as in `subprocess`; asked for once."""
        self.socket.send(json.dumps(["status", pid]).encode())
        return json.loads(self.socket.recv(MESSAGE_BYTES))

    def close(self) -> None:
        self.socket.close()
        self.process.wait()


# ---- In the server ---------------------------------------------------------------------------------------------------


def serve(control: socket.socket) -> list:
    """Answer requests; returns in a forked process, with what that has to run. Exits when the tests have ended."""
    while True:
        content, streams, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 3)
        if not content:
            sys.exit()
        request, *job = json.loads(content)
        if request == "status":
            control.send(json.dumps(os.waitstatus_to_exitcode(os.waitpid(*job, 0)[1])).encode())
            continue
        pid = os.fork()
        if pid == 0:
            control.detach()  # its number is that of the standard input, which is replaced
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
                os.close(stream)
            return job
        for stream in streams:
            os.close(stream)
        handle = os.pidfd_open(pid)
        socket.send_fds(control, [json.dumps(pid).encode()], [handle])
        os.close(handle)


def import_libraries() -> None:
    """What every run imports before anything of remerge matters; no more, or a missing import would go unnoticed."""
    import hydra._internal.hydra  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import rich.table  # noqa: F401
    import torch  # noqa: F401


def execute(line: list[str], cwd: str, env: dict[str, str]) -> None:
    """What `python SCRIPT ARGUMENTS` does in this folder and environment."""
    import numpy as np
    import torch

    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell has the tests ignore it
    random.seed()  # otherwise every process would draw the same numbers
    np.random.seed()
    torch.default_generator.seed()
    script = line[0]
    sys.argv[:] = line
    sys.path[0] = str(Path(script).resolve().parent)
    main = types.ModuleType("__main__")
    main.__file__ = script
    sys.modules["__main__"] = main
    exec(compile(Path(script).read_bytes(), script, "exec"), main.__dict__)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    import_libraries()
    gc.freeze()  # pages of what is imported stay shared with the processes
    # At the top of the interpreter, so that whatever the script raises ends the process as it always does.
    execute(*serve(socket.socket(fileno=0)))
