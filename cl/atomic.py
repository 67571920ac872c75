"""Atomic files: written to a temporary file in the same folder, then renamed."""

import errno
import io
import json
import os
from contextlib import contextmanager
from pathlib import Path

from cl import checksums


@contextmanager
def atomic_write(path: Path, mode: str = "wb"):
    """A file object whose content replaces `path` when the block ends, and is discarded if the block raises.

    File and name are on disk when the block ends, so a crash of the system cannot undo the write.
    Raises OSError, which names `path`, for a full or read-only disk.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def sync_folder(folder: Path) -> None:
    """Write the entries of a folder to disk, after a file in it was renamed or removed."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot do this to folders
            raise
    finally:
        os.close(descriptor)


def save_tensors(path: Path, content: dict) -> None:
    """Atomic `torch.save`; it writes through memory, because torch reports a full disk as a broken file."""
    import torch

    memory = io.BytesIO()
    torch.save(content, memory)
    with atomic_write(path) as file:
        file.write(memory.getbuffer())


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file atomically, with the checksum that `cl.checksums.read_json` compares."""
    told = {key: value for key, value in content.items() if key != checksums.ENTRY}
    told = json.loads(json.dumps(told))  # as it will be read: names are text, tuples are lists
    with atomic_write(path, "w") as file:
        json.dump(told | {checksums.ENTRY: checksums.of_json(told)}, file, indent=1)
        file.write("\n")
