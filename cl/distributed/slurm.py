"""The ranks of a SLURM job step, read from the variables that srun sets in each of its tasks.

A batch script and a shell within an allocation have many of these variables too (SLURM_NTASKS and even SLURM_PROCID),
but only srun numbers a step, so SLURM_STEP_ID decides (man srun, OUTPUT ENVIRONMENT VARIABLES). `prepare` in
`cl.distributed.ranks` turns them into those of torch.distributed, so that nothing else needs to know of SLURM.
"""

import re
import socket
from collections.abc import Mapping

from cl.distributed import network

# Steps that no user has started have numbers at the end of 32 bits: batch scripts, interactive shells, logins.
FIRST_SPECIAL_STEP = 0xFFFFFFF0
# Below the ports that Linux gives to outgoing connections, so that none of them is in the way.
FIRST_PORT, PORTS = 15000, 17000


def step(environ: Mapping[str, str]) -> tuple[int, int] | None:
    """Rank and number of ranks of this process in a step of srun; None elsewhere, and for a step with one task."""
    own = _task(environ)
    return own if own is not None and own[1] > 1 else None


def is_its_rank(environ: Mapping[str, str]) -> bool:
    """Whether PMI_RANK is that of srun itself (`--mpi=pmi2`), and not of an mpirun that srun has helped to start."""
    own = _task(environ)
    return own is not None and (environ.get("PMI_RANK"), environ.get("PMI_SIZE")) == tuple(map(str, own))


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of torch.distributed for this task of a step; raises ValueError for what cannot be understood."""
    rank, size = step(environ)
    nodes = node_names(environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST") or "")
    counts = tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE") or "")
    if not nodes:
        raise ValueError("srun has started this rank, but SLURM_STEP_NODELIST names no node: start it by srun itself")
    found = {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": nodes[0]}
    job, number = environ.get("SLURM_JOB_ID", "0"), environ.get("SLURM_STEP_ID", environ.get("SLURM_STEPID", "0"))
    port = FIRST_PORT + (_whole("SLURM_JOB_ID", job) * 31 + _whole("SLURM_STEP_ID", number)) % PORTS
    found["MASTER_PORT"] = environ.get("MASTER_PORT", str(port))
    node = _whole("SLURM_NODEID", environ.get("SLURM_NODEID", "0"))
    if "SLURM_LOCALID" in environ and node < len(counts):  # else the ranks tell one another the names of their hosts
        found |= {"LOCAL_RANK": environ["SLURM_LOCALID"], "LOCAL_WORLD_SIZE": str(counts[node])}
    if len(nodes) == 1:
        found |= {"MASTER_ADDR": "127.0.0.1"} | network.loopback(environ)
    elif "GLOO_SOCKET_IFNAME" not in environ:
        other = nodes[1] if node == 0 else nodes[0]
        try:
            found["GLOO_SOCKET_IFNAME"] = network.interface_towards(network.address_of(other))
        except OSError as error:
            raise ValueError(
                f"{socket.gethostname()} finds no way to the node {other} ({error}): set GLOO_SOCKET_IFNAME to the "
                "interface through which the nodes reach one another"
            ) from error
    return found


def _task(environ: Mapping[str, str]) -> tuple[int, int] | None:
    number = environ.get("SLURM_STEP_ID", environ.get("SLURM_STEPID"))
    if number is None or "SLURM_PROCID" not in environ:
        return None
    if _whole("SLURM_STEP_ID", number) >= FIRST_SPECIAL_STEP:
        return None
    rank = _whole("SLURM_PROCID", environ["SLURM_PROCID"])
    name = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
    size = _whole(name, environ.get(name, "1"))
    if rank >= size:
        raise ValueError(
            f"the environment has SLURM_PROCID={rank} and {name}={size}, expected a rank below the number of ranks: "
            "for one process unset SLURM_STEP_ID"
        )
    return rank, size


def node_names(text: str) -> list[str]:
    """The names in SLURM's compressed form: `node[01-03,7],b` are node01, node02, node03, node7 and b."""
    return [name for part in _split(text) for name in _expanded(part)]


def tasks_per_node(text: str) -> list[int]:
    """The numbers in SLURM's compressed form: `4(x2),3` are 4, 4 and 3."""
    counts = []
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            raise ValueError(f"cannot read SLURM_STEP_TASKS_PER_NODE={text}: expected numbers such as 4(x2),3")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def _split(text: str) -> list[str]:
    """The parts between the commas outside brackets."""
    return [part for part in re.findall(r"(?:\[[^\]]*\]?|[^,\[])+", text) if part]


def _expanded(part: str) -> list[str]:
    match = re.fullmatch(r"([^\[\]]*)\[([^\[\]]*)\](.*)", part)
    if match is None:
        if "[" in part or "]" in part:
            raise ValueError(f"cannot read the list of nodes {part!r}: expected a form such as node[01-03,7],b")
        return [part]
    names = []
    for item in match[2].split(","):
        first, dash, last = item.partition("-")
        if not first.isdigit() or dash and not last.isdigit():
            raise ValueError(f"cannot read the list of nodes {part!r}: expected a form such as node[01-03,7],b")
        names += [str(number).zfill(len(first)) for number in range(int(first), int(last or first) + 1)]
    return [match[1] + name + rest for name in names for rest in _expanded(match[3])]


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"the environment has {name}={text}, expected a whole number: start the ranks by srun")
    return int(text)
