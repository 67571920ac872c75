"""A run over two hosts that are network namespaces: the same bits as on one host, and no process left after a loss."""

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
