"""Addresses and interfaces of hosts: which of them are this machine, and through which interface others are reached."""

import errno
import random
import socket
import struct
import sys
from collections.abc import Mapping

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
SIOCGIFADDR = 0x8915  # Linux: the address of an interface
# Ports below those that Linux gives to outgoing connections.
PORTS = range(20000, 32000)


def loopback(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that keep every socket of ranks on one machine away from the network; UCX's only where none is set."""
    found = dict.fromkeys(("GLOO_SOCKET_IFNAME", "HOROVOD_GLOO_IFACE", "NCCL_SOCKET_IFNAME"), LOOPBACK)
    return found | {"UCX_NET_DEVICES": environ.get("UCX_NET_DEVICES", LOOPBACK)}


def address_of(name: str) -> str:
    """The numeric address of a host; raises OSError."""
    return socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0]


def is_this_machine(address: str) -> bool:
    """Whether an address is one of this machine's own."""
    with socket.socket(_family(address), socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def own_address_towards(address: str) -> str:
    """This machine's address that another host sees; raises OSError without a route. Nothing is sent."""
    with socket.socket(_family(address), socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))
        return probe.getsockname()[0]


def interface_towards(address: str) -> str:
    """The name of the interface through which another host is reached; raises OSError without a route."""
    own = own_address_towards(address)
    for _, name in socket.if_nameindex():
        if own in _addresses(name):
            return name
    raise OSError(errno.ENODEV, f"no interface has the address {own}")


def free_port() -> int:
    """A port that nothing on this machine listens on."""
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise OSError(errno.EADDRINUSE, f"100 ports between {PORTS.start} and {PORTS.stop} are all in use")


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _addresses(interface: str) -> list[str]:
    """The addresses of an interface, of version 4 its first."""
    found = []
    if sys.platform == "linux":
        import fcntl

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
                found.append(socket.inet_ntoa(answer[20:24]))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV):
                    raise
        try:
            with open("/proc/net/if_inet6") as lines:
                rows = [line.split() for line in lines]
        except FileNotFoundError:  # a kernel without version 6
            rows = []
        found += [socket.inet_ntop(socket.AF_INET6, bytes.fromhex(row[0])) for row in rows if row[5] == interface]
    return found
