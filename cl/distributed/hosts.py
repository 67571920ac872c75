"""Hosts of a run, and which rank has its place where.

launcher.hosts=a:4,b:4      names or addresses with slots (ranks that fit there); without a number one slot
launcher.hosts=[fd00::1]:4  addresses of version 6 in brackets
launcher.hostfile=FILE      a line "a slots=4" for each host; text after # is ignored
"""

import re
import socket
from dataclasses import dataclass, replace
from pathlib import Path

from cl.distributed import network

FORM = "expected host1:4,host2:4, with addresses of version 6 in brackets"


@dataclass(frozen=True)
class Host:
    """A host: the `name` by which the user calls it, its numeric `address`, `slots` ranks, and whether it is `here`."""

    name: str
    slots: int
    address: str | None = "127.0.0.1"
    here: bool = True


@dataclass(frozen=True)
class Place:
    """Where one rank runs; the words are Horovod's, and its rendezvous reads them."""

    host: Host
    rank: int
    size: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int

    @property
    def hostname(self) -> str:
        return self.host.name


def hosts_of(launcher: dict) -> list[Host]:
    """The hosts of a launcher's options, this machine as one of them under any of its names.

    Raises ValueError for what cannot be read and for names that nobody knows, OSError for a hostfile that is not there.
    """
    if launcher["hosts"] and launcher["hostfile"]:
        raise ValueError("give launcher.hosts or launcher.hostfile, not both")
    if launcher["hosts"]:
        slots = _of_text(launcher["hosts"])
    elif launcher["hostfile"]:
        slots = _of_file(Path(launcher["hostfile"]))
    else:
        return [Host("localhost", launcher["np"])]
    found: dict[str, Host] = {}
    for name, count in slots:
        host = _resolved(name, count)
        key = "localhost" if host.here else name
        found[key] = replace(found[key], slots=found[key].slots + count) if key in found else host
    return list(found.values())


def places(hosts: list[Host], ranks: int) -> list[Place]:
    """One place for each rank, host after host. Raises ValueError if there are too few slots."""
    slots = sum(host.slots for host in hosts)
    if slots < ranks:
        listed = ", ".join(f"{host.name}:{host.slots}" for host in hosts)
        raise ValueError(f"launcher.np={ranks} ranks do not fit into {slots} slots ({listed})")
    used, left = [], ranks
    for host in hosts:
        if left:
            used.append((host, min(host.slots, left)))
            left -= used[-1][1]
    found = []
    for number, (host, count) in enumerate(used):
        for local in range(count):
            across = [other for other, (_, others) in enumerate(used) if others > local]
            place = Place(host, len(found), ranks, local, count, across.index(number), len(across))
            found.append(place)
    return found


def _of_text(text: str) -> list[tuple[str, int]]:
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s:\[\]/]+))(?::(\d+))?", part.strip())
        if match is None:
            raise ValueError(f"cannot read {part!r} in launcher.hosts={text}: {FORM}")
        found.append((match[1] or match[2], _slots(match[3] or "1", f"launcher.hosts={text}")))
    return found


def _of_file(file: Path) -> list[tuple[str, int]]:
    if not file.is_file():
        raise ValueError(f'launcher.hostfile={file} is not a file: expected a line "host slots=4" for each host')
    found = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        line = line.partition("#")[0].strip()
        match = re.fullmatch(r"\[?([^\s\[\]]+?)\]?(?:\s+slots\s*=\s*(\d+)|:(\d+))?", line)
        if line and match is None:
            raise ValueError(f'cannot read line {number} of {file}: expected "host slots=4", got {line!r}')
        if line:
            found.append((match[1], _slots(match[2] or match[3] or "1", f"line {number} of {file}")))
    if not found:
        raise ValueError(f'launcher.hostfile={file} names no host: expected a line "host slots=4" for each')
    return found


def _slots(text: str, where: str) -> int:
    if int(text) < 1:
        raise ValueError(f"{where} has a host with {text} slots, expected at least 1: leave the host out")
    return int(text)


def _resolved(name: str, slots: int) -> Host:
    if name.startswith("-"):  # ssh would take it for one of its options
        raise ValueError(f"a host cannot be called {name!r}: {FORM}")
    if name in ("localhost", socket.gethostname()):
        return Host(name, slots)
    try:
        address = network.address_of(name)
    except OSError:  # it may be a name that only ssh's configuration knows: the host itself says its address
        return Host(name, slots, None, here=False)
    return Host(name, slots, address, here=network.is_this_machine(address))
