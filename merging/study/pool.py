"""The processes of a study, and the queue of its jobs."""

import asyncio
import contextlib
import multiprocessing
import os
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from merging.study import worker


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pool:
    """`size` processes, each for one job at a time; `gpus`: names of GPUs, of which each has one.

    A process that dies (out of memory, a crash in a library) takes the others of its pool along: all get a new one, and
    of the jobs that were running each is tried once more, alone. One that kills its process again has failed.
    """

    def __init__(self, size: int, gpus: Sequence[str] = ()):
        self.size, self.gpus = size, gpus
        self._executor: ProcessPoolExecutor | None = None
        self._free = asyncio.Semaphore(size)
        self._alone, self._open = asyncio.Lock(), asyncio.Event()
        self._open.set()

    async def call(self, function: Callable, *arguments):
        """The result of a function in one of the processes; raises RuntimeError if it ends the process twice."""
        async with self._slot():
            try:
                return await self._submit(function, *arguments)
            except BrokenProcessPool:
                pass
        async with self._alone, contextlib.AsyncExitStack() as stack:
            self._open.clear()  # no other job begins meanwhile
            stack.callback(self._open.set)
            for _ in range(self.size):
                await stack.enter_async_context(self._free)
            try:
                return await self._submit(function, *arguments)
            except BrokenProcessPool as error:
                raise RuntimeError("the process of this run was killed twice, perhaps for want of memory") from error

    @contextlib.asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """One of the places for jobs, once there is one and no job has to be alone."""
        while True:
            await self._open.wait()
            async with self._free:
                if self._open.is_set():
                    yield
                    return

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
            for number in range(self.size):
                gpus.put(self.gpus[number % len(self.gpus)])
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
