"""Starts ranks on another host for the launcher, which runs this by ssh: python -m cl.distributed.agent

Everything comes as lines of JSON through the standard input, and nothing but paths is on a command line: others can
read those. The first line says what to start; then `{"signal": number}` is sent on to the ranks, and `{"beat": 1}` says
that the launcher is there. Answers are lines of JSON on the standard output: `hello`, then the events of
`cl.distributed.processes`.

All ranks are killed, stopped ones too, when the input ends, when nothing has come for `timeout` seconds, and when this
process is asked to end. So whatever happens to the launcher or to the network, no process is left on this host.
"""

import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping

from cl.distributed import network, ranks
from cl.distributed.processes import Processes

BEAT_SECONDS = 1.0
START_SECONDS = 300.0  # after hello, until the launcher has reached the other hosts


def environment_of(own: Mapping[str, str], sent: Mapping[str, str], words: Mapping[str, str]) -> dict[str, str]:
    """The environment of a rank: this host's, what the launcher sent over it, and the words of the rank itself."""
    kept = {name: value for name, value in own.items() if name not in ranks.FOREIGN}
    return {**kept, **sent, **words}


class Agent:
    """The ranks of one launcher on this host; `heard` is when the launcher was heard last."""

    def __init__(self):
        self.lines: queue.SimpleQueue = queue.SimpleQueue()
        self.processes = Processes(lambda *event: self.lines.put(event), piped=True, death=signal.SIGKILL)
        self.timeout, self.heard = START_SECONDS, time.monotonic()

    def serve(self) -> None:
        """Until all ranks have ended."""
        # In threads of their own: this one may wait at an output that nobody reads.
        for work in (self._read, self._watch):
            threading.Thread(target=work, daemon=True).start()
        _say(event="hello", port=network.free_port(), address=_address())
        left = None
        while left is None or left:
            try:
                event, *rest = self.lines.get(timeout=BEAT_SECONDS)
            except queue.Empty:
                _say(event="beat")
                continue
            if event != "line":
                rank, content = rest
                _say(event=event, rank=rank, content=content)
                if event == "ended":
                    left.discard(rank)
            elif "ranks" in rest[0]:
                left = {int(rank) for rank in rest[0]["ranks"]}
                _start(rest[0], self.processes)
            elif "signal" in rest[0]:
                self.processes.send(rest[0]["signal"])

    def end(self, status: int) -> None:
        """End this process and all ranks."""
        self.processes.kill()
        os._exit(status)

    def _read(self) -> None:
        try:
            for line in sys.stdin:
                words, self.heard = json.loads(line), time.monotonic()
                self.timeout = words.get("timeout", self.timeout)
                self.lines.put(("line", words))
        finally:
            self.end(1)

    def _watch(self) -> None:
        while time.monotonic() - self.heard < self.timeout:
            time.sleep(BEAT_SECONDS)
        self.end(1)


def main() -> None:
    agent = Agent()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda number, frame: agent.end(128 + number))
    try:
        agent.serve()
    except (OSError, ValueError) as error:
        _say(event="failed", content=" ".join(str(error).split()))
    agent.end(0)


def _start(words: dict, processes: Processes) -> None:
    sent = dict(words["environment"])
    if words.get("peer") and "GLOO_SOCKET_IFNAME" not in sent:
        sent["GLOO_SOCKET_IFNAME"] = network.interface_towards(words["peer"])
    if "GLOO_SOCKET_IFNAME" in sent:
        sent.setdefault("HOROVOD_GLOO_IFACE", sent["GLOO_SOCKET_IFNAME"])
    environments = {int(rank): environment_of(os.environ, sent, own) for rank, own in words["ranks"].items()}
    processes.start(words["command"], environments, words["folder"])


def _address() -> str | None:
    """This host's address as the launcher reaches it, from what sshd says of the connection."""
    words = os.environ.get("SSH_CONNECTION", "").split()
    return words[2] if len(words) == 4 else None


def _say(**words) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
