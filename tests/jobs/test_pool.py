"""The processes for jobs: what they run, how they are made, and what happens when one dies or the client does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import open_dict
from support import ROOT

from cl.jobs import launching, sizes
from cl.jobs.pool import Pool


def double(x: int) -> int:
    return 2 * x


def die_once(marker: str) -> str:
    if Path(marker).exists():
        return "second time"
    Path(marker).touch()
    os.kill(os.getpid(), signal.SIGKILL)


def die(_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(text: str) -> None:
    raise ValueError(text)


def visible(seconds: float) -> str:
    time.sleep(seconds)
    return os.environ["CUDA_VISIBLE_DEVICES"]


def stay(pid_file: str) -> None:
    Path(pid_file).write_text(str(os.getpid()))
    time.sleep(60)


def world() -> dict:
    import numpy as np
    import torch

    tasks = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 2
    return {
        "pid": os.getpid(), "draws": (np.random.rand(), torch.rand(()).item()), "threads": torch.get_num_threads(),
        "folder": os.getcwd(), "word": os.environ.get("WORD"), "main": sys.modules["__main__"].__dict__.get("__file__"),
        "tasks": tasks,
    }  # fmt: skip


@pytest.fixture
def pool():
    opened = Pool(2)
    yield opened
    opened.close(at_once=False)


def ends(pid: int) -> bool:
    """Whether a process ends within seconds."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def read(file: Path) -> int:
    while not file.exists() or not file.read_text():
        time.sleep(0.02)
    return int(file.read_text())


def test_jobs_of_processes_that_die_are_tried_once_more_and_the_others_are_not_lost(tmp_path, pool):
    doubled = [pool.submit(double, i) for i in range(6)]
    second, dead = pool.submit(die_once, str(tmp_path / "marker")), pool.submit(die, None)
    refused = pool.submit(refuse, "no")
    assert [job.result(60) for job in doubled] == [0, 2, 4, 6, 8, 10] and second.result(60) == "second time"
    with pytest.raises(RuntimeError, match="killed twice"):
        dead.result(60)
    with pytest.raises(ValueError, match="^no$"):
        refused.result(60)


def test_a_process_is_in_the_world_of_its_client_and_shares_no_randomness(tmp_path, pool, monkeypatch):
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORD", "changed since the server was started")
    pids, draws = set(), set()
    while len(pids) < 2:
        jobs = [pool.submit(world) for _ in range(2)]
        for found in (job.result(60) for job in jobs):
            pids.add(found["pid"])
            draws.add(found["draws"])
            assert found["folder"] == str(tmp_path) and found["word"] == os.environ["WORD"]
            assert found["threads"] == torch.get_num_threads() and found["tasks"] == 2  # and the one that obeys
            assert found["main"] is None  # nothing of the client's script has run
    assert len(draws) >= 2 and os.getpid() not in pids


def test_more_processes_than_gpus_share_them():
    pool = Pool(3, gpus=("4", "7"))
    jobs = [pool.submit(visible, 0.3) for _ in range(3)]
    assert sorted(job.result(60) for job in jobs) == ["4", "4", "7"]
    pool.close(at_once=False)


def test_closing_at_once_ends_a_job(tmp_path):
    pool = Pool(1)
    pool.submit(stay, str(tmp_path / "pid"))
    pid = read(tmp_path / "pid")
    pool.close(at_once=True)
    assert ends(pid)


KILLED = """
import sys
sys.path[:0] = {path!r}
from cl.jobs.pool import Pool
from test_pool import stay
job = Pool(1).submit(stay, {file!r})
print(job.result())
"""


def test_a_client_that_is_killed_leaves_no_process(tmp_path):
    file = tmp_path / "pid"
    code = KILLED.format(path=[str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "jobs")], file=str(file))
    script = tmp_path / "script.py"  # without `if __name__ == "__main__"`
    script.write_text(code)
    with subprocess.Popen([sys.executable, str(script)]) as client:
        pid = read(file)
        server = int(Path(f"/proc/{pid}/stat").read_text().split()[3]) if sys.platform == "linux" else pid
        client.kill()
    assert ends(pid) and ends(server)


def test_an_error_that_looks_like_the_end_of_a_process_is_the_error_of_its_job():
    pool = Pool(1)
    future = pool.submit(_raise_end_of_file)
    with pytest.raises(EOFError, match="no data left"):
        future.result()
    pool.close(at_once=False)


def _raise_end_of_file() -> None:
    raise EOFError("no data left")


def test_auto_takes_the_processors_for_the_threads_of_the_jobs(compose_config):
    with open_dict(config := compose_config("device=cpu", "threads=1")):
        config.hydra = {"job": {"num": "???"}}  # as the configuration of a job has it
    pool = launching._pool("auto", [config])
    assert pool.size == sizes.processors()
