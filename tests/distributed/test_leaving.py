"""Ranks end with the status of what they did, whatever the threads of their engine still do."""

import re
from pathlib import Path

from launching import OPTIONS
from support import ROOT

from cl.distributed.launch import start_ranks

WORKER = Path(__file__).with_name("leaving_worker.py")


def test_a_rank_that_leaves_is_not_aborted_by_a_thread_that_frees_a_tensor(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    start_ranks(OPTIONS, ["leave"], timeout=60, program=[str(WORKER)])  # raises RanksFailed


def test_every_script_that_connects_ends_without_the_interpreter():
    files = [path for folder in ("benchmarks", "scripts", "tests") for path in (ROOT / folder).rglob("*.py")]
    texts = {path.name: path.read_text() for path in files}
    connecting = {
        name for name, text in texts.items() if re.search(r"^from cl.distributed.group .*connect", text, re.M)
    }
    assert {"hidden_cost.py", "ranks.py", WORKER.name} <= connecting
    assert {name for name in connecting if not re.search(r"\b(leave|os\._exit)\(", texts[name])} == set()
