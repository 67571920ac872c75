"""Ranks end with the status of what they did, whatever the threads of their engine still do."""

from pathlib import Path

from launching import OPTIONS

from cl.distributed.launch import start_ranks

WORKER = Path(__file__).with_name("leaving_worker.py")


def test_a_rank_that_leaves_is_not_aborted_by_a_thread_that_frees_a_tensor(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(WORKER.parents[2]))
    start_ranks(OPTIONS, ["leave"], timeout=60, program=[str(WORKER)])  # raises RanksFailed
