"""One TCP connection between every two ranks, whose ends prove to each other that they know the run's token.

The rank with the higher number calls. The other answers with a nonce; the caller sends its rank, a nonce of its own and
an HMAC-SHA256 over both, and gets one back. A connection that does not is dropped and counted. Ranks listen only until
all have met, so no stranger reaches them later.
"""

import hmac
import ipaddress
import os
import secrets
import selectors
import socket
import struct
import time

from cl.distributed import network

LOOPBACK = "127.0.0.1"
NONCE, PROOF = 16, 32  # bytes
HELLO = struct.Struct(f"<I{NONCE}s{PROOF}s")  # rank, nonce and proof of the caller
MOST_PENDING = 64  # connections that have not proved anything yet; one more drops the oldest
ATTEMPT = 1.0  # seconds for one try to connect; where a queue is full, a new try is faster than the system's next
PAUSE = 0.05  # seconds between two calls of a rank that does not answer


def own_address(hosts: list[str]) -> str:
    """An address of this machine at which others reach it, found by the routes to them; nothing is sent.

    `hosts`: names of other machines. Raises ConnectionError if there is none.
    """
    given = [os.environ[name] for name in ("HOROVOD_GLOO_RENDEZVOUS_ADDR", "MASTER_ADDR") if name in os.environ]
    for host in (*given, *hosts):
        try:
            address = network.own_address_towards(network.address_of(host))
        except OSError:  # an unknown name, or no route: perhaps the next has one
            continue
        if not ipaddress.ip_address(address).is_loopback:
            return address
    raise ConnectionError(
        f"no address of this machine ({socket.gethostname()}) leads to other ranks: there is no route to any of "
        f"{', '.join((*given, *hosts))}; set MASTER_ADDR to an address of the first machine"
    )


def listen(address: str) -> socket.socket:
    """A listening socket at one address of this machine, at a port that is free."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family, backlog=MOST_PENDING)


def meet(
    listener: socket.socket, addresses: list[tuple[str, int]], rank: int, token: bytes, timeout: float
) -> tuple[dict[int, socket.socket], int]:
    """Connections to all other ranks by their number, and how many strangers were dropped; closes the listener.

    `addresses`: where each rank listens. Raises ConnectionError that names a rank not met in `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    met: dict[int, socket.socket] = {}
    with listener:
        for other in range(rank):
            met[other] = _call(addresses[other], rank, other, token, deadline)
        answered, strangers = _answer(listener, set(range(rank + 1, len(addresses))), rank, token, deadline)
    return met | answered, strangers


def _call(address: tuple[str, int], rank: int, other: int, token: bytes, deadline: float) -> socket.socket:
    reason = "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            link = socket.create_connection(address, timeout=min(left, ATTEMPT))
        except OSError as error:  # a flood of strangers fills the queue
            reason = str(error)
            time.sleep(PAUSE)
            continue
        try:
            link.settimeout(left)  # the other may still be calling others
            nonce, own = _exactly(link, NONCE), secrets.token_bytes(NONCE)
            link.sendall(HELLO.pack(rank, own, _proof(token, b"caller", rank, other, nonce, own)))
            answer = _exactly(link, PROOF)
            if hmac.compare_digest(answer, _proof(token, b"answer", rank, other, nonce, own)):
                return link
            reason = "what answers does not know the token of this run"
        except OSError as error:
            reason = str(error)
        link.close()
        time.sleep(PAUSE)
    raise ConnectionError(f"rank {other} cannot be reached at {address[0]} port {address[1]}: {reason}")


def _answer(
    listener: socket.socket, expected: set[int], rank: int, token: bytes, deadline: float
) -> tuple[dict[int, socket.socket], int]:
    met: dict[int, socket.socket] = {}
    pending: dict[socket.socket, tuple[bytes, bytearray]] = {}  # nonce, and what has come; the oldest first
    strangers = 0
    listener.setblocking(False)
    with selectors.DefaultSelector() as selector:

        def drop(link: socket.socket) -> None:
            nonlocal strangers
            strangers += 1
            selector.unregister(link)
            del pending[link]
            link.close()

        selector.register(listener, selectors.EVENT_READ)
        while missing := expected - met.keys():
            left = deadline - time.monotonic()
            if left <= 0:
                raise ConnectionError(f"rank {min(missing)} has not connected to rank {rank}")
            for key, _ in selector.select(left):
                link = key.fileobj
                if link is listener:
                    if (link := _accepted(listener)) is not None:
                        nonce = secrets.token_bytes(NONCE)
                        pending[link] = nonce, bytearray()
                        selector.register(link, selectors.EVENT_READ)
                        if not _sent(link, nonce):
                            drop(link)
                        if len(pending) > MOST_PENDING:
                            drop(next(iter(pending)))
                    continue
                if link not in pending:  # dropped in this round
                    continue
                nonce, data = pending[link]
                received = _received(link, HELLO.size - len(data))
                data += received or b""
                if received == b"" or len(data) > HELLO.size:
                    drop(link)
                if received is None or len(data) < HELLO.size or link not in pending:
                    continue
                other, own, proof = HELLO.unpack(data)
                known = hmac.compare_digest(proof, _proof(token, b"caller", other, rank, nonce, own))
                answer = _proof(token, b"answer", other, rank, nonce, own)
                if not known or other not in missing or not _sent(link, answer):
                    drop(link)
                    continue
                selector.unregister(link)
                del pending[link]
                met[other] = link
                missing.discard(other)
        for link in list(pending):
            drop(link)
    return met, strangers


def _proof(token: bytes, side: bytes, caller: int, answerer: int, nonce: bytes, own: bytes) -> bytes:
    return hmac.digest(token, side + struct.pack("<II", caller, answerer) + nonce + own, "sha256")


def _exactly(link: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = link.recv(size - len(data))
        if not part:
            raise ConnectionError("it has closed the connection")
        data += part
    return data


def _accepted(listener: socket.socket) -> socket.socket | None:
    try:
        link, _ = listener.accept()
    except OSError:  # it was there, and is gone, or this process has too many files open for now
        return None
    link.setblocking(False)
    return link


def _sent(link: socket.socket, data: bytes) -> bool:
    """Whether a few bytes, the first or second that are sent, went out at once, as they do unless the other is gone."""
    try:
        return link.send(data) == len(data)
    except OSError:
        return False


def _received(link: socket.socket, most: int) -> bytes | None:
    """What has come; empty if the other has closed, None for nothing yet."""
    try:
        return link.recv(most)
    except BlockingIOError:
        return None
    except OSError:
        return b""
