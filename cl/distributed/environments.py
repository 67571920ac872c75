"""What ranks of our launchers find in their environment: their numbers, and where they meet."""

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cl.distributed import network
from cl.distributed.hosts import Host, Place, places
from cl.distributed.ranks import FOREIGN, LAUNCHED, RENDEZVOUS, TOKEN

# Variables that ranks on other hosts get from the launcher; the others they have from the login there. Which GPUs may
# be used is a matter of each host.
SENT = (
    "PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHON", "HOROVOD_", "NCCL_", "GLOO_", "UCX_", "TORCH_", "CUDA_", "OMP_",
    "MKL_", "OPENBLAS_", "CUBLAS_", "HYDRA_", "WANDB_", "REMERGE_",
)  # fmt: skip
NOT_SENT = {"CUDA_VISIBLE_DEVICES", *FOREIGN}


def here() -> dict[str, str]:
    """The environment that ranks on this machine get from this process."""
    return {name: value for name, value in os.environ.items() if name not in FOREIGN}


def elsewhere() -> dict[str, str]:
    """The part of it that goes to other hosts."""
    return {name: value for name, value in os.environ.items() if name.startswith(SENT) and name not in NOT_SENT}


@contextlib.contextmanager
def of_ranks(name: str, where: list[Place], port: int | None = None) -> Iterator[list[dict[str, str]]]:
    """The variables of each rank for `launcher=name`; the ranks can meet while this lasts.

    `port`: one that is free on the first host; needed by torch.distributed over several hosts.
    """
    common = {LAUNCHED: "1", TOKEN: secrets.token_hex(16)}
    if all(place.host.here for place in where):
        common |= network.loopback(os.environ)
    engine = _horovod(where) if name == "horovod" else _torch(where, port)
    with engine as own:
        yield [common | words for words in own]


@contextlib.contextmanager
def horovod(np: int) -> Iterator[list[dict[str, str]]]:
    """The variables of `np` ranks of Horovod on this machine."""
    with of_ranks("horovod", places([Host("localhost", np)], np)) as environments:
        yield environments


@contextlib.contextmanager
def torchrun(np: int) -> Iterator[list[dict[str, str]]]:
    """The variables of `np` ranks of torch.distributed on this machine."""
    with of_ranks("torchrun", places([Host("localhost", np)], np)) as environments:
        yield environments


@contextlib.contextmanager
def _horovod(where: list[Place]) -> Iterator[list[dict[str, str]]]:
    """What Horovod's Gloo controller wants; the ranks meet at a server of Horovod's in this process."""
    from cl.distributed.rendezvous import horovod_rendezvous  # imports Horovod

    # This machine's address as each host sees it; a server for several of them has to listen on all.
    away = [place.host for place in where if not place.host.here]
    if six := sorted({host.name for host in away if ":" in str(host.address)}):
        raise ValueError(
            f"Horovod's ranks cannot meet over addresses of version 6 ({', '.join(six)}): give others, or "
            "choose launcher=torchrun"
        )
    seen = {host.name: network.own_address_towards(host.address) for host in away}
    addresses = set(seen.values()) or {"127.0.0.1"}
    with horovod_rendezvous(where, addresses.pop() if len(addresses) == 1 else "") as port:
        first = next(iter(seen.values()), "127.0.0.1")
        yield [
            {
                **_names(
                    "HOROVOD_", RANK=place.rank, SIZE=place.size, LOCAL_RANK=place.local_rank,
                    LOCAL_SIZE=place.local_size, CROSS_RANK=place.cross_rank, CROSS_SIZE=place.cross_size,
                ),
                "HOROVOD_HOSTNAME": place.hostname,
                "HOROVOD_CONTROLLER": "gloo",
                "HOROVOD_CPU_OPERATIONS": "gloo",
                "HOROVOD_GLOO_RENDEZVOUS_ADDR": seen.get(place.host.name, first),
                "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
            }
            for place in where
        ]  # fmt: skip


@contextlib.contextmanager
def _torch(where: list[Place], port: int | None) -> Iterator[list[dict[str, str]]]:
    """What torch.distributed wants: ranks on one machine meet at a file, those on several at a port of rank 0.

    On one machine a port would have to be chosen here and opened by rank 0, and another process can take it in between.
    """
    with tempfile.TemporaryDirectory(prefix="remerge-ranks-") as folder:
        if all(place.host.here for place in where):
            meeting = {RENDEZVOUS: str(Path(folder) / "store")}
        else:
            meeting = {"MASTER_ADDR": str(where[0].host.address), "MASTER_PORT": str(port)}
        yield [
            _names(
                "", RANK=place.rank, WORLD_SIZE=place.size, LOCAL_RANK=place.local_rank,
                LOCAL_WORLD_SIZE=place.local_size,
            )
            | meeting
            for place in where
        ]  # fmt: skip


def _names(prefix: str, **values: int) -> dict[str, str]:
    return {prefix + name: str(value) for name, value in values.items()}
