"""The worked examples of docs/examples/, used as their user does: from a folder of one's own, or within the process."""

import shutil
import sys
from pathlib import Path

import pytest
from support import ROOT

from cl.buffers.insertion import InsertionPolicy
from cl.buffers.sampling import SamplingPolicy
from cl.configuration import place
from cl.configuration.composing import composed

EXAMPLES = ROOT / "docs" / "examples"


@pytest.fixture
def alone(tmp_path):
    """A function that copies one module and one file of options, and nothing else; returns the folder of the latter."""

    def copy(module: str, group: str, name: str) -> Path:
        folder = tmp_path / "project" / "conf"
        (folder / group).mkdir(parents=True, exist_ok=True)
        shutil.copy(EXAMPLES / f"{module}.py", folder.parent)
        shutil.copy(EXAMPLES / "conf" / group / f"{name}.yaml", folder / group)
        return folder

    return copy


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A function from overrides to a configuration with the examples; what it makes known is forgotten afterwards."""
    monkeypatch.setattr(place, "_own", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    for kind in (InsertionPolicy, SamplingPolicy):
        monkeypatch.setattr(kind, "known", dict(kind.known))
    before = set(sys.modules)

    def make(*words: str, command: str = "run"):
        return composed(command, [f"output={tmp_path / 'out'}", *words], EXAMPLES / "conf")

    yield make
    for name in set(sys.modules) - before:
        if name.startswith(("my_", "lacking")):
            del sys.modules[name]
