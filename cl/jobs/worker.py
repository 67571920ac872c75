"""What a process of the pool does: one job after the other, so that torch is imported once for many."""

import gc
import os
import pickle
import random
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

from cl import signals

STOP = b"s"


@dataclass(frozen=True)
class World:
    """What a new process takes over from its client, which may have changed since the server was started."""

    environment: dict[str, str]
    folder: str
    path: list[str]
    script: str


def here(gpu: str | None) -> World:
    """The world of this process; `gpu`: the name of the only GPU that jobs may see, None for all of them."""
    environment = dict(os.environ)
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    return World(environment, os.getcwd(), list(sys.path), sys.argv[0])


def work(jobs: Connection, control: socket.socket) -> int:
    """Do jobs until the client has no more; returns the exit status."""
    _begin(jobs.recv(), control)
    while True:
        try:
            content = jobs.recv_bytes()
        except (EOFError, ConnectionError):
            return 0
        try:
            function, arguments = pickle.loads(content)
            answer = True, function(*arguments)
            content = pickle.dumps(answer)
        except signals.Stopped as stopped:  # by the client, which is ending
            return 128 + stopped.number
        except BaseException as error:
            content = pickle.dumps((False, _portable(error)))
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            jobs.send_bytes(content)
        except ConnectionError:
            return 1
        gc.collect()  # a run's data are in cycles; several processes cannot wait until there is enough of them
        gc.freeze()  # what is left is the libraries', and need not be looked at again


def _begin(world: World, control: socket.socket) -> None:
    import numpy as np
    import torch

    gc.enable()
    os.chdir(world.folder)
    os.environ.clear()
    os.environ.update(world.environment)
    sys.path[:] = world.path
    sys.argv[:] = [world.script]
    random.seed()  # otherwise all processes would draw the same numbers
    np.random.seed()
    torch.default_generator.seed()
    signals.listen(outside=lambda number: os._exit(128 + number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the client stops its processes itself: a run is saved then
    threading.Thread(target=_obey, args=(control,), daemon=True).start()


def _obey(control: socket.socket) -> None:
    """Stop when the client says so, and end when it is gone: the next command may start the same job."""
    while control.recv(1) == STOP:
        os.kill(os.getpid(), signal.SIGTERM)
    os._exit(1)


def _portable(error: BaseException) -> BaseException:
    """An error that the client can read: itself, or one of its name and text."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError("".join(traceback.format_exception_only(error)).strip())


def finish(jobs: Connection, function: Callable, *arguments):
    """Of the client: do a job in the process at the other end; whether that went well, and its result or its error.

    Raises EOFError or ConnectionError if the process ends meanwhile.
    """
    content = pickle.dumps((function, arguments))
    jobs.send_bytes(content)
    return pickle.loads(jobs.recv_bytes())
