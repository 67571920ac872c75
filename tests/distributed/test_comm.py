"""What the engines refuse before training: options of the exchange that they, or their builds, do not have."""

import importlib.util
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support import QUICK
from torch import nn

from cl.distributed import comm as communication
from cl.distributed import environments, ranks
from cl.distributed.comm import Comm, ReduceOptions
from cl.distributed.horovod_comm import HorovodComm
from cl.distributed.hosts import Host, places
from cl.distributed.torch_comm import TorchComm
from cl.run import experiment
from cl.run.folder import plain, run_folder


@pytest.mark.parametrize(
    "options, word",
    [
        ({"operation": "sum"}, "reduce.operation=sum does not exist; valid: average, adasum"),
        ({"fp16": "half"}, "reduce.fp16 must be true or false, got half"),
        ({"predivide": 0.0}, "reduce.predivide must be a number above 0"),
        ({"predivide": "x"}, "reduce.predivide must be a number above 0, got x"),
        ({"predivide": float("inf")}, "reduce.predivide must be a number above 0"),
        ({"operation": "adasum", "predivide": 2.0}, "Adasum does not divide"),
    ],
)
def test_ways_of_reducing_that_do_not_exist_are_named(options, word):
    with pytest.raises(ValueError, match=word):
        ReduceOptions(**options)


@pytest.mark.parametrize(
    "overrides, word",
    [
        (("reduce.fp16=true",), "reduce.fp16=True is about the exchange between ranks, but this is one process"),
        (("reduce.operation=adasum", "reduce.fp16=true"), "reduce.operation=adasum, reduce.fp16=True is about"),
        (("reduce.operation=adasum", "clip_norm=1.0"), "no gradient to clip: leave out clip_norm=1.0"),
        (("reduce.operation=adasum", "precision=fp16"), "use precision=bf16"),
    ],
)
def test_a_way_of_reducing_that_does_not_go_with_the_run_is_named_before_there_is_a_folder(
    compose_config, overrides, word
):
    config = compose_config("strategy=finetune", *QUICK, *overrides)
    with pytest.raises(ValueError, match=word):
        experiment.run(config)
    assert not run_folder(plain(config)).exists()


def build(size: int = 2, local_size: int = 2, mpi: bool = True, nccl: bool = False, rocm: bool = False, even=True):
    """Ranks of a Horovod that is built in some way; builds with MPI, NCCL or ROCm are not at hand on every machine."""
    comm = object.__new__(HorovodComm)
    comm.size, comm.local_size = size, local_size
    comm.hvd = SimpleNamespace(
        mpi_enabled=lambda: mpi, mpi_built=lambda: mpi, nccl_built=lambda: nccl, rocm_built=lambda: rocm,
        mpi_ops=SimpleNamespace(is_homogeneous=lambda: even),
    )  # fmt: skip
    return comm


def distribute(comm, **options):
    model = nn.Linear(1, 1)
    return comm.distribute(torch.optim.SGD(model.parameters(), lr=1.0), model, 1, ReduceOptions(**options))


@pytest.mark.parametrize(
    "comm, options, word",
    [
        (build(mpi=False), {"operation": "adasum"}, "needs MPI, .* Gloo: build Horovod with it .HOROVOD_WITH_MPI=1"),
        (build(size=3), {"operation": "adasum"}, "needs 2, 4, 8, 16 ... ranks, got 3"),
        (build(rocm=True), {"predivide": 2.0}, "ROCm builds do not predivide: leave out reduce.predivide=2.0"),
        (object.__new__(TorchComm), {"fp16": True}, "torch.distributed has no reduce.fp16=True: use launcher=horovod"),
        (object.__new__(TorchComm), {"operation": "adasum"}, "torch.distributed has no reduce.operation=adasum"),
    ],
)
def test_what_an_engine_does_not_have_is_named(comm, options, word):
    with pytest.raises(ValueError, match=word):
        distribute(comm, **options)


@pytest.mark.parametrize(
    "comm, word",
    [
        (build(size=6, local_size=2, nccl=True), "needs 2, 4, 8, 16 ... hosts, got 3"),
        (build(size=6, local_size=2), "needs 2, 4, 8, 16 ... ranks, got 6"),
        (build(size=4, local_size=2, nccl=True, even=False), "the same number of ranks on every host"),
        (build(size=6, local_size=3, nccl=True), None),  # two hosts of three GPUs
    ],
)
def test_adasum_on_gpus_counts_hosts_where_nccl_sums_within_them(comm, word):
    if word is None:
        comm._check_adasum(torch.device("cuda"))
        return
    with pytest.raises(ValueError, match=word):
        comm._check_adasum(torch.device("cuda"))


def test_the_names_that_are_asked_of_horovod_exist():
    if importlib.util.find_spec("horovod") is None:
        pytest.skip("Horovod is not installed: `make horovod` builds it")
    import horovod.torch as hvd

    hvd.init()
    try:
        assert isinstance(hvd.mpi_ops.is_homogeneous(), bool)
        for name in ("mpi_enabled", "mpi_built", "nccl_built", "rocm_built"):
            getattr(hvd, name)()
    finally:
        hvd.shutdown()


class Threads(Comm):
    """Ranks that are threads, on machines of these names; `box`: a list and a barrier that they share."""

    engine = "threads"

    def __init__(self, rank: int, machines: list[str], box, token: str | None = None):
        super().__init__()
        self.rank, self.size, self.machines, self.box, self.given = rank, len(machines), machines, box, token
        self.local_rank = self.local_size = 0

    def _from_all(self, message):
        values, barrier = self.box
        barrier.wait(5)
        values[self.rank] = message.clone()
        barrier.wait(5)
        return [value.clone() for value in values]

    def _from_first(self, message):
        return self._from_all(torch.nn.functional.pad(message, (0, 0)))[0]


def introduced(monkeypatch, machines, tokens=None, known=()) -> list[Threads]:
    """The ranks after `introduce`; `known`: the local ranks and sizes that an engine knows."""
    size = len(machines)
    box = [None] * size, threading.Barrier(size)
    ranks = [Threads(rank, machines, box) for rank in range(size)]
    for rank, (local_rank, local_size) in zip(ranks, known):
        rank.local_rank, rank.local_size = local_rank, local_size
    own = threading.local()
    monkeypatch.setattr(communication, "_machine", lambda: machines[own.rank])
    if tokens:
        monkeypatch.setattr(communication, "_given_token", lambda: tokens[own.rank])

    def run(rank):
        own.rank = rank.rank
        rank.introduce()
        return rank

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, ranks))


def test_ranks_without_local_numbers_count_those_of_their_machine(monkeypatch):
    ranks = introduced(monkeypatch, ["a", "b", "a", "b", "a"])
    assert [(rank.local_rank, rank.local_size) for rank in ranks] == [(0, 3), (0, 2), (1, 3), (1, 2), (2, 3)]
    assert not any(rank.is_local for rank in ranks)
    assert all(rank.is_local for rank in introduced(monkeypatch, ["a", "a"]))


def test_what_the_engine_knows_of_machines_stays(monkeypatch):
    ranks = introduced(monkeypatch, ["a", "a"], known=[(0, 1), (0, 1)])
    assert [(rank.local_rank, rank.local_size) for rank in ranks] == [(0, 1), (0, 1)]


def test_all_ranks_have_one_token_that_no_other_run_has(monkeypatch):
    monkeypatch.delenv("REMERGE_TOKEN", raising=False)
    runs = [{rank.token for rank in introduced(monkeypatch, ["a", "b", "b"])} for _ in range(2)]
    assert all(len(run) == 1 and len(next(iter(run))) == 16 for run in runs) and runs[0] != runs[1]
    monkeypatch.setenv("REMERGE_TOKEN", "00112233445566778899aabbccddeeff")
    ranks = introduced(monkeypatch, ["a", "b"])
    assert [rank.token for rank in ranks] == [bytes.fromhex("00112233445566778899aabbccddeeff")] * 2


@pytest.mark.parametrize("tokens", [[b"a" * 16, b"b" * 16, b"a" * 16], [b"a" * 16, None, b"a" * 16]])
def test_ranks_with_different_tokens_are_an_error(monkeypatch, tokens):
    with pytest.raises(ValueError, match="the ranks were started with different REMERGE_TOKEN"):
        introduced(monkeypatch, ["a", "a", "a"], tokens)


@pytest.mark.parametrize("token", ["", "0" * 31, "g" * 32, "0" * 33])
def test_a_malformed_token_is_not_printed(monkeypatch, token):
    monkeypatch.setenv("REMERGE_TOKEN", token)
    with pytest.raises(ValueError, match=f"REMERGE_TOKEN must have 32 hex digits, got {len(token)} characters"):
        communication._given_token()


def test_values_of_different_lengths_are_gathered_and_what_is_no_value_is_named(monkeypatch):
    box = [None] * 3, threading.Barrier(3)
    ranks = [Threads(rank, ["a"] * 3, box) for rank in range(3)]
    contents = ["x" * 1000, None, [torch.arange(5), (1.5,)]]
    with ThreadPoolExecutor(3) as pool:
        for one, two, three in pool.map(lambda rank: rank.gather(contents[rank.rank]), ranks):
            assert (one, two) == (contents[0], None) and three[0].equal(torch.arange(5)) and three[1] == (1.5,)
    sent = torch.tensor([7]), torch.tensor([-1]), torch.tensor([2**60])
    for rank, size in enumerate(sent[1:]):
        monkeypatch.setattr(ranks[0], "_from_all", lambda message, size=size: [torch.tensor([7]), size, size])
        with pytest.raises(ValueError, match=f"rank 1 sent {int(size)} as the length of a message, expected 1 to"):
            ranks[0].gather(None)
    garbage = iter([[torch.tensor([1])] * 3, [torch.tensor([0x80], dtype=torch.uint8)] * 3])
    monkeypatch.setattr(ranks[0], "_from_all", lambda message: next(garbage))
    with pytest.raises(ValueError, match="rank 0 sent 1 bytes that are no value .no type is named"):
        ranks[0].gather(None)


def test_the_last_rank_removes_the_meeting_place_and_the_launcher_finds_nothing(monkeypatch):
    for _ in range(2):  # the names are not used again
        with environments.of_ranks("torchrun", places([Host("localhost", 1)], 1)) as (words,):
            for name, value in words.items():
                monkeypatch.setenv(name, value)
            place = Path(words[ranks.RENDEZVOUS])
            comm = TorchComm(5.0)
            assert place.exists()
            comm.close()
            assert not place.parent.exists()


@pytest.mark.parametrize("strangers, line", [(0, ""), (3, "rank 0: 3 connections that did not prove ")])
def test_strangers_at_the_meeting_are_told_of(monkeypatch, capsys, strangers, line):
    monkeypatch.setattr(communication.links, "own_address", lambda hosts: communication.links.LOOPBACK)

    def meet(listener, *rest):
        listener.close()
        return {}, strangers

    monkeypatch.setattr(communication.links, "meet", meet)
    comm = Comm()
    comm.token = bytes(16)
    comm.guard(1.0)
    comm.close()
    err = capsys.readouterr().err
    assert err.startswith(line) and err.count("\n") == bool(line)
