"""The processes of a study: what they run, and what happens when one dies."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from merging.study.pool import Pool


def double(x: int) -> int:
    return 2 * x


def die_once(marker: str) -> str:
    if Path(marker).exists():
        return "second time"
    Path(marker).touch()
    os.kill(os.getpid(), signal.SIGKILL)


def die(_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def visible(seconds: float) -> str:
    time.sleep(seconds)
    return os.environ["CUDA_VISIBLE_DEVICES"]


def leave(pid_file: str) -> None:
    Path(pid_file).write_text(str(os.getpid()))
    time.sleep(60)


def test_jobs_of_processes_that_die_are_tried_once_more_and_the_others_are_not_lost(tmp_path):
    async def all_jobs():
        pool = Pool(2)
        try:
            jobs = [pool.call(double, i) for i in range(6)]
            jobs += [pool.call(die_once, str(tmp_path / "marker")), pool.call(die, None)]
            return await asyncio.gather(*jobs, return_exceptions=True)
        finally:
            pool.close(at_once=False)

    *doubled, second, dead = asyncio.run(all_jobs())
    assert doubled == [0, 2, 4, 6, 8, 10] and second == "second time"
    assert isinstance(dead, RuntimeError) and "killed twice" in str(dead)


def test_more_processes_than_gpus_share_them():
    async def names():
        pool = Pool(3, gpus=("4", "7"))
        try:
            return await asyncio.gather(*(pool.call(visible, 0.5) for _ in range(6)))
        finally:
            pool.close(at_once=False)

    assert set(asyncio.run(names())) <= {"4", "7"}


def test_closing_at_once_ends_a_job(tmp_path):
    async def interrupted():
        pool = Pool(1)
        job = asyncio.create_task(pool.call(leave, str(tmp_path / "pid")))
        while not (tmp_path / "pid").exists():
            await asyncio.sleep(0.05)
        pool.close(at_once=True)
        job.cancel()

    asyncio.run(interrupted())
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
