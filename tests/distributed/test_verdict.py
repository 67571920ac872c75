"""Whose fault a wait is, as a function of what the ranks have told; and what is not counted as time."""

import socket
import time

import pytest

from cl.distributed import watch as watching
from cl.distributed.verdict import REPLAY, State, verdict
from cl.distributed.watch import Exchange, Waits, Watch


def state(rank, entered=5, place="sums", waited=20.0, **more):
    return State(rank, f"host{rank}", 100 + rank, entered, place, waited, **more)


# A thread of these tests ends by SystemExit where a rank would end.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.mark.parametrize(
    "own, others, line",
    [
        # nothing to say: it does not wait, or not long enough, or the engine has to know
        (state(0, place=None), [state(1, silent=99.0)], None),
        (state(0, waited=19.9), [state(1, silent=19.9)], None),
        (state(0), [state(1), state(2)], None),
        (state(0, place=REPLAY), [state(1, entered=3)], None),
        (state(0, waited=2.9), [state(1, ended="is gone")], None),
        (state(0), [state(1, entered=6, place=None)], None),
        # silent ones before late ones, which may wait for those
        (state(0), [state(1, silent=20.0)],
         "rank 1 (host host1, process 101) has been silent for 20 s; rank 0 waits for it in exchange 5 (sums)"),
        (state(1), [state(0, silent=30.4), state(2, place=None, entered=4), state(3)],
         "rank 0 (host host0, process 100) has been silent for 30 s; ranks 1, 3 wait for it in exchange 5 (sums)"),
        (state(2), [state(0, silent=20.0), state(1, silent=12.0)],
         "rank 0 (host host0, process 100) and rank 1 (host host1, process 101) have been silent for 12 s; "
         "rank 2 waits for them in exchange 5 (sums)"),
        (state(0, place=REPLAY), [state(1, silent=20.0), state(2)],
         "rank 1 (host host1, process 101) has been silent for 20 s; rank 0 waits for it in the replay buffer, "
         "rank 2 in exchange 5 (sums)"),
        # late ones: those that compute before those that wait elsewhere
        (state(0), [state(1, entered=4, place=None), state(2, entered=4, place=REPLAY), state(3)],
         "rank 1 (host host1, process 101) is alive but 20 s late, the last exchange was 4; "
         "ranks 0, 3 wait for it in exchange 5 (sums), rank 2 in the replay buffer"),
        (state(0), [state(1, entered=4, place=REPLAY)],
         "rank 1 (host host1, process 101) is alive but 20 s late, it waits in the replay buffer; "
         "rank 0 waits for it in exchange 5 (sums)"),
        # nobody is silent or late, and the engine has had its time
        (state(0, waited=50.0), [state(1)], "all ranks wait in exchange 5 (sums), for 50 s by now, and none is silent"),
        (state(0, waited=50.0), [state(1), state(2, entered=6, place=None)],
         "rank 0 (host host0, process 100) waits in exchange 5 (sums) for 50 s, which the others have left"),
        # those that are gone: at once
        (state(0, waited=3.0), [state(1, ended="is gone"), state(2, ended="has left")],
         "rank 1 (host host1, process 101) is gone and rank 2 (host host2, process 102) has left; "
         "rank 0 waits for them in exchange 5 (sums)"),
    ],
)  # fmt: skip
def test_the_verdict(own, others, line):
    assert verdict(own, others, 20.0) == line


@pytest.fixture
def pair(monkeypatch):
    """Two watches of one process that are connected; what they would have printed and how they would have ended."""
    said, ended = [], []
    monkeypatch.setattr(watching, "say", lambda rank, line: said.append((rank, line)))

    def end(status):
        ended.append(status)
        raise SystemExit

    monkeypatch.setattr(watching.os, "_exit", end)
    monkeypatch.setattr(watching.os, "dup2", lambda *_: None)
    made = []

    def make(timeout: float):
        one, other = socket.socketpair()
        names = [("a", 1), ("b", 2)]
        monkeypatch.setattr(watching.socket.socket, "setsockopt", lambda *_: None)  # these are no TCP connections
        for rank, link in ((0, one), (1, other)):
            waits = Waits()
            made.append((Watch(rank, waits, timeout, {1 - rank: link}, names), waits))
        return [*made, said, ended]

    yield make
    for watch, _ in made:
        watch.close()


def until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_rank_that_stays_away_ends_both_with_one_line(pair):
    (_, waits), _, said, ended = pair(0.5)
    with Exchange(waits, "sums"):
        until(lambda: len(ended) == 2)
    assert ended == [75, 75] and [rank for rank, _ in said] == [0]
    assert said[0][1].startswith("rank 1 (host b, process 2) is alive but ")
    assert "the same command goes on from the last checkpoint (timeout=0.5 is how long ranks wait)" in said[0][1]


def test_short_waits_one_after_another_are_no_long_wait(pair):
    (_, waits), (_, others), said, ended = pair(0.4)
    begin = time.monotonic()
    while time.monotonic() - begin < 1.2:
        with Exchange(waits, "sums"):
            time.sleep(0.02)
        others.entered += 1
        waits.received += 1
        waits.place = REPLAY
        time.sleep(0.02)
        waits.place = None
    assert said == ended == []


def test_time_in_which_the_process_did_not_run_counts_for_nobody(pair, monkeypatch):
    (watch, waits), *_, said, ended = pair(3.0)
    with Exchange(waits, "sums"):
        until(lambda: watch.own.waited > 0.3)
        clock, began = time.monotonic, time.monotonic()
        monkeypatch.setattr(watching.time, "monotonic", lambda: clock() + 100)  # as after a long stop
        until(lambda: watch._last_look > began + 100)
        assert watch.own.waited < 3 and all(peer.state.silent < 3 for peer in watch.peers.values())
        time.sleep(0.1)
    assert said == ended == []


def test_a_closed_watch_is_no_loss_until_somebody_waits(pair):
    (watch, waits), (other, _), said, ended = pair(0.5)
    assert watch.lost() is None
    other.close()
    assert watch.lost() == "rank 1 (host b, process 2) has left the others"
    time.sleep(0.8)
    assert said == ended == []
    with Exchange(waits, "sums"):
        until(lambda: ended)
    assert said[0][1].startswith(
        "rank 1 (host b, process 2) has left the others; rank 0 waits for it in exchange 1 (sums)"
    )


def test_a_connection_that_closes_without_a_word_is_a_rank_that_is_gone(pair):
    (watch, _), (other, _), *_ = pair(0.5)
    for peer in other.peers.values():
        peer.link.shutdown(socket.SHUT_RDWR)
    assert watch.lost() == "rank 1 (host b, process 2) is gone: its connection has closed without a word"


@pytest.mark.parametrize("data", [b"\xff\xff", b"\x01\x00Z", b"\x01\x00N", b"\x00\x00"])
def test_damage_ends_no_watch(pair, data):
    (watch, waits), (other, _), said, ended = pair(0.6)
    next(iter(other.peers.values())).link.send(data)
    with Exchange(waits, "sums"):
        until(lambda: ended)
    assert said[0][1].startswith("rank 1 (host b, process 2) has been silent for")


def test_exchanges_are_counted_and_left_also_by_errors():
    waits = Waits()
    exchange = Exchange(waits, "sums")
    with pytest.raises(KeyError), exchange:
        assert (waits.entered, waits.place) == (1, "sums")
        raise KeyError
    assert (waits.entered, waits.place) == (1, None)
    with exchange:
        waits.pending = True
    assert waits.place == "sums"  # on a GPU the exchange goes on
