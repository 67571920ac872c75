"""Two hosts that are network namespaces: a run has the bits of one host and leaves no process after a loss."""

import subprocess
import sys

import pytest
from support import ROOT


def test_a_run_over_two_hosts_has_the_bits_of_one_and_ends_when_a_host_is_lost():
    line = [sys.executable, str(ROOT / "benchmarks" / "hosts.py"), "--engines=torchrun", "--cases=finished,host"]
    done = subprocess.run([*line, "--timeout=60"], capture_output=True, text=True, timeout=300)
    if done.returncode == 2:
        pytest.skip(f"needs Linux, root and the command ip: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "equal bits" in done.stdout and "host 10.77.0.2 was lost" in done.stdout, done.stdout


# One sends a question and then what it is told, back to the other.
TALK = """
import socket, sys, time
place, content = ("10.77.0.1", 5000), bytes(range(256)) * 8192
read = lambda peer: b"".join(iter(lambda: peer.recv(1 << 16), b""))
if sys.argv[1] == "listen":
    listener = socket.create_server(place)
    print("ready", flush=True)
    peer, _ = listener.accept()
    peer.recv(1)
    peer.sendall(content)
    peer.shutdown(socket.SHUT_WR)
    print(read(peer) == content[1:])
else:
    peer = socket.create_connection(place)
    began = time.perf_counter()
    peer.sendall(b"?")
    peer.recv(1)
    print(time.perf_counter() - began)
    peer.sendall(read(peer))
"""


def test_packets_between_two_hosts_at_a_distance_come_late_and_unharmed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from namespaces import TwoHosts

    try:
        hosts = TwoHosts(tmp_path, delay=30).__enter__()
    except OSError as error:
        pytest.skip(f"needs Linux, root, the command ip, and netem or /dev/net/tun: {error}")
    try:
        options = {"stdout": subprocess.PIPE, "text": True}
        listening = subprocess.Popen([hosts.wrappers[0], "-c", TALK, "listen"], **options)
        assert listening.stdout.readline() == "ready\n"
        calling = subprocess.Popen([hosts.wrappers[1], "-c", TALK, "call"], **options)
        seconds, unharmed = calling.communicate(timeout=60)[0], listening.communicate(timeout=60)[0]
        assert hosts.carried_bytes() > 2 << 20
    finally:
        hosts.__exit__()
    assert unharmed == "True\n"
    assert 0.06 <= float(seconds) < 5  # there and back
