"""The tests of the C++ library, as `make -C native test` runs them: in C++, and from C through replay.h alone."""

import fcntl
import os
import re
import shutil
import subprocess
import sys

import pytest
from support import ROOT

PROGRAMS = re.search(r"^TESTS \?= (.*)$", (ROOT / "native" / "Makefile").read_text(), re.MULTILINE)[1].split()


def test_every_file_of_tests_is_a_program():
    assert sorted(PROGRAMS) == sorted(["abi", *(path.stem for path in (ROOT / "native" / "tests").glob("test_*.cpp"))])


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_library_passes_its_own_tests(program, build):
    done = subprocess.run([*build, f"TESTS={program}", "test"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.fixture(scope="module")
def build() -> list[str]:
    """The command that builds and runs; everything is built once, in the folder that `make -C native test` uses too."""
    for tool in ("make", os.environ.get("CXX") or "g++"):
        if shutil.which(tool) is None:
            pytest.skip(f"the tests of the C++ library need {tool}, and there is none")
    command = ["make", "-C", str(ROOT / "native"), f"PYTHON={sys.executable}"]
    jobs = min(4, os.cpu_count() or 1)
    folder = ROOT / "native" / "build"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:  # other tests may build there at the same time
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run([*command, f"-j{jobs}", "programs"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return command
