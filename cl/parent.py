"""What becomes of a process that multiprocessing has started when the one that started it is killed."""

import os
import threading
from multiprocessing import connection, parent_process


def end_with_parent(_=None) -> None:
    """End this process when its parent ends, however that comes about.

    Without it one that was made by a server of processes stays: its parent for the system is the server, and the server
    waits for it. The argument is the number that torch gives to a worker.
    """
    threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    connection.wait([parent_process().sentinel])
    os._exit(1)
