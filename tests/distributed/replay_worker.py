"""Ranks of test_replay.py: real processes that share a replay memory, without a training engine between them.

    replay_worker.py            starts groups of ranks as its standard input says, so that torch is loaded only once
    replay_worker.py JOB RANK   is one rank of a group, for ranks that need a start of their own

A job is a folder with `job.json`: the number of ranks, what their environment adds, and the scenarios to play. Every
rank plays them one after another and writes what they return to `result_RANK.json`.
"""

import ctypes
import faulthandler
import gc
import hashlib
import json
import os
import pickle
import random
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from functools import cache, partial
from math import prod
from pathlib import Path

import torch

from cl.buffers.base import Field
from cl.buffers.library import PeerError
from cl.buffers.native import NativeBuffer
from cl.distributed.watch import Waits

CLASSES = 6
FIELDS = [
    Field("x", (3, 4, 4), torch.uint8),
    Field("y", (), torch.int64),
    Field("logits", (CLASSES,), torch.float16),
    Field("amplitude", (2, 3), torch.float32),
    Field("id", (), torch.int64),
]
LARGE = [Field("x", (3, 64, 64), torch.uint8), *FIELDS[1:]]  # a few dozen of them take several messages
EVERYTHING = 4000  # more records than any scenario stores
IN_ORDER = "ends in order"  # returned where the end of the process is part of the scenario


class Files:
    """What the buffer needs of a training engine, by files in a folder: rank, size, gather and a token."""

    is_local = True

    def __init__(self, folder: Path, rank: int, size: int):
        self.folder, self.rank, self.size, self.calls = folder, rank, size, 0
        self.token = hashlib.sha256(str(folder).encode()).digest()[:16]
        self.waits = Waits()

    def gather(self, content) -> list:
        self.calls += 1
        everybody = [self.folder / f"gather_{self.calls}_{rank}" for rank in range(self.size)]
        write(everybody[self.rank], pickle.dumps(content))
        wait_for(*everybody)
        return [pickle.loads(path.read_bytes()) for path in everybody]


def wait_for(*paths: Path) -> None:
    deadline = time.monotonic() + 60
    while not all(path.exists() for path in paths):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited in vain for {[path.name for path in paths if not path.exists()]}")
        time.sleep(0.001)


def write(path: Path, content: bytes) -> None:
    """A file that is whole as soon as it is there."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.rename(path)


def make(comm, insertion="reservoir", sampling="uniform", **changes):
    options = {
        "capacity": 24 * comm.size,
        "candidates": 2 if insertion == "candidates" else None,
        "fields": FIELDS,
        "num_classes": CLASSES,
        "seed": 0,
        "device": torch.device("cpu"),
        "comm": comm,
        "timeout": 20.0,
    } | changes
    return NativeBuffer(insertion=insertion, sampling=sampling, **options)


def batch(ids, fields=FIELDS):
    """Records of which every number is a function of the id, and none is 0 throughout like a slot never written."""
    ids = torch.as_tensor(ids, dtype=torch.int64)
    return {
        "x": rows(251, fields[0].shape, torch.uint8)[ids * 31 % 251],
        "y": ids % CLASSES,
        "logits": rows(1021, (CLASSES,), torch.float16)[ids * 31 % 1021],  # whole numbers up to 2048 are exact
        "amplitude": rows(4001, (2, 3), torch.float32)[ids * 31 % 4001] / 8,
        "id": ids,
    }


@cache
def rows(count: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Rows of which no number is the same in two of them, and none is 0."""
    numbers = torch.arange(count)[:, None] + torch.arange(prod(shape))
    return (numbers % count + 1).to(dtype).view(count, *shape)


class Draws:
    """Takes draws, and checks that each consists of whole and different records; `digest` is of all their bits."""

    def __init__(self, fields=FIELDS, updated=()):
        self.fields, self.updated = fields, updated
        self.digest = hashlib.sha256()

    def take(self, buffer):
        records = buffer.receive()
        expected = batch(records["id"], self.fields)
        assert records.columns.keys() == expected.keys()
        for name, value in expected.items():
            assert records[name].dtype == value.dtype
            if name not in self.updated:
                assert torch.equal(records[name], value), f"{name} is not that of the record"
        for value in (*records.columns.values(), records.ids, records.weight):
            self.digest.update(value.numpy().tobytes())
        assert len(set(ids_of(records))) == len(set(records.ids.tolist())) == len(records), "a record came twice"
        return records


def ids_of(records) -> list[int]:
    return records["id"].tolist()


def draw(buffer, n=EVERYTHING, updated=()):
    buffer.request(n)
    return Draws(updated=updated).take(buffer)


def raises(error, message, call) -> None:
    try:
        call()
    except error as raised:
        assert message in str(raised), f"expected {message!r} in {str(raised)!r}"
    else:
        raise AssertionError(f"no {error.__name__}: {message}")


class Steps:
    """Training steps of one rank: batches and draws of sizes that differ over ranks and steps, two draws on their way.

    Batches depend on the step alone, not on what was done before, so any two buffers can be given the same ones.
    """

    def __init__(self, comm, buffer, fields=FIELDS, sleeps=False):
        self.comm, self.buffer, self.fields = comm, buffer, fields
        self.draws, self.asked, self.stored, self.received = Draws(fields), [], [], []
        self.sleeps = random.Random(time.time_ns()) if sleeps else None

    def go(self, steps):
        for step in steps:
            self.receive()
            chance = random.Random(1000 * step + self.comm.rank)
            first = (step * self.comm.size + self.comm.rank) * 16
            self.buffer.add(batch(range(first, first + chance.choice([0, 1, 4, 9])), self.fields))
            self.pause()
            for n in (chance.choice([0, 1, 7, 30]), chance.choice([2, 5, 11, EVERYTHING])):
                self.stored.append(len(self.buffer))
                self.asked.append(n)
                self.buffer.request(n)
            self.pause()
        return self

    def receive(self):
        self.received += [len(self.draws.take(self.buffer)) for _ in range(self.buffer.pending)]
        return self

    def pause(self):
        if self.sleeps and self.sleeps.random() < 0.1:
            time.sleep(0.02 * self.sleeps.random())

    def end(self) -> str:
        """Checks the sizes of all draws; the digest of their content."""
        self.receive()
        everywhere = [sum(of_ranks) for of_ranks in zip(*self.comm.gather(self.stored))]
        assert self.received == [min(n, records) for n, records in zip(self.asked, everywhere)]
        return self.draws.digest.hexdigest()


# ---- Scenarios: functions of the ranks and of what the test gives them; what they return must be JSON ----------------


def has_transport(comm):
    return bool(make(comm).statistics().transport)


def train(comm, policies, steps, sleeps=False, large=False, seed=0):
    """The digest of every pair of policies' draws on this rank."""
    digests, fields = [], LARGE if large else FIELDS
    for insertion, sampling in policies:
        buffer = make(comm, insertion, sampling, fields=fields, seed=seed)
        digests.append(Steps(comm, buffer, fields, sleeps).go(range(steps)).end())
        assert len(buffer) <= 24
        buffer.close()
    return digests


def frequencies(comm, offered, sampling, n, draws):
    """Draws from shards to which `offered[rank]` ids were offered: what is stored, and the ids and weights of draws."""
    buffer = make(comm, "reservoir", sampling, capacity=130 * comm.size)
    buffer.add(batch(offered[comm.rank]))
    stored = sorted(ids_of(draw(buffer)))
    drawn, weights = [], {}
    for _ in range(draws // 20):
        for _ in range(20):
            buffer.request(n)
        for _ in range(20):
            records = Draws().take(buffer)
            drawn.append(ids_of(records))
            for record, weight in zip(drawn[-1], records.weight.tolist()):
                assert weights.setdefault(record, weight) == weight
    buffer.close()
    return {"stored": stored, "drawn": drawn, "weights": weights}


def visibility(comm, steps):
    """Draw k is of what every rank had at its request k, however far apart in time the ranks are."""
    full, small = make(comm, capacity=3000 * comm.size), make(comm)
    chance = random.Random(comm.rank)
    offered, expected, seen, of_small = set(), [], [], []

    def receive():
        seen.append(set(ids_of(Draws().take(full))))
        of_small.append(set(ids_of(Draws().take(small))))

    for step in range(steps):
        first = (step * comm.size + comm.rank) * 16
        ids = range(first, first + chance.choice([0, 1, 4, 9]))
        for buffer in (full, small):
            buffer.add(batch(ids))
            buffer.request(EVERYTHING)
        offered |= set(ids)
        expected.append(set(offered))
        if chance.random() < 0.2:
            time.sleep(chance.choice([0.001, 0.03]))
        while full.pending > chance.randrange(4):
            receive()
    while full.pending:
        receive()
    for k, of_ranks in enumerate(zip(*comm.gather(expected))):
        assert seen[k] == set().union(*of_ranks), f"draw {k}"
    # Where records are replaced: all ranks see the same, and what is new in draw k was added in step k.
    assert all(of_rank == of_small for of_rank in comm.gather(of_small))
    for k in range(1, steps):
        assert {record // 16 // comm.size for record in of_small[k] - of_small[k - 1]} <= {k}
    full.close()
    small.close()


def updates(comm, insertion, sampling):
    """Each rank updates records wherever they are; draws requested later see it on all ranks."""
    buffer = make(comm, insertion, sampling)
    for first in range(0, 60, 10):
        buffer.add(batch(range(100 * comm.rank + first, 100 * comm.rank + first + 10)))
    records = draw(buffer)
    names = dict(zip(ids_of(records), records.ids.tolist()))
    mine = [record for record in names if record % comm.size == comm.rank]
    assert {record // 100 for record in mine} == set(range(comm.size)), "this rank updates records of all ranks"
    buffer.request(EVERYTHING)
    buffer.update("logits", torch.tensor([names[record] for record in mine]), -batch(mine)["logits"])
    Draws().take(buffer)  # as they were
    for _ in range(2):
        records = draw(buffer, updated=["logits"])
        assert torch.equal(records["logits"], -batch(records["id"])["logits"])
        assert dict(zip(ids_of(records), records.ids.tolist())) == names
    buffer.close()


def rival_updates(comm):
    """Of updates of one record between two draws that of the highest rank stays, and of these the latest."""
    buffer = make(comm)
    buffer.add(batch(range(100 * comm.rank, 100 * comm.rank + 20)))
    names = draw(buffer).ids
    for time_of_this in (1, 2):
        buffer.update("amplitude", names, torch.full((len(names), 2, 3), 10.0 * comm.rank + time_of_this))
    records = draw(buffer, updated=["amplitude"])
    assert torch.equal(records["amplitude"], torch.full((len(names), 2, 3), 10.0 * (comm.size - 1) + 2))
    buffer.close()


def late_updates(comm):
    """Updates of records that were replaced change nothing, those of the others arrive."""
    buffer = make(comm)
    buffer.add(batch(range(100000 * comm.rank, 100000 * comm.rank + 24)))
    records = draw(buffer)
    old = dict(zip(ids_of(records), records.ids.tolist()))
    for step in range(1, 8):
        buffer.add(batch(range(100000 * comm.rank + 100 * step, 100000 * comm.rank + 100 * step + 5)))
    buffer.update("logits", torch.tensor(list(old.values())), -batch(list(old))["logits"])
    records = draw(buffer, updated=["logits"])
    kept = torch.tensor([record in old for record in ids_of(records)])
    assert 0 < kept.sum() < 24 * comm.size
    expected = batch(records["id"])["logits"]
    expected[kept] *= -1
    assert torch.equal(records["logits"], expected)
    buffer.close()


def go_on(comm, policies, folder):
    """A buffer that is saved with draws on their way, and another that is loaded, go on alike."""
    digests = []
    for insertion, sampling in policies:
        path = Path(folder) / f"{insertion}_{sampling}_{comm.size}_{comm.rank}"
        saved, loaded = make(comm, insertion, sampling), make(comm, insertion, sampling)
        Steps(comm, saved).go(range(40))
        assert saved.pending == 2
        writer = threading.Thread(target=saved.copy().write, args=[path])
        writer.start()  # while it goes on
        one = Steps(comm, saved).go(range(40, 80))
        writer.join()
        loaded.load(*comm.gather(path))
        assert loaded.pending == saved.pending == 2 and len(loaded) == len(saved)
        other = Steps(comm, loaded).go(range(40, 80))
        digests.append([steps.receive().draws.digest.hexdigest() for steps in (one, other)])
        saved.close()
        loaded.close()
    return digests


def save_after_update(comm, folder):
    """Updates that were made before `save` are there after `load`, also those that no draw has seen yet."""
    path = Path(folder) / f"updated_{comm.rank}"
    saved, loaded = make(comm), make(comm)
    saved.add(batch(range(100 * comm.rank, 100 * comm.rank + 20)))
    records = draw(saved)
    others = [i for i, record in enumerate(ids_of(records)) if record // 100 != comm.rank]
    saved.update("amplitude", records.ids[others], torch.full((len(others), 2, 3), -1.0))
    saved.save(path)
    loaded.load(*comm.gather(path))
    drawn = []
    for buffer in (saved, loaded):
        records = draw(buffer, updated=["amplitude"])
        drawn.append(dict(zip(ids_of(records), (records["amplitude"][:, 0, 0] == -1).tolist())))
        buffer.close()
    assert all(drawn[0].values()), "the draw after an update sees it"
    assert drawn[1] == drawn[0], f"{sum(drawn[1].values())} of {len(drawn[1])} updates are left after load"


def save(comm, policies, folder):
    """Files for `load`, with draws on their way; by pair of policies the ids that are in them."""
    content = []
    for insertion, sampling in policies:
        buffer = make(comm, insertion, sampling, capacity=144)
        Steps(comm, buffer).go(range(60)).receive()
        content.append(sorted(ids_of(draw(buffer))))
        buffer.request(5)
        buffer.request(EVERYTHING)
        buffer.save(Path(folder) / f"{insertion}_{sampling}_{comm.rank}")
        buffer.close()
    return content


def load(comm, policies, folder, saved_by):
    """What so many others have saved; by pair of policies the ids that are there then. They go on from there."""
    content = []
    for insertion, sampling in policies:
        buffer = make(comm, insertion, sampling, capacity=144)
        buffer.load(*(Path(folder) / f"{insertion}_{sampling}_{rank}" for rank in range(saved_by)))
        assert buffer.pending == 2
        assert len(Draws().take(buffer)) == 5
        content.append(sorted(ids_of(Draws().take(buffer))))
        held = comm.gather(len(buffer))
        assert max(held) - min(held) <= 1 and sum(held) == len(content[-1])
        quota = 144 // comm.size // CLASSES  # 24, 12 or 6 on a shard
        steps = Steps(comm, buffer)
        for step in range(1000, 1100):
            steps.go([step])
            assert len(buffer) <= 144 // comm.size
        steps.end()
        records = draw(buffer)
        assert len(records) == 144
        if insertion != "reservoir":
            assert Counter(records["y"].tolist()) == dict.fromkeys(range(CLASSES), quota * comm.size)
        assert sum(record >= 16000 for record in ids_of(records)) > 20, "new records are stored"
        buffer.close()
    return content


def refuse(comm, folder):
    """Files that cannot be loaded are errors on the ranks that read them, and change nothing."""
    folder, rank = Path(folder), comm.rank
    good = make(comm)
    Steps(comm, good).go(range(20)).receive()
    path = folder / f"good_{rank}"
    good.save(path)
    paths = comm.gather(path)
    content = path.read_bytes()

    def bad(name, content) -> list[Path]:
        bad_path = folder / f"{name}_{rank}"
        bad_path.write_bytes(content)
        return comm.gather(bad_path)

    attempts = {
        "missing": (OSError, "No such file", [folder / f"missing_{r}" for r in range(comm.size)]),
        "empty": (ValueError, "not a saved shard", bad("empty", b"")),
        "of something else": (ValueError, "not a saved shard", bad("text", b"a text" * 100)),
        "cut off": (ValueError, "damaged", bad("cut", content[:-100])),
        "longer": (ValueError, "damaged", bad("longer", content + b"12345678")),
        "altered": (ValueError, "damaged", bad("altered", content[:-200] + b"!" + content[-199:])),
        "in another order": (ValueError, "is the shard of rank", paths[::-1]),
        "not all of them": (ValueError, f"is the shard of rank 0 of {comm.size}", paths[:1]),
        "one too many": (ValueError, f"of {comm.size}, expected rank 0 of", paths + paths[:1]),
    }
    others = {
        "of other policies": {"sampling": "class_balanced"},
        "of another seed": {"seed": 1},
        "of other fields": {"fields": LARGE},
        "of fewer classes": {"num_classes": CLASSES + 1},
        "of another capacity": {"capacity": 20 * comm.size},
    }
    buffer = make(comm)
    tried = [(buffer, *attempt) for attempt in attempts.values()]
    tried += [(make(comm, **changes), ValueError, f"good_{rank}", paths) for changes in others.values()]
    for target, *_ in {id(target): (target,) for target, *_ in tried}.values():
        target.add(batch(range(100 * rank, 100 * rank + 7), target.fields))
    for target, error, message, files in tried:
        raises(error, message, partial(target.load, *files))
        assert len(target) == 7 and target.pending == 0
    # A rank that reads a bad file says so, the other does not know; with the right file both go on.
    if rank == 1:
        raises(ValueError, "damaged", partial(buffer.load, *paths[:1], folder / "cut_1"))
    buffer.load(*paths)
    assert sorted(ids_of(draw(buffer))) == sorted(ids_of(draw(good)))
    for target in {id(target): target for target, *_ in tried}.values():
        if target is not buffer:
            records = Draws(target.fields)
            target.request(EVERYTHING)
            assert len(records.take(target)) == 7 * comm.size
        target.close()
    good.close()
    raises(ValueError, "before its first draw", partial(after_a_draw, comm, paths))


def after_a_draw(comm, paths):
    buffer = make(comm)
    draw(buffer)
    try:
        buffer.load(*paths)
    finally:
        buffer.close()


def flip(comm, folder, saved_by):
    """One damaged byte anywhere in one of the files of other ranks is noticed, and changes nothing."""
    paths = [Path(folder) / f"reservoir_class_balanced_{rank}" for rank in range(saved_by)]
    buffer = make(comm, "reservoir", "class_balanced", capacity=144)
    buffer.add(batch(range(7)))
    content, bad = paths[-1].read_bytes(), Path(folder) / "flipped"
    # The first bytes say what the file is, the others are numbers and rows.
    for place in (*range(600), *range(600, len(content), 11)):
        bad.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        raises((ValueError, OSError), "flipped", partial(buffer.load, *paths[:-1], bad))
    assert sorted(ids_of(draw(buffer))) == list(range(7))
    buffer.close()
    small = make(comm, "reservoir", "class_balanced", capacity=100)
    small.add(batch(range(7)))
    raises(ValueError, "hold 144 records", partial(small.load, *paths))
    assert sorted(ids_of(draw(small))) == list(range(7))
    small.close()


def lose(comm, victim, phase):
    """Steps until a rank is gone: what the others are told, and when; then their buffers are freed as any other."""
    told = go_until_lost(comm, victim, phase)
    gc.collect()
    assert not any(isinstance(thing, NativeBuffer) for thing in gc.get_objects())
    return told


def go_until_lost(comm, victim, phase):
    buffer = make(comm, timeout=3.0)
    steps = Steps(comm, buffer).go(range(20))
    comm.gather(None)
    (comm.folder / f"ready_{comm.rank}").touch()
    try:
        if phase == "close" and comm.rank == victim:
            time.sleep(60)
        if phase == "close":
            steps.receive()
            buffer.close()
        for step in range(20, 100000):
            steps.go([step])
            time.sleep(0.002)
    except PeerError as error:
        told, message = time.monotonic(), str(error)
    for call in (lambda: buffer.add(batch([1])), lambda: buffer.request(1), buffer.receive, buffer.close, buffer.close):
        raises(PeerError, message, call)
    write(comm.folder / f"told_{comm.rank}", b"")
    # Alive until all have been told, else these too would miss each other.
    wait_for(*(comm.folder / f"told_{rank}" for rank in range(comm.size) if rank != victim))
    return {"told": told, "message": message}


def held_up(comm):
    """Rank 2 hangs, rank 1 waits for it elsewhere, rank 0 for the request of both: what these two are told."""
    buffer = make(comm, timeout=2.0)
    steps = Steps(comm, buffer).go(range(5)).receive()
    comm.gather(None)
    (comm.folder / f"ready_{comm.rank}").touch()
    if comm.rank == 2:
        time.sleep(60)
    try:
        if comm.rank == 1:
            wait_for(comm.folder / "told_0")
        steps.go(range(5, 10))
    except PeerError as error:
        write(comm.folder / f"told_{comm.rank}", b"")
        wait_for(comm.folder / "told_1")
        return str(error)


def nap(comm):
    """Rank 0 is stopped for longer than the time-out while it waits: that is no time in which rank 1 was silent."""
    buffer = make(comm, timeout=1.0)
    steps = Steps(comm, buffer).go(range(5)).receive()
    pid, _ = comm.gather(os.getpid())
    if comm.rank == 1:
        time.sleep(0.3)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1.5)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.2)
    steps.go(range(5, 10)).receive()
    buffer.close()


class Stranger:
    """A process that knows where rank 0 of two is found, and not its token."""

    rank, size, token, is_local = 1, 2, bytes(range(16)), True

    def __init__(self, comm):
        self.comm, self.waits = comm, Waits()

    def gather(self, content):
        return [self.comm.gather(content)[0], content]


class Two:
    """The first two of three processes."""

    size, is_local = 2, True

    def __init__(self, comm):
        self.comm, self.rank, self.token, self.waits = comm, comm.rank, comm.token, Waits()

    def gather(self, content):
        return self.comm.gather(content)[:2]


def strangers(comm):
    """Messages that rank 0 has refused: process 2 says it is rank 1, and asks for draws."""
    buffer = make(Stranger(comm) if comm.rank == 2 else Two(comm))
    if comm.rank == 2:
        for _ in range(50):
            buffer.request(5)
        wait_for(comm.folder / "over")
        return buffer.abandon()
    deadline = time.monotonic() + 30
    while comm.rank == 0 and buffer.statistics().messages_refused < 50 and time.monotonic() < deadline:
        time.sleep(0.01)
    Steps(comm, buffer).go(range(30)).receive()
    refused = buffer.statistics().messages_refused
    buffer.close()
    (comm.folder / "over").touch()
    return refused


def finish(comm, steps):
    """Ranks that make different numbers of steps: those that close first go on serving."""
    buffer = make(comm, "class_balanced", "class_balanced", capacity=1000 * comm.size)
    everywhere = []
    for step in range(steps[comm.rank]):
        first = (step * comm.size + comm.rank) * 16
        buffer.add(batch(range(first, first + 3)))
        buffer.request(EVERYTHING)
        everywhere.append(set(ids_of(Draws().take(buffer))))
    # Offered after the last request of this rank: those who go on see it, or not, but never something else.
    first = (999 * comm.size + comm.rank) * 16
    buffer.add(batch(range(first, first + 1)))
    if comm.rank == 0:
        buffer.request(7)  # never received
    buffer.close()
    buffer.close()
    for call in (lambda: buffer.add(batch([1])), lambda: buffer.request(1), buffer.receive):
        raises(ValueError, "closed", call)
    for k, seen in enumerate(everywhere):
        for rank in range(comm.size):
            of_rank = {record for record in seen if record // 16 % comm.size == rank}
            made = [(step * comm.size + rank) * 16 + i for step in range(min(k + 1, steps[rank])) for i in range(3)]
            assert set(made) <= of_rank and len(of_rank) - len(made) <= (k >= steps[rank]), f"rank {rank}, draw {k}"
    return [len(seen) for seen in everywhere]


def pause(comm, seconds):
    """Longer than the time-out between the last draw and `close`, as a test of the network may take."""
    buffer = make(comm, timeout=1.0)
    Steps(comm, buffer).go(range(5)).receive()
    time.sleep(seconds * (1 + comm.rank / 4))
    buffer.close()


def vanish(comm, phase):
    """Rank 1 ends without closing; what the others are told."""
    buffer = make(comm, timeout=2.0)
    steps = Steps(comm, buffer).go(range(10)).receive()
    comm.gather(None)
    if comm.rank == 1:
        return IN_ORDER
    try:
        if phase == "steps":
            steps.go(range(10, 15))
        buffer.close()
    except PeerError as error:
        message = str(error)
    write(comm.folder / f"told_{comm.rank}", b"")
    wait_for(*(comm.folder / f"told_{rank}" for rank in range(comm.size) if rank != 1))
    return message


def close_at_once(comm, times):
    """Closing does not wait for the draws that nobody will receive, and their records do no harm."""
    for _ in range(times):
        buffer = make(comm, fields=LARGE, capacity=200 * comm.size)
        buffer.add(batch(range(200 * comm.rank, 200 * comm.rank + 200), LARGE))
        for _ in range(3):
            buffer.request(200)
        buffer.close()


def loop(comm, times):
    """Descriptors, threads and resident bytes in the middle of `times` buffers and at the end."""

    def measure():
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return [len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), resident]

    measured = []
    for number in range(1, times + 1):
        buffer = make(comm)
        Steps(comm, buffer).go(range(3)).receive()
        buffer.close()
        del buffer
        if number in (times // 3, times):
            measured.append(measure())
    return measured


# ---- Starting -------------------------------------------------------------------------------------------------------


def be_rank(job: Path, rank: int) -> None:
    content = json.loads((job / "job.json").read_text())
    os.environ.update(content["environment"])
    torch.set_num_threads(1)
    faulthandler.enable()
    comm, results = Files(job, rank, content["ranks"]), []
    for name, options in content["scenarios"]:
        try:
            results.append(globals()[name](comm, **options))
        except BaseException:
            write(job / f"error_{rank}.txt", f"{name}: {traceback.format_exc()}".encode())
            raise
    write(job / f"result_{rank}.json", json.dumps(results).encode())
    if results[-1] != IN_ORDER:
        os._exit(0)  # taking a process with torch down in order takes longer than most scenarios


def serve() -> None:
    """Reads folders of jobs; answers `start JOB` by the pids of its ranks, `wait JOB SECONDS` by how each ended."""
    pids: dict[str, list[int]] = {}
    ended: dict[int, int] = {}
    for line in sys.stdin:
        command, job, *rest = json.loads(line)
        if command == "start":
            pids[job] = []
            for rank in range(json.loads((Path(job) / "job.json").read_text())["ranks"]):
                pid = os.fork()
                if pid == 0:
                    become_child(Path(job), rank)
                    return be_rank(Path(job), rank)  # and end as any process does
                pids[job].append(pid)
            answer = pids[job]
        else:
            deadline = time.monotonic() + rest[0]
            while True:
                for pid in pids[job]:
                    if pid not in ended:
                        found, status = os.waitpid(pid, os.WNOHANG)
                        if found:
                            ended[pid] = os.waitstatus_to_exitcode(status)
                answer = [ended.get(pid) for pid in pids[job]]
                if None not in answer or time.monotonic() > deadline:
                    break
                time.sleep(0.005)
        print(json.dumps(answer), flush=True)


def become_child(job: Path, rank: int) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: with the one that started it
    for number, path in ((0, os.devnull), (1, job / f"output_{rank}.txt"), (2, job / f"output_{rank}.txt")):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        be_rank(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        serve()
