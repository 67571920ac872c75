"""Connections between ranks: who does not know the token is dropped and counted, and does no harm."""

import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cl.distributed import links

TOKEN = bytes(range(16))


def meet_all(size: int, tokens=None, before=lambda listeners: None, timeout: float = 10.0):
    """What `links.meet` returns in each of `size` ranks, which are threads."""
    listeners = [links.listen(links.LOOPBACK) for _ in range(size)]
    addresses = [listener.getsockname() for listener in listeners]
    before(addresses)
    tokens = tokens or [TOKEN] * size
    with ThreadPoolExecutor(size) as pool:
        ranks = [
            pool.submit(links.meet, listeners[rank], addresses, rank, tokens[rank], timeout) for rank in range(size)
        ]
        return [rank.result() for rank in ranks], addresses


def close(found) -> None:
    for met, _ in found:
        for link in met.values():
            link.close()


def test_every_rank_has_a_connection_to_every_other():
    found, addresses = meet_all(5)
    for rank, (met, strangers) in enumerate(found):
        assert sorted(met) == [other for other in range(5) if other != rank] and strangers == 0
        for other, link in met.items():
            link.setblocking(True)
            link.sendall(bytes([10 * rank + other]))
    for rank, (met, _) in enumerate(found):
        for other, link in met.items():
            assert link.recv(1) == bytes([10 * other + rank])
    for address in addresses:  # nobody listens any more
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=1)
    close(found)


def test_strangers_are_dropped_and_counted():
    rng, strangers = random.Random(0), []

    def knock(addresses):
        for data in (b"", b"GET / HTTP/1.1\r\n\r\n", rng.randbytes(links.HELLO.size), rng.randbytes(9000)):
            stranger = socket.create_connection(addresses[0])
            stranger.sendall(data)
            strangers.append(stranger)

    found, _ = meet_all(3, before=knock)
    assert [count for _, count in found] == [4, 0, 0]
    for stranger in strangers:
        stranger.settimeout(5)
        try:
            received = b"".join(iter(lambda: stranger.recv(100), b""))  # until it is closed
        except ConnectionResetError:
            received = b""
        assert len(received) <= links.NONCE  # a nonce of this connection, and no proof of anything
        stranger.close()
    close(found)


def test_a_flood_of_strangers_keeps_no_rank_out():
    stop, connected = threading.Event(), []

    def flood(addresses):
        def run():
            while not stop.is_set():
                try:
                    connected.append(socket.create_connection(addresses[0], timeout=1))
                except OSError:
                    time.sleep(0.001)
                if len(connected) > 300:
                    connected.pop(0).close()

        for _ in range(3):
            threading.Thread(target=run, daemon=True).start()
        while len(connected) <= links.MOST_PENDING:  # as many as the system keeps in its queue
            time.sleep(0.001)

    try:
        found, _ = meet_all(3, before=flood, timeout=30.0)
    finally:
        stop.set()
    assert [len(met) for met, _ in found] == [2, 2, 2] and found[0][1] > links.MOST_PENDING
    close(found)


def test_a_recorded_proof_is_worth_nothing():
    """A stranger that repeats what a rank has sent is refused: the nonce is another."""
    recorded = links.HELLO.pack(1, bytes(16), links._proof(TOKEN, b"caller", 1, 0, bytes(16), bytes(16)))

    def repeat(addresses):
        stranger = socket.create_connection(addresses[0])
        stranger.sendall(recorded)

    found, _ = meet_all(2, before=repeat)
    assert found[0][1] == 1
    close(found)


def test_a_rank_with_another_token_is_named():
    with pytest.raises(ConnectionError, match=r"rank [01]"):
        meet_all(2, tokens=[TOKEN, bytes(16)], timeout=0.5)


def test_what_answers_without_the_token_is_refused_by_the_caller():
    with socket.create_server((links.LOOPBACK, 0)) as other:

        def answer():
            link, _ = other.accept()
            link.sendall(bytes(links.NONCE) + bytes(links.PROOF))
            time.sleep(1)

        threading.Thread(target=answer, daemon=True).start()
        listener = links.listen(links.LOOPBACK)
        with pytest.raises(ConnectionError, match="rank 0 cannot be reached at 127.0.0.1 port .*"):
            links.meet(listener, [other.getsockname(), listener.getsockname()], 1, TOKEN, 0.5)


def test_a_rank_that_does_not_come_is_named():
    listener = links.listen(links.LOOPBACK)
    with pytest.raises(ConnectionError, match="rank 1 has not connected to rank 0"):
        links.meet(listener, [listener.getsockname()] * 3, 0, TOKEN, 0.2)


def test_an_own_address_is_one_with_which_others_can_connect(monkeypatch):
    monkeypatch.delenv("HOROVOD_GLOO_RENDEZVOUS_ADDR", raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(
        ConnectionError, match="no address of this machine .* 127.0.0.1, no.such.host.invalid; set MASTER"
    ):
        links.own_address(["no.such.host.invalid"])
    monkeypatch.setattr(links.network, "address_of", lambda name: {"other": "192.0.2.1"}.get(name, name))
    monkeypatch.setattr(links.network, "own_address_towards", {"192.0.2.1": "10.1.2.3", "127.0.0.1": "127.0.0.1"}.get)
    assert links.own_address(["other"]) == "10.1.2.3"
