"""Files that are there whole or not at all: written beside their place, then renamed onto it."""

import errno
import io
import os
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path, mode: str = "wb"):
    """A file object whose content replaces `path` when the block ends, and vanishes when it raises.

    Content and name are on the disk when it returns, so that a crash of the system does not take them back. An OSError
    from a full or read-only disk names `path`.
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
    """Bring the names in a folder to the disk: those of files that were renamed or removed in it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot do this to folders
            raise
    finally:
        os.close(descriptor)


def save_tensors(path: Path, content: dict) -> None:
    """`torch.save` that is whole or not at all; through memory, because torch reports a full disk as a broken file."""
    import torch

    memory = io.BytesIO()
    torch.save(content, memory)
    with atomic_write(path) as file:
        file.write(memory.getbuffer())
