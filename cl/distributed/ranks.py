"""The number of ranks of a run and its launcher, read from the configuration and the environment.

Does not import torch: the folder of a run depends on this file, and the command of a finished run should be fast.
"""

import os

# Variables that a launcher sets in each rank it starts: engine, rank, number of ranks.
LAUNCHERS = (
    ("horovod", "HOROVOD_RANK", "HOROVOD_SIZE"),
    ("torch", "RANK", "WORLD_SIZE"),
    ("horovod", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("horovod", "PMI_RANK", "PMI_SIZE"),
)
RENDEZVOUS = "REMERGE_RENDEZVOUS"  # the file where ranks that remerge itself has started meet in torch.distributed


def started() -> tuple[str, int, int] | None:
    """Engine, rank and number of ranks of this process if a launcher started it, else None."""
    for engine, rank, size in LAUNCHERS:
        if rank in os.environ and size in os.environ:
            return engine, int(os.environ[rank]), int(os.environ[size])
    return None


def rank() -> int:
    """This process's rank."""
    found = started()
    return found[1] if found else 0


def world_size(config: dict) -> int:
    """The number of ranks of the run: those already started, else those that its launcher will start."""
    found = started()
    return found[2] if found else config["launcher"]["np"]
