"""The number of ranks of a run and its launcher, read from the configuration and the environment.

Does not import torch: the folder of a run depends on this file, and the command of a finished run should be fast.
"""

import os

from cl.distributed import slurm

# Variables that a launcher sets in each rank it starts: engine, rank, number of ranks.
LAUNCHERS = (
    ("horovod", "HOROVOD_RANK", "HOROVOD_SIZE"),
    ("torch", "RANK", "WORLD_SIZE"),
    ("horovod", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("horovod", "PMI_RANK", "PMI_SIZE"),
)
PAIRED = ("HOROVOD_RANK", "RANK")  # of these one variable without the other is a mistake; MPIs may set one alone
# What else other launchers tell their processes; ranks of our own launcher are not told it.
FOREIGN = {
    *(name for _, *names in LAUNCHERS for name in names),
    "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "MASTER_ADDR", "MASTER_PORT",
    "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_STEP_ID", "SLURM_STEPID", "SLURM_PROCID",
}  # fmt: skip
TOKEN = "REMERGE_TOKEN"  # the secret of a run's ranks in the environment, if their launcher made one
LAUNCHED = "REMERGE_LAUNCHED"  # set in ranks of remerge's own launcher, which prints the table of results itself
RENDEZVOUS = "REMERGE_RENDEZVOUS"  # the file where ranks that remerge itself has started meet in torch.distributed


def started() -> tuple[str, int, int] | None:
    """Engine, rank and number of ranks of this process if a launcher started it, else None.

    Raises ValueError for variables that contradict one another.
    """
    for engine, rank, size in LAUNCHERS:
        given = [name for name in (rank, size) if name in os.environ]
        if len(given) == 1 and rank in PAIRED:
            other = size if given == [rank] else rank
            raise ValueError(
                f"the environment has {given[0]}={os.environ[given[0]]} without {other}, expected both of a launcher "
                f"or neither: unset {given[0]}, or set {other}"
            )
        if len(given) == 2 and not (rank == "PMI_RANK" and slurm.is_its_rank(os.environ)):
            return engine, *_numbers(rank, size)
    step = slurm.step(os.environ)
    return ("torch", *step) if step else None


def _numbers(rank: str, size: str) -> tuple[int, int]:
    """The values of two variables as the number of a rank and of all ranks."""
    texts = [os.environ[name].strip() for name in (rank, size)]
    if not all(text.isascii() and text.isdigit() for text in texts) or int(texts[0]) >= int(texts[1]):
        raise ValueError(
            f"the environment has {rank}={texts[0]} and {size}={texts[1]}, expected whole numbers with {rank} below "
            f"{size}: see what starts the ranks, or unset both for one process"
        )
    return int(texts[0]), int(texts[1])


def prepare() -> None:
    """Give a rank of srun the variables with which torch.distributed connects; does nothing in other processes."""
    found = started()
    if found is not None and "RANK" not in os.environ and slurm.step(os.environ) == found[1:]:
        os.environ.update(slurm.environment(os.environ))


def rank() -> int:
    """This process's rank."""
    found = started()
    return found[1] if found else 0


def world_size(config: dict) -> int:
    """The number of ranks of the run: those already started, else those that its launcher will start."""
    found = started()
    return found[2] if found else config["launcher"]["np"]
