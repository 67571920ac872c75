"""The launcher's end of an agent on another host (`cl.distributed.agent`), which it starts and talks to by ssh.

REMERGE_SSH is the command that is put before a host's name and the words to run there, like GIT_SSH_COMMAND of git.
"""

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from cl.distributed.hosts import Host
from cl.distributed.processes import prepare_child

SSH = "REMERGE_SSH"
LOOK_SECONDS = 0.1  # between two looks at whether to go on waiting
# No password is asked for, a host that is off is given up, and so is one that no longer answers.
OPTIONS = ("BatchMode=yes", "ConnectTimeout=15", "ServerAliveInterval=15", "ServerAliveCountMax=3")
ROOT = Path(__file__).resolve().parent.parent.parent  # where `cl` lies, on every host


class Unreachable(OSError):
    """A host on which no agent could be started."""


class Remote:
    """One host: its agent's answers go to `tell(event, rank, content)`; `lost` with the reason if it ends too early."""

    def __init__(self, host: Host, tell: Callable):
        self.host, self.tell = host, tell
        self.hello: dict | None = None
        self.greeted = threading.Event()
        self.said: list[str] = []  # last lines of what ssh and the agent said on the error stream
        self.running: set[int] = set()
        words = os.environ.get(SSH)
        ssh = shlex.split(words) if words else ["ssh", "-T", *(f"-o{option}" for option in OPTIONS)]
        agent = [sys.executable, "-u", "-m", "cl.distributed.agent"]
        line = f"cd {shlex.quote(str(ROOT))} && exec {shlex.join(agent)}"
        try:
            self.process = subprocess.Popen(
                [*ssh, host.name, line], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                preexec_fn=prepare_child,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise ValueError(
                f"launcher.hosts needs ssh to reach {host.name}, and there is no {ssh[0]} here: install it, set {SSH} "
                "to the command that does its work, or start the ranks by torchrun or srun on each host"
            ) from error
        self.error_reader = threading.Thread(target=self._read_errors, daemon=True)
        self.error_reader.start()  # first, as the other waits for its end, and ssh may end at once
        threading.Thread(target=self._read, daemon=True).start()

    def wait_for_hello(self, deadline: float, stop: Callable[[], bool] = lambda: False) -> Host:
        """The host with its address; as it was once `stop()` is true.

        Raises Unreachable when the clock `time.monotonic` says `deadline`.
        """
        while not self.greeted.wait(max(0.0, min(LOOK_SECONDS, deadline - time.monotonic()))):
            if stop():
                return self.host
            if time.monotonic() >= deadline:
                break
        if self.hello is None:
            reason = self._reason("no answer from ssh in time")
            self.close()
            raise Unreachable(f"{self.host.name} cannot be reached ({reason})")
        address = self.host.address or self.hello["address"]
        if address is None:
            self.close()
            raise Unreachable(f"{self.host.name} cannot be reached (its name has no address here: give the address)")
        return replace(self.host, address=address)

    def start(
        self, command: list[str], folder: str, environment: Mapping[str, str], ranks: Mapping[int, Mapping[str, str]],
        timeout: float, peer: str,
    ) -> None:  # fmt: skip
        """Start ranks there; `environment` goes to all of them, `peer` is the address of another host of the run."""
        self.running = set(ranks)
        self._send(
            command=command, folder=folder, environment=environment, ranks=ranks, timeout=timeout, peer=peer
        )  # fmt: skip

    def send(self, number: int) -> None:
        """Send a signal to every rank there."""
        self._send(signal=number)

    def beat(self) -> None:
        """Say that the launcher is there."""
        self._send(beat=1)

    def kill(self) -> None:
        """End all ranks there: the agent kills them when its input ends."""
        try:
            self.process.stdin.close()
        except OSError:  # the pipe is broken already
            pass

    def close(self, patience: float = 5.0) -> None:
        """Leave nothing here, and nothing there: an agent has `patience` seconds to end its ranks."""
        self.kill()
        try:
            self.process.wait(patience if self.hello is not None else 0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _send(self, **words) -> None:
        try:
            self.process.stdin.write(json.dumps(words).encode() + b"\n")
            self.process.stdin.flush()
        except (OSError, ValueError):  # the host is gone, which the end of its output tells, or it was closed
            pass

    def _read(self) -> None:
        for line in self.process.stdout:
            try:
                words = json.loads(line)
                event = words["event"]
            except (ValueError, TypeError, KeyError):  # what the login there prints
                continue
            if event == "hello":
                self.hello = words
                self.greeted.set()
            elif event == "failed":
                self.running.clear()
                self.tell("failed", self, words["content"])
            elif event != "beat":
                if event == "ended":
                    self.running.discard(words["rank"])
                self.tell(event, words["rank"], words["content"])
            self.tell("heard", self, None)
        self.process.wait()
        self.error_reader.join(5)
        self.greeted.set()
        if self.running:
            self.tell("lost", self, self._reason(f"ssh ended with status {self.process.returncode}"))

    def _read_errors(self) -> None:
        for line in self.process.stderr:
            text = line.decode(errors="replace").strip()
            self.said = [*self.said[-4:], text] if text else self.said

    def _reason(self, otherwise: str) -> str:
        return self.said[-1] if self.said else otherwise
