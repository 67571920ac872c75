"""The processes of a study, and the queue of its jobs."""

import asyncio
import contextlib
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from merging.study import worker


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pool:
    """`size` processes, each for one job at a time; with `gpus`, each has one of them.

    A process that dies (out of memory, a crash in a library) takes the others of its pool along: all get a new one, and
    of the jobs that were running each is tried once more, alone. One that kills its process again has failed.
    """

    def __init__(self, size: int, gpus: int = 0):
        self.size, self.gpus = size, gpus
        self._executor: ProcessPoolExecutor | None = None
        self._free = asyncio.Semaphore(size)
        self._alone = asyncio.Lock()

    async def call(self, function: Callable, *arguments):
        """The result of a function in one of the processes; raises RuntimeError if it ends the process twice."""
        async with self._free:
            try:
                return await self._submit(function, *arguments)
            except BrokenProcessPool:
                pass
        async with self._alone, contextlib.AsyncExitStack() as stack:
            for _ in range(self.size):  # nothing else runs meanwhile
                await stack.enter_async_context(self._free)
            try:
                return await self._submit(function, *arguments)
            except BrokenProcessPool as error:
                raise RuntimeError("the process of this run was killed twice, perhaps for want of memory") from error

    async def _submit(self, function: Callable, *arguments):
        if self._executor is None:
            self._executor = self._started()
        executor = self._executor
        try:
            return await asyncio.wrap_future(executor.submit(function, *arguments))
        except BrokenProcessPool:
            if self._executor is executor:
                self._executor = None
            executor.shutdown(wait=False, cancel_futures=True)
            raise

    def _started(self) -> ProcessPoolExecutor:
        context, gpus = multiprocessing.get_context("spawn"), None
        if self.gpus:
            gpus = context.Queue()
            for number in range(self.gpus):
                gpus.put(number)
        return ProcessPoolExecutor(self.size, mp_context=context, initializer=worker.start, initargs=(gpus,))

    def close(self, at_once: bool) -> None:
        """End the processes; `at_once`: also in the middle of a job."""
        executor, self._executor = self._executor, None
        if executor is None:
            return
        if not at_once:
            executor.shutdown()
            return
        processes = list((executor._processes or {}).values())
        executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
