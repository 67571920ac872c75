"""Fixtures for the tests of launchers."""

import sys

import pytest
from launching import OPTIONS, SCRIPT
from support import ROOT

from cl.distributed import launch


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start ranks of `launched.py` with these words; without waiting for a rank that has failed."""
    monkeypatch.setenv("LAUNCHED_FOLDER", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(sys, "argv", [str(SCRIPT)])
    for name in ("GRACE_SECONDS", "LOST_SECONDS"):
        monkeypatch.setattr(launch, name, 0.5)

    def run(*words, timeout=None, **options):
        launch.start_ranks(OPTIONS | options, list(words), timeout)

    return run
