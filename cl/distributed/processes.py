"""The ranks on this machine as processes, for the launcher and for its agents on other hosts."""

import codecs
import contextlib
import ctypes
import functools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping

from cl.distributed import reports

LIBRARY = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


class Processes:
    """Ranks that run one command; each is followed by threads that call `tell(event, rank, content)`.

    The events are `report` (content: what the rank reported), `output` (content: number of the stream and text, only
    with `piped`), and at last `ended` (content: status as in `subprocess`). `death`: the signal that the ranks get
    when this process dies.
    """

    def __init__(self, tell: Callable, piped: bool, death: signal.Signals):
        self.tell, self.piped, self.death = tell, piped, death
        self.running: dict[int, subprocess.Popen] = {}

    def start(self, command: list[str], environments: Mapping[int, Mapping[str, str]], folder: str | None = None):
        """Start a process for each rank with its whole environment; to be called in the main thread.

        Linux sends `death` when the thread ends that has started the process.
        """
        for rank, environment in environments.items():
            reader, writer = os.pipe()
            stream = subprocess.PIPE if self.piped else None
            try:
                process = subprocess.Popen(
                    command,
                    env={**environment, reports.PIPE: str(writer)},
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    pass_fds=(writer,),
                    preexec_fn=functools.partial(prepare_child, self.death, os.getpid()),
                )
            except BaseException:
                os.close(reader)
                raise
            finally:
                os.close(writer)
            self.running[rank] = process
            threading.Thread(target=self._follow, args=(rank, process, reader), daemon=True).start()

    def send(self, number: int) -> None:
        """Send a signal to every rank that still runs."""
        for process in list(self.running.values()):
            process.send_signal(number)

    def kill(self) -> None:
        """End all ranks and what they have started, stopped ones too."""
        for process in list(self.running.values()):
            _kill_group(process.pid)

    def _follow(self, rank: int, process: subprocess.Popen, reader: int) -> None:
        threads = [threading.Thread(target=self._read_reports, args=(rank, reader), daemon=True)]
        if self.piped:
            for number, stream in ((1, process.stdout), (2, process.stderr)):
                threads.append(threading.Thread(target=self._read_output, args=(rank, number, stream), daemon=True))
        for thread in threads:
            thread.start()
        if hasattr(os, "waitid"):  # the number of the group is nobody else's until the process is waited for
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            _kill_group(process.pid)
        status = process.wait()
        for thread in threads:
            thread.join(5)  # at once, unless a process that left the group holds the pipes open
        del self.running[rank]
        self.tell("ended", rank, status)

    def _read_reports(self, rank: int, reader: int) -> None:
        with os.fdopen(reader) as lines:
            for line in lines:
                with contextlib.suppress(json.JSONDecodeError):  # a rank that was killed in the middle of a line
                    self.tell("report", rank, json.loads(line))

    def _read_output(self, rank: int, number: int, stream) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        with stream:
            while chunk := stream.read1(1 << 16):
                self.tell("output", rank, [number, decoder.decode(chunk)])


def prepare_child(death: signal.Signals = signal.SIGTERM, parent: int | None = None) -> None:
    """In a new process, before it becomes another program: a group of its own, and `death` when its parent dies."""
    # Ctrl-C in a terminal then reaches the launcher alone, which passes it on once. The session is the same: when the
    # launcher dies the group is an orphan, and Linux wakes its stopped members.
    os.setpgrp()
    if sys.platform == "linux":
        LIBRARY.prctl(PR_SET_PDEATHSIG, death)
        if parent is not None and os.getppid() != parent:  # it died before it could be watched
            os._exit(1)


def _kill_group(number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: the group has only ended processes
        os.killpg(number, signal.SIGKILL)
