"""Two hosts on one machine: two network namespaces of Linux with a cable between them. Root can make them.

With a delay every packet is held back for so long, in both directions: by netem where the kernel has it, else by a
process that carries packets from one TUN device to another (it takes a part of a core, and says so).
"""

import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

ADDRESSES = {"a": "10.77.0.1", "b": "10.77.0.2"}
DEVICE = "cable"  # its end in both
# Of linux/if_tun.h.
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x1, 0x1000, 0x4000
OFFLOADS = 0x1 | 0x2 | 0x4  # checksums, and long packets of TCP over IPv4 and IPv6
PACKET_BYTES = 1 << 17  # the longest one and its header


class TwoHosts:
    """Two namespaces, `delay` ms apart; a context manager, which takes them away at its end. Raises OSError.

    `ssh` is a script that takes the place of ssh for `launcher.hosts`; `wrappers`, one per host, start Python there.
    """

    def __init__(self, folder: Path, delay: float = 0.0):
        self.folder, self.delay = folder, delay
        self.names = {letter: f"rm{os.getpid()}{letter}" for letter in ADDRESSES}
        self.courier: subprocess.Popen | None = None

    def __enter__(self) -> "TwoHosts":
        try:
            for name in self.names.values():
                ip("netns", "add", name)
            if self.delay and not kernel_delays(self.names["a"]):
                print(
                    f"this kernel has no netem: a process carries the packets of both hosts and holds each back for "
                    f"{self.delay:g} ms",
                    file=sys.stderr,
                )
                self.join_by_courier()
            else:
                self.join_by_cable()
            for letter, name in self.names.items():
                ip("-n", name, "address", "add", f"{ADDRESSES[letter]}/24", "dev", DEVICE)
                for link in ("lo", DEVICE):
                    ip("-n", name, "link", "set", link, "up")
            self.ssh = self.folder / "ssh"
            choices = "".join(f"{ADDRESSES[letter]}) name={name};; " for letter, name in self.names.items())
            write_script(self.ssh, f'case $1 in {choices}esac\nexec ip netns exec $name sh -c "$2"')
            self.wrappers = [self.folder / f"python_{letter}" for letter in ADDRESSES]
            for wrapper, name in zip(self.wrappers, self.names.values()):
                write_script(wrapper, f'exec ip netns exec {name} {sys.executable} "$@"')
        except OSError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error) -> None:
        if self.courier is not None:
            self.courier.kill()
            self.courier.wait()
        for name in self.names.values():
            if (Path("/run/netns") / name).exists():
                ip("netns", "delete", name)

    def join_by_cable(self) -> None:
        a, b = self.names.values()
        ip("link", "add", DEVICE, "netns", a, "type", "veth", "peer", "name", DEVICE, "netns", b)
        for name in (a, b) if self.delay else ():
            run("tc", "-n", name, "qdisc", "add", "dev", DEVICE, "root", "netem", "delay", f"{self.delay}ms")

    def join_by_courier(self) -> None:
        ends = []
        try:
            for name in self.names.values():
                end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
                ends.append(end)
                flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR
                fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
                fcntl.ioctl(end, TUNSETOFFLOAD, OFFLOADS)
                ip("link", "set", name, "netns", name, "name", DEVICE)
            line = [sys.executable, __file__, str(self.delay), *map(str, ends)]
            self.courier = subprocess.Popen(line, pass_fds=ends)
        finally:
            for end in ends:
                os.close(end)

    def pids(self, letter: str) -> list[int]:
        """The processes of a host."""
        return [int(pid) for pid in ip("netns", "pids", self.names[letter]).split()]

    def set_cable(self, state: str) -> None:
        ip("-n", self.names["a"], "link", "set", DEVICE, state)

    def carried_bytes(self) -> int:
        """What the first host has sent to the second."""
        _, sent = ip("-n", self.names["a"], "-s", "link", "show", DEVICE).split("TX:")
        return int(sent.splitlines()[1].split()[0])


def kernel_delays(name: str) -> bool:
    try:
        run("tc", "-n", name, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "0ms")
    except OSError:
        return False
    run("tc", "-n", name, "qdisc", "delete", "dev", "lo", "root")
    return True


def write_script(path: Path, content: str) -> None:
    path.write_text(f"#!/bin/sh\n{content}\n")
    path.chmod(0o755)


def run(*words: str) -> str:
    """What a command prints; raises OSError."""
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def ip(*words: str) -> str:
    return run("ip", *words)


def carry(milliseconds: float, ends: list[int]) -> None:
    """Read packets at each end, and write them to the other one when their time has come."""
    others = dict(zip(ends, reversed(ends)))
    waiting: deque[tuple[float, int, bytes]] = deque()  # due, end, packet; all wait equally long, so in order
    while True:
        pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for end in select.select(ends, [], [], pause)[0]:
            try:
                while True:
                    packet = os.read(end, PACKET_BYTES)
                    waiting.append((time.monotonic() + milliseconds / 1000, others[end], packet))
            except BlockingIOError:
                pass  # none is left
        while waiting and waiting[0][0] <= time.monotonic():
            _, end, packet = waiting.popleft()
            try:
                os.write(end, packet)
            except OSError:  # the device is down: lost, as on a cable that is pulled
                pass


if __name__ == "__main__":
    carry(float(sys.argv[1]), [int(end) for end in sys.argv[2:]])
