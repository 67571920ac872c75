"""What the engines refuse before training: options of the exchange that they, or their builds, do not have."""

import importlib.util
from types import SimpleNamespace

import pytest
import torch
from support import QUICK
from torch import nn

from cl.distributed.comm import ReduceOptions
from cl.distributed.horovod_comm import HorovodComm
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
