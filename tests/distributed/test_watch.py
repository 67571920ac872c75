"""Ranks that hang, are late or are gone: whose fault it is, and that all end; with real processes of both engines."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import ROOT

from cl.distributed import environments

WORKER = Path(__file__).with_name("watch_worker.py")
TIMEOUT = 3.0
NAMED = r"rank {} \(host \S+, process {}\)"
SILENT = NAMED + r" has been silent for [2-4] s; ranks {}, {} wait for it "
IN_EXCHANGE, IN_BUFFER = r"in exchange \d+ \(\w+\); all ranks end", "in the replay buffer; all ranks end"

# engine, struck rank, where, how, what is said by whom
CASES = [
    ("horovod", 0, "compute", "SIGSTOP", SILENT + IN_EXCHANGE),
    ("horovod", 2, "exchange", "SIGSTOP", SILENT + IN_EXCHANGE),
    ("horovod", 1, "replay", "SIGSTOP", SILENT + IN_BUFFER),
    ("horovod", 1, "compute", "SIGKILL", NAMED + " is gone: its connection has closed without a word"),
    ("torch", 0, "exchange", "SIGSTOP", SILENT + IN_EXCHANGE),
    ("torch", 1, "compute", "SIGSTOP", SILENT + IN_EXCHANGE),
    ("torch", 2, "replay", "SIGSTOP", SILENT + IN_BUFFER),
    ("torch", 1, "compute", "sleep", NAMED + r" is alive but 3 s late, the last exchange was 30; ranks {}, {} wait"),
    ("torch", 2, "compute", "error", NAMED + " has left the others"),
    ("torch", 0, "nowhere", "none", None),
    ("torch", 1, "compute", "pause", None),
    ("horovod", 0, "nowhere", "none", None),
    ("horovod", 2, "compute", "pause", None),
]  # fmt: skip


class Group:
    """Three ranks, of which one is struck: `pids`, `statuses`, what was printed, and `seconds` until the last ended."""

    def __init__(self, folder: Path):
        self.__dict__ |= json.loads((folder / "result.json").read_text())
        self.out, self.err = ([(folder / f"{name}{rank}").read_text() for rank in range(3)] for name in ("out", "err"))


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    """A function that returns a group once it has ended; all of them mostly wait, side by side."""
    has_horovod = importlib.util.find_spec("horovod") is not None
    made = {"horovod": environments.horovod, "torch": environments.torchrun}
    folders, lines = {}, []
    with ExitStack() as opened:
        for engine, struck, where, how, _ in CASES:
            if engine == "torch" or has_horovod:
                folder = folders[engine, struck, where, how] = tmp_path_factory.mktemp("group")
                lines.append({
                    "engine": engine, "timeout": TIMEOUT, "struck": struck, "where": where, "how": how,
                    "environments": opened.enter_context(made[engine](3)), "folder": str(folder),
                })  # fmt: skip
        # Which tensors Horovod sends in one message depends on the time, and with it the order of sums of three ranks.
        env = {**os.environ, "PYTHONPATH": str(ROOT), "HOROVOD_FUSION_THRESHOLD": "0"}
        worker = subprocess.Popen([sys.executable, WORKER], stdin=subprocess.PIPE, text=True, env=env, cwd=ROOT)
        opened.callback(worker.kill)
        worker.stdin.write("".join(json.dumps(line) + "\n" for line in lines))
        worker.stdin.close()

        def get(*case) -> Group:
            if case not in folders:
                pytest.skip("Horovod is not installed: `make horovod` builds it")
            deadline = time.monotonic() + 120
            while not (folders[case] / "result.json").exists():
                assert time.monotonic() < deadline and worker.poll() in (None, 0)
                time.sleep(0.05)
            return Group(folders[case])

        yield get


@pytest.mark.parametrize("engine, struck, where, how, line", CASES, ids=[" ".join(map(str, c[:4])) for c in CASES])
def test_those_that_wait_name_the_rank_and_end(groups, engine, struck, where, how, line):
    group = groups(engine, struck, where, how)
    others = [rank for rank in range(3) if rank != struck]
    said = [line for err in group.err for line in err.splitlines() if line.startswith("rank ")]
    if line is None:
        reference = groups(engine, 0, "nowhere", "none")
        assert group.statuses == [0, 0, 0], group.err
        assert group.out == reference.out and said == []
        assert len(set(group.out)) == 1 and float(group.out[0].split()[0]) != 0
        return
    own = {"SIGSTOP": None, "SIGKILL": -signal.SIGKILL, "sleep": 75, "error": 1}[how]
    assert group.statuses == [own if rank == struck else 75 for rank in range(3)], group.err
    expected = line.format(struck, group.pids[struck], *others)
    if how in ("SIGSTOP", "sleep"):  # one line in all, of the lowest living rank
        speaker = 0 if how == "sleep" else others[0]
        assert len(said) == 1 and re.match(f"rank {speaker}: error: {expected}", said[0]), said
        if how == "SIGSTOP":
            assert group.seconds < TIMEOUT + 3
    else:
        assert [
            bool(re.match(f"rank {rank}: {expected}", text))
            for rank, text in zip(
                others, [err.splitlines()[-1] for rank, err in enumerate(group.err) if rank != struck]
            )
        ] == [True, True], group.err
