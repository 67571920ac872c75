"""Every rank tells every other that it is alive, so that those who wait can say for whom.

A thread in each rank sends a heartbeat to all others about once a second: how many exchanges its main thread has
entered, and where it waits. The main thread only writes attributes (`Waits`). A rank whose wait is over the limit makes
the verdict (`cl.distributed.verdict`) and sends it to all; the lowest living rank prints it, and all end with 75.

Time in which this process did not run (it was stopped, or its machine slept) counts for nobody.
"""

import contextlib
import os
import selectors
import socket
import struct
import sys
import threading
import time

from cl.distributed import reports
from cl.distributed.encoding import decode, encode
from cl.distributed.verdict import State, describe_ended, describe_silent, verdict

LENGTH = struct.Struct("<H")
MOST_BYTES = 1 << 15  # of a message
MOST_UNSENT = 1 << 16  # bytes that a rank which does not read is sent later
LAST_WORDS = 0.3  # seconds between a verdict and the end, so that it reaches all before an engine sees anybody end
KNOWLEDGE_SECONDS = 1.5  # how long `lost` waits until it is known who is gone


class Waits:
    """Where the main thread of this rank waits for others: a few attributes that it writes and the watch reads.

    `entered`: exchanges so far. `received`: draws of replayed records so far. `place`: the name of the wait it is in.
    `pending`: whether the exchange goes on after the call, as on a GPU; then the place stays until the next one.
    """

    __slots__ = ("entered", "pending", "place", "received")

    def __init__(self) -> None:
        self.entered = self.received = 0
        self.place: str | None = None
        self.pending = False


class Exchange:
    """A context for an exchange of one kind, entered any number of times."""

    __slots__ = ("name", "waits")

    def __init__(self, waits: Waits, name: str):
        self.waits, self.name = waits, name

    def __enter__(self) -> None:
        waits = self.waits
        waits.entered += 1
        waits.pending = False
        waits.place = self.name

    def __exit__(self, *error) -> None:
        if not self.waits.pending:
            self.waits.place = None


class Peer:
    """Another rank: its connection, and what it has told."""

    def __init__(self, state: State, link: socket.socket):
        self.state, self.link = state, link
        self.heard = time.monotonic()
        self.ended_at = 0.0
        self.received, self.unsent = bytearray(), bytearray()
        link.setblocking(False)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, message: bytes) -> None:
        """Send what the connection takes, and the rest later."""
        self.unsent += message
        try:
            del self.unsent[: self.link.send(self.unsent)]
        except BlockingIOError:
            pass

    def messages(self) -> list[list]:
        """What has come since the last call; raises EOFError when the other has closed, ValueError for damage."""
        found = []
        try:
            part = self.link.recv(1 << 16)
        except BlockingIOError:
            return found
        if not part:
            raise EOFError
        self.received += part
        while len(self.received) >= LENGTH.size:
            (size,) = LENGTH.unpack_from(self.received)
            if size > MOST_BYTES:
                raise ValueError(f"a message of {size} bytes")
            if len(self.received) < LENGTH.size + size:
                break
            found.append(decode(self.received[LENGTH.size : LENGTH.size + size]))
            del self.received[: LENGTH.size + size]
        return found


class Watch:
    """The heartbeats of one rank; `links`: a connection to each other rank, `names`: host and process of all.

    `close` ends it.
    """

    def __init__(
        self, rank: int, waits: Waits, timeout: float, links: dict[int, socket.socket], names: list[tuple[str, int]]
    ):
        self.waits, self.timeout = waits, timeout
        self.own = State(rank, *names[rank])
        self.peers = {other: Peer(State(other, *names[other]), link) for other, link in sorted(links.items())}
        self.beat = min(1.0, timeout / 10)
        self._wait, self._since, self._last_look = None, 0.0, time.monotonic()
        self._closing = self._ending = False
        self._selector = selectors.DefaultSelector()
        self._wake, woken = socket.socketpair()
        self._selector.register(woken, selectors.EVENT_READ, woken)
        for peer in self.peers.values():
            self._selector.register(peer.link, selectors.EVENT_READ, peer)
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Tell the others that this rank leaves, and stop; a second call does nothing."""
        if not self._closing:
            self._closing = True
            self._wake.send(b"x")
            self._thread.join(timeout=5)

    def lost(self) -> str | None:
        """After an error of the engine: which rank is gone or silent, in words, or None if none is known to be.

        Takes up to KNOWLEDGE_SECONDS.
        """
        deadline = time.monotonic() + KNOWLEDGE_SECONDS
        while not (ended := self._ended()) and time.monotonic() < deadline:
            time.sleep(0.02)
        if ended:
            return describe_ended([min(ended, key=lambda peer: peer.ended_at).state])
        silent = [peer.state for peer in self.peers.values() if peer.state.is_silent(self.timeout)]
        return describe_silent(silent) if silent else None

    def _ended(self) -> list[Peer]:
        return [peer for peer in self.peers.values() if peer.state.ended]

    def _run(self) -> None:
        due = time.monotonic()
        while not self._closing:
            for key, _ in self._selector.select(max(0.0, due - time.monotonic())):
                if isinstance(key.data, Peer):
                    self._read(key.data)
            now = time.monotonic()
            if now >= due:
                self._look(now)
                self._send(["beat", self.own.entered, self.own.place, self.own.waited])
                line = verdict(self.own, [peer.state for peer in self.peers.values()], self.timeout)
                if line is not None:
                    self._decide(line)
                due = now + self.beat
        self._send(["left"])
        for peer in self.peers.values():
            peer.link.close()

    def _look(self, now: float) -> None:
        """What is known of this rank and the others now."""
        asleep = now - self._last_look - max(1.0, 2 * self.beat)
        self._last_look = now
        waits, own = self.waits, self.own
        # Read once: the main thread goes on meanwhile.
        place = waits.place
        wait = waits.entered, waits.received, place
        if wait != self._wait:
            self._wait, self._since = wait, now
        if asleep > 0:
            self._since = now
        own.entered, own.place, own.waited = wait[0], place, 0.0 if place is None else now - self._since
        for peer in self.peers.values():
            if asleep > 0:
                peer.heard = now
            peer.state.silent = now - peer.heard

    def _read(self, peer: Peer) -> None:
        try:
            messages = peer.messages()
            for message in messages:
                self._take(peer, *message)
        except (EOFError, OSError) as error:
            reason = "" if isinstance(error, EOFError) else f" ({error.strerror})"
            self._end_of(peer, f"is gone: its connection has closed without a word{reason}")
        except (ValueError, TypeError):  # then it will be silent
            self._selector.unregister(peer.link)

    def _take(self, peer: Peer, kind: str, *content) -> None:
        if kind == "beat":
            peer.state.entered, peer.state.place, peer.state.waited = content
            peer.heard = time.monotonic()
        elif kind == "left":
            self._end_of(peer, "has left the others")
        elif kind == "verdict":
            line, speaker = content
            self._end(line, speaker == self.own.rank)
        else:
            raise ValueError(kind)

    def _end_of(self, peer: Peer, how: str) -> None:
        if not peer.state.ended:
            peer.state.ended, peer.ended_at = how, time.monotonic()
            self._selector.unregister(peer.link)

    def _send(self, message: list) -> None:
        data = encode(message)
        data = LENGTH.pack(len(data)) + data
        for peer in self.peers.values():
            if peer.state.ended or (len(peer.unsent) > MOST_UNSENT and message[0] == "beat"):
                continue
            with contextlib.suppress(OSError):  # `_read` learns of it too, and says what it is
                peer.send(data)

    def _decide(self, line: str) -> None:
        """Tell all ranks that they end, and end."""
        line += (
            f"; all ranks end, and the same command goes on from the last checkpoint (timeout={self.timeout:g} is how "
            "long ranks wait)"
        )
        living = [
            p.state.rank for p in self.peers.values() if not p.state.ended and not p.state.is_silent(self.timeout)
        ]
        speaker = min([self.own.rank, *living])
        self._send(["verdict", line[: MOST_BYTES // 8], speaker])
        self._end(line, speaker == self.own.rank or not self._ends(self.peers[speaker]))

    def _ends(self, speaker: Peer) -> bool:
        """Whether the rank that is to print the verdict has taken it: it ends soon, unless it was stopped just now."""
        deadline = time.monotonic() + KNOWLEDGE_SECONDS
        while time.monotonic() < deadline:
            try:
                speaker.messages()
            except (EOFError, OSError):
                return True
            time.sleep(0.02)
        return False

    def _end(self, line: str, speaks: bool) -> None:
        try:
            # Nobody may read what is written, and a main thread that is stuck in writing holds the lock of the stream.
            for work in [lambda: say(self.own.rank, line)] * speaks + [sys.stdout.flush]:
                writing = threading.Thread(target=work, daemon=True)
                writing.start()
                writing.join(LAST_WORDS)
            time.sleep(LAST_WORDS)
        finally:
            os._exit(reports.LOST)


def say(rank: int, line: str) -> None:
    """Tell the launcher the last line of a rank, or print it."""
    if reports.is_read():
        reports.tell("error", line=line, trace="", lost=True)
    else:
        reports.say(rank, line)
