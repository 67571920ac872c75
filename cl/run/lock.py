"""One process at a time in a folder: a lock that vanishes with its process, however that ends. Needs no torch.

It is the lock of the operating system on a file `.lock` in the folder, which also holds between the hosts of an NFS.
The file says who holds it, and goes when the holder is done. One that a killed process has left locks nothing: the
next process takes it over.
"""

import datetime
import errno
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NAME = ".lock"
POLL = 0.5  # seconds between two looks at a lock that is waited for
PATIENCE = 0.3  # seconds in which a lock that is held for a moment comes free, and its holder writes who it is
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # of file systems that have none

_held: set[Path] = set()  # folders that this process has locked


class InUseError(ValueError):
    """Another process works in the folder."""


@contextmanager
def locked(folder: Path, remedy: str = "wait until it ends, or end that process", wait: bool = False) -> Iterator[None]:
    """Nobody else inside such a block for the same folder, which is made if needed; a block within a block may be.

    Raises InUseError, which names the holder, if another process is inside; `remedy` says what to do. With `wait` one
    line says so instead, and the block begins when that process is done. Raises OSError if the folder cannot be
    written.
    """
    place = folder.absolute()
    if place in _held:
        yield
        return
    made = [each for each in (place, *place.parents) if not each.exists()]
    descriptor = _taken(place / NAME, folder, None if wait else remedy)
    _held.add(place)
    try:
        yield
    finally:
        _held.remove(place)
        # Still locked, so nobody else can have it. Where the folder can no longer be written, the file stays, and the
        # lock goes all the same.
        with suppress(OSError):
            (place / NAME).unlink()
        os.close(descriptor)
        with suppress(OSError):  # not empty: there is something in it now
            for each in made:
                each.rmdir()


def _taken(file: Path, folder: Path, remedy: str | None) -> int:
    """A descriptor of the file, with the lock; `remedy` None: waits for it."""
    until, waits_for = time.monotonic() + PATIENCE, None
    while True:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except (FileNotFoundError, FileExistsError):  # another process has removed the folder, which was empty
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                print(
                    f"{folder} is on a file system without locks ({error.strerror}): see to it that no other command "
                    "works in it",
                    file=sys.stderr,
                )
                return descriptor
            holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise OSError(error.errno, error.strerror, str(file)) from error
            if time.monotonic() <= until:
                time.sleep(0.02)
                continue
            holder = holder or "another process"
            if remedy is not None:
                raise InUseError(f"{folder} is in use by {holder}: {remedy}") from error
            if holder != waits_for:  # one after the other may have it
                print(f"{folder} is in use by {holder}: waiting until it ends", file=sys.stderr, flush=True)
                waits_for = holder
            time.sleep(POLL)
            until = time.monotonic() + PATIENCE
            continue
        if _is(descriptor, file):
            with suppress(OSError):  # on a full disk the lock holds as well, but says nothing of its holder
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, _me().encode(), 0)
            return descriptor
        os.close(descriptor)  # its holder has removed it meanwhile


def _is(descriptor: int, file: Path) -> bool:
    """Whether a file that is open is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False


def _me() -> str:
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"process {os.getpid()} on {socket.gethostname()} since {now}\n"
