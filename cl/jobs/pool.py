"""Processes for jobs, and the queue of the jobs."""

import asyncio
import contextlib
import queue
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

from cl.jobs import worker
from cl.jobs.server import server

ENDED = (EOFError, ConnectionError)  # what is raised where a process has ended


class Pool:
    """`size` processes, each for one job at a time; `gpus`: names of GPUs, of which each has one.

    A process that dies (out of memory, a crash in a library) is replaced, and its job is tried once more, alone. One
    that kills its process again has failed; the other jobs go on.
    """

    def __init__(self, size: int, gpus: Sequence[str] = (), modules: Sequence[str] = ()):
        """`modules`: further ones to import before processes are forked, if this is the first pool."""
        self.size, self.gpus, self.modules = size, gpus, modules
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._controls: dict[int, socket.socket] = {}  # of the processes, by number
        self._changed = threading.Condition()  # of what follows
        self._running, self._alone, self._closing = 0, 0, False

    def submit(self, function: Callable, *arguments) -> Future:
        """Let a process do a function that can be pickled; the future raises RuntimeError if it ends two of them."""
        future: Future = Future()
        self._jobs.put((future, function, arguments))
        if len(self._threads) < self.size:
            number = len(self._threads)
            thread = threading.Thread(target=self._serve, args=(number,), name=f"job {number}", daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    async def call(self, function: Callable, *arguments):
        """The result of `submit`, for coroutines."""
        return await asyncio.wrap_future(self.submit(function, *arguments))

    def close(self, at_once: bool) -> None:
        """End the processes, when all jobs are done; `at_once`: now, after each has saved its run."""
        if at_once:
            with self._changed:
                self._closing = True
                for control in self._controls.values():
                    with contextlib.suppress(OSError):  # it has just ended
                        control.send(worker.STOP)
                self._changed.notify_all()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self, number: int) -> None:
        """A thread for one process: hands it jobs and takes the results."""
        process = _Process(self, number)
        try:
            while (job := self._jobs.get()) is not None and not self._closing:
                future, function, arguments = job
                if not future.set_running_or_notify_cancel():
                    continue
                try:
                    result = self._done(process, function, *arguments)
                except _Closed:
                    return
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
        finally:
            process.close()

    def _done(self, process: "_Process", function: Callable, *arguments):
        for alone in (False, True):
            with self._turn(alone):
                try:
                    good, result = process.do(function, *arguments)
                except ENDED as error:
                    process.close()
                    if self._closing:
                        raise _Closed from error
                    last = error
                    continue
            if good:
                return result
            raise result
        raise RuntimeError("its process was killed twice, perhaps for want of memory") from last

    @contextlib.contextmanager
    def _turn(self, alone: bool) -> Iterator[None]:
        """The time for a job: beside others, or after them while no other begins."""
        with self._changed:
            self._alone += alone
            free = (lambda: not self._running) if alone else (lambda: not self._alone)
            self._changed.wait_for(lambda: free() or self._closing)
            if self._closing:
                raise _Closed
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._alone -= alone
                self._changed.notify_all()


class _Closed(Exception):
    """The pool is closed in the middle of a job."""


class _Process:
    """One place of the pool: a process that is started for the first job, and again after it has ended."""

    def __init__(self, pool: Pool, number: int):
        self.pool, self.number = pool, number
        self.jobs = None

    def do(self, function: Callable, *arguments):
        """Raises what the function raises, and one of ENDED if the process ends meanwhile."""
        if self.jobs is None:
            self._start()
        return worker.finish(self.jobs, function, *arguments)

    def _start(self) -> None:
        gpus = self.pool.gpus
        jobs, control = server(self.pool.modules).fork()
        jobs.send(worker.here(gpus[self.number % len(gpus)] if gpus else None))
        with self.pool._changed:
            self.jobs, self.pool._controls[self.number] = jobs, control
            if self.pool._closing:
                raise EOFError

    def close(self) -> None:
        with self.pool._changed:
            control = self.pool._controls.pop(self.number, None)
        if control is not None:
            self.jobs.close()
            control.close()
        self.jobs = None
