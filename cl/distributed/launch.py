"""Starts a job again as several ranks on this machine and others, waits for them, and ends them together.

Each rank runs the same command with `launcher=none` and finds its engine in the environment. Ranks on this machine are
started here, those on other hosts by an agent there (`cl.distributed.agent`). horovodrun would put the whole
environment, secret keys included, on command lines that every user can read.
"""

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Sequence

from cl.distributed import environments, network
from cl.distributed.failures import Ending, RanksFailed, numbers
from cl.distributed.hosts import Host, Place, hosts_of, places
from cl.distributed.processes import Processes
from cl.distributed.remote import Remote, Unreachable
from cl.distributed.reports import LOST
from cl.signals import SAME, SIGNALS, Stopped

GRACE_SECONDS = 20  # after one rank has failed, the time for the others to report their errors
LOST_SECONDS = 5  # the same after one that has lost another: all others have waited as long as it has
UNMET_SECONDS = 3  # after a signal and the end of one rank, for those that have not connected: nothing is to be saved
HELLO_SECONDS = 30  # for ssh and an agent to start
CONNECT_SECONDS = 60  # after `timeout`, within which the engine itself should have given up to connect
TICK_SECONDS = 1.0  # between two signs of life for the agents
WAIT_SECONDS = 300.0  # for ranks that were asked to stop, where the caller gives no timeout


def start_ranks(
    launcher: dict, overrides: list[str], timeout: float | None = None, program: Sequence[str] | None = None
) -> None:
    """Run Python on `program` with these overrides as `launcher.np` ranks; lost ranks again, `launcher.retries` times.

    `program`: None: the script of this process. `timeout`: seconds in which ranks have to begin to connect, and to end
    when they are asked to; None: ranks that connect whenever they like. Raises ValueError for contradicting options,
    RanksFailed, whose message names what failed first, and Stopped after a signal, which the ranks were sent too.
    """
    ranks, retries = launcher["np"], launcher.get("retries", 0)
    if not isinstance(ranks, int) or ranks < 1:
        raise ValueError(f"launcher.np must be a whole number of at least 1, got {ranks}")
    hosts = hosts_of(launcher)
    places(hosts, ranks)
    command = [sys.executable, *(program or [sys.argv[0]]), *overrides, "launcher=none"]
    with Signals() as signals:
        for attempt in range(1, retries + 2):
            if signals.taken:
                raise Stopped(signals.taken[0], "")
            team = Team(launcher["name"], command, timeout, signals)
            ending = team.run(hosts, ranks)
            if signals.taken:
                for who, line, _ in ending.error().errors:
                    print(f"{who}error: {line}", file=sys.stderr)
                raise Stopped(signals.taken[0], team.unwilling)
            if not ending.failed:
                return
            if (number := ending.signal) is not None:  # one rank has got it, and all have saved and ended
                raise Stopped(number, "")
            hosts = [host for host in team.hosts if host.name not in ending.lost_hosts]
            if attempt > retries or not ending.is_loss:
                raise ending.error()
            if (slots := sum(host.slots for host in hosts)) < ranks:
                message = f"{ending.cause()}, and the other hosts have {slots} slots for {ranks} ranks"
                raise RanksFailed(message, [], is_loss=True)
            print(
                f"{ending.cause()}: all ranks start again from the last checkpoint (try {attempt + 1} of "
                f"{retries + 1})",
                file=sys.stderr,
                flush=True,
            )


class Signals:
    """A context in which signals to stop are collected in `taken` and put into the queue that `tell` is set to."""

    def __init__(self):
        self.taken: list[int] = []
        self.taken_at = 0.0
        self.tell = lambda event: None
        self.before: dict = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._take) for number in SIGNALS}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame) -> None:
        now = time.monotonic()
        if self.taken and now - self.taken_at <= SAME:
            return
        self.taken_at = now
        self.taken.append(number)
        self.tell(("signal", number, None))


class Team:
    """One start of all ranks."""

    def __init__(self, name: str, command: list[str], timeout: float | None, signals: Signals):
        self.name, self.command, self.timeout, self.signals = name, command, timeout, signals
        self.events: queue.SimpleQueue = queue.SimpleQueue()
        signals.tell = self.events.put  # may be called in the middle of `get`
        self.local = Processes(self._tell, piped=False, death=signal.SIGTERM)
        self.remotes: dict[str, Remote] = {}
        self.heard: dict[str, float] = {}
        self.beat = 0.0  # when the agents hear of this process next
        self.hosts: list[Host] = []
        self.unwilling = ""  # what is said of ranks that did not stop when they were asked to

    def _tell(self, *event) -> None:
        self.events.put(event)

    def run(self, hosts: list[Host], ranks: int) -> Ending:
        """Start the ranks, and wait for all of them."""
        try:
            where = self._reach(hosts, ranks)
            if self.signals.taken:
                return Ending(ranks)
            port = None
            if self.remotes:
                first = where[0].host
                port = network.free_port() if first.here else self.remotes[first.name].hello["port"]
            with environments.of_ranks(self.name, where, port) as words:
                if self.signals.taken:
                    return Ending(ranks)
                self._start(where, words)
                return self._wait(where)
        finally:
            self._end()

    def _reach(self, hosts: list[Host], ranks: int) -> list[Place]:
        """The places of the ranks on hosts that can be reached, with their addresses."""
        self.hosts = list(hosts)
        while True:
            where = places(self.hosts, ranks)
            new = [host for host in _used(where) if not host.here and host.name not in self.remotes]
            self.remotes |= {host.name: Remote(host, self._tell) for host in new}
            deadline, gone = time.monotonic() + HELLO_SECONDS, []
            for host in new:
                try:
                    found = self.remotes[host.name].wait_for_hello(deadline, lambda: bool(self.signals.taken))
                    self.hosts[self.hosts.index(host)] = found
                except Unreachable as error:
                    gone.append(error)
                    self.hosts.remove(host)
                    del self.remotes[host.name]
            if self.signals.taken:
                return []
            if not gone:
                break
            reason, left = "; ".join(map(str, gone)), ", ".join(f"{host.name}:{host.slots}" for host in self.hosts)
            if sum(host.slots for host in self.hosts) < ranks:
                raise OSError(f"{reason}; {f'{left} has' if left else 'there are'} too few slots for {ranks} ranks")
            print(f"{reason}: going on with {left}", file=sys.stderr, flush=True)
        where = places(self.hosts, ranks)
        away = [host for host in _used(where) if not host.here]
        if away:  # others see this machine under the address with which it reaches them
            own = network.own_address_towards(away[0].address)
            own_hosts = {host: Host(host.name, host.slots, own) for host in self.hosts if host.here}
            where = places([own_hosts.get(host, host) for host in self.hosts], ranks)
        return where

    def _start(self, where: list[Place], words: list[dict[str, str]]) -> None:
        used = _used(where)
        for host in used:
            own = {place.rank: words[place.rank] for place in where if place.host == host}
            peer = next((other.address for other in used if other != host), None)
            if host.here:
                base = environments.here()
                if peer is not None:
                    base.setdefault("GLOO_SOCKET_IFNAME", network.interface_towards(peer))
                    base.setdefault("HOROVOD_GLOO_IFACE", base["GLOO_SOCKET_IFNAME"])
                self.local.start(self.command, {rank: base | more for rank, more in own.items()})
            else:
                self.heard[host.name] = time.monotonic()
                peer = peer or network.own_address_towards(host.address)
                self.remotes[host.name].start(
                    self.command, os.getcwd(), environments.elsewhere(), own, self.timeout or WAIT_SECONDS, peer
                )

    def _wait(self, where: list[Place]) -> Ending:
        """Until all ranks have ended, or have had their time."""
        ending, began = Ending(len(where)), time.monotonic()
        running, came, connected = {place.rank for place in where}, set(), set()
        deadline = asked = None
        while running:
            event, who, content = self._next(deadline)
            now = time.monotonic()
            if event == "report":
                {"arrived": came, "connected": connected}.get(content["kind"], set()).add(who)
                if content["kind"] == "error":
                    ending.errors.setdefault(who, content)
            elif event == "ended":
                running.discard(who)
                ending.ended[who] = content
            elif event == "output":
                stream = (sys.stdout, sys.stderr)[content[0] - 1]
                stream.write(content[1])
                stream.flush()
            elif event == "signal":
                if asked is not None:
                    break
                asked, deadline = who, now + (self.timeout or WAIT_SECONDS)
                self._send(who)
            elif event in ("heard", "lost", "failed") and self.remotes.get(who.host.name) is not who:
                continue  # a host that was left out at the start
            elif event == "heard":
                self.heard[who.host.name] = now
            elif event == "lost":
                ending.lost_hosts[who.host.name] = content
                running -= who.running
            elif event == "failed":
                ending.unable[who.host.name] = content
                running -= {place.rank for place in where if place.host.name == who.host.name}
            for name, heard in self.heard.items():
                if now - heard > (self.timeout or WAIT_SECONDS) and self.remotes[name].running:
                    ending.lost_hosts.setdefault(name, f"nothing heard for {now - heard:.0f} s")
                    running -= self.remotes[name].running
            if asked is not None and ending.ended and running - connected:
                deadline = min(deadline, now + UNMET_SECONDS)
            if self.timeout is not None and asked is None and not ending.failed:
                ending.late = self._late(now - began, running - came, running - connected, ending.total)
                if ending.late:
                    break
            if ending.failed and deadline is None:
                lost = all(status in (0, LOST) for status in ending.ended.values())
                deadline = now + (LOST_SECONDS if lost else GRACE_SECONDS)
            if deadline is not None and now >= deadline:
                break
        ending.killed = sorted(running)
        if asked is not None and running:
            self.unwilling = f"{numbers(ending.killed)} had to be killed"
        return ending

    def _next(self, deadline: float | None) -> tuple:
        """The next event; None three times when it is time to look at the clock."""
        if time.monotonic() >= self.beat:
            self.beat = time.monotonic() + TICK_SECONDS
            for remote in self.remotes.values():
                remote.beat()
        left = TICK_SECONDS if deadline is None else max(0.0, min(TICK_SECONDS, deadline - time.monotonic()))
        try:
            return self.events.get(timeout=left)
        except queue.Empty:
            return None, None, None

    def _late(self, seconds: float, missing: set[int], unconnected: set[int], total: int) -> str:
        """What is said of ranks that hang before they have met."""
        if seconds > self.timeout and missing:
            return f"{numbers(list(missing))} of {total} did not come within {self.timeout:g} s"
        if seconds > self.timeout + CONNECT_SECONDS and unconnected:
            return f"{numbers(list(unconnected))} of {total} did not connect within {seconds:.0f} s"
        return ""

    def _send(self, number: int) -> None:
        self.local.send(number)
        for remote in self.remotes.values():
            remote.send(number)

    def _end(self) -> None:
        """Leave no process, here and elsewhere."""
        self.local.kill()
        for remote in self.remotes.values():
            remote.kill()
        began, answered = time.monotonic(), [remote for remote in self.remotes.values() if remote.hello is not None]
        while self.local.running or any(remote.process.poll() is None for remote in answered):
            if time.monotonic() - began > (10 if len(self.signals.taken) < 2 else 1):
                break
            time.sleep(0.01)
        for remote in self.remotes.values():
            remote.close(0.0)


def _used(where: list[Place]) -> list[Host]:
    """The hosts of the places, each once, in their order."""
    return list(dict.fromkeys(place.host for place in where))
