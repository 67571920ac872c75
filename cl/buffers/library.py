"""The C++ library of the replay memory: found and loaded, its policies by name, and its errors as exceptions."""

from collections.abc import Callable

from cl.buffers.policy import Policy
from cl.buffers.settings import check_native

try:
    try:
        import libucx

        libucx.load_library()
    except ImportError:
        libucx = None  # then the system's, or a library that was built without
    from cl.buffers._replay import ffi, lib
except ImportError as error:
    raise ValueError(
        f"buffer=native is a C++ extension, which cannot be loaded ({error}); `pip install -e .` or `make setup` "
        "builds it, buffer=reference does without (one process only)"
    ) from error


class PeerError(RuntimeError):
    """Another rank is gone or does not answer."""


def native_policies(name_at: Callable) -> list[str]:
    """The names that the library has; `name_at`: its function from a place to a name."""
    names = []
    while (name := name_at(len(names))) != ffi.NULL:
        names.append(ffi.string(name).decode())
    return names


def check_both_sides(key: str, name: str, kind: type[Policy], name_at: Callable) -> None:
    """Raise ValueError for a policy that only Python or only the library has."""
    check_native(key, name)
    here, there = name in list(kind.known), name in native_policies(name_at)
    if here and not there:
        raise ValueError(
            f"buffer.{key}={name} is missing in the C++ library: add native/src/{key}_{name}.cpp and build it again "
            "with `pip install -e .`, or use buffer=reference (one process only)"
        )
    if there and not here:
        raise ValueError(f"buffer.{key}={name} is missing in Python: add cl/buffers/{key}_{name}.py")


def text(value: str):
    """A string of C, which lives as long as what is returned."""
    return ffi.new("char[]", value.encode())


def check(status: int) -> None:
    """Raise the exception of a status of the library, with its message."""
    if status:
        raise_error(status)


def raise_error(status: int) -> None:
    """Raise PeerError, ValueError, OSError, or RuntimeError for a fault of the library."""
    message = ffi.string(lib.rb_error()).decode(errors="replace")
    if status == lib.RB_PEER:
        raise PeerError(message)
    if status == lib.RB_INVALID:
        raise ValueError(message)
    raise OSError(message) if status == lib.RB_SYSTEM else RuntimeError(message)
