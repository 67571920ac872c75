"""What several tests share: configurations composed from the real conf/, and where real data may be."""

import gc
import os
import signal
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from support import ROOT

from cl.configuration.composing import register_resolvers
from cl.signals import SIGNALS


def pytest_configure() -> None:
    """Before torch is imported: tests run side by side, and a step shared among threads of busy cores takes longer."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors, as tests of several ranks and of signals wait much of their time."""
    return min(4, (os.cpu_count() or 1) + 1)


def pytest_collection_finish() -> None:
    """What is collected stays, and torch with it: Python need not look for garbage in it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def handlers():
    """A command that ran within a test ignores signals at its end, and processes that are started would do so too."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def resolvers():
    register_resolvers()


@pytest.fixture
def compose_config(tmp_path):
    """A function from overrides to the configuration of run.py, or `name`.py, with output in the test's own folder."""

    def make(*overrides: str, name: str = "run"):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return compose(name, [f"output={tmp_path / 'multirun'}", *overrides])

    return make


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """The folder of the real MNIST files; a test that needs them is skipped, with a reason, where they are not."""
    places = [os.environ.get("REMERGE_DATA"), ROOT / "data", ROOT.parent / "shared" / "data"]
    for place in places:
        if place and (Path(place) / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
            return Path(place)
    pytest.skip("no MNIST: looked for MNIST/raw/ in $REMERGE_DATA, data/ and ../shared/data; set REMERGE_DATA=PATH")
