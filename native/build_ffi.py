"""Compiles native/src into the extension module cl.buffers._replay; setuptools calls it (see setup.py).

UCX comes from the wheel libucx-cu12 or libucx-cu13, or from the system (UCX_HOME, or where the compiler looks). Without
it the buffer serves one rank, and says so when it is asked for more. REPLAY_UCX=no leaves it out.
"""

import os
import re
import sys
from pathlib import Path

from cffi import FFI

NATIVE = Path(__file__).resolve().parent
SOURCES = NATIVE / "src"


def declarations() -> str:
    """What cffi has to know of replay.h: the header without its preprocessor lines."""
    text = (NATIVE / "include" / "replay.h").read_text()
    constants = re.findall(r"#define RB_\w+ \d+", text)
    text = re.sub(r"#ifdef __cplusplus\n.*?#endif", "", text, flags=re.DOTALL)
    text = re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    return "\n".join([*constants, text.replace("RB_API ", "")])


def ucx() -> dict[str, list[str]] | None:
    """Compiler and linker options for UCX, or None where there is none."""
    if os.environ.get("REPLAY_UCX", "yes") == "no" or not sys.platform.startswith("linux"):
        return None
    places = [Path(os.environ["UCX_HOME"])] if os.environ.get("UCX_HOME") else []
    try:
        import libucx

        places.append(Path(libucx.__file__).parent)
    except ImportError:
        pass  # then the system's
    places += [Path("/usr"), Path("/usr/local")]
    for place in places:
        if not (place / "include" / "ucp" / "api" / "ucp.h").is_file():
            continue
        system = place == Path("/usr")
        return {
            "include_dirs": [] if system else [str(place / "include")],
            "library_dirs": [] if system else [str(place / "lib")],
            "libraries": ["ucp", "ucs"],
        }
    return None


def builder() -> FFI:
    ffi = FFI()
    ffi.cdef(declarations())
    found = ucx()
    left_out = "transport_none.cpp" if found else "transport_ucx.cpp"
    # Paths as setuptools wants them: relative to the folder of setup.py.
    sources = sorted(f"native/src/{path.name}" for path in SOURCES.glob("*.cpp") if path.name != left_out)
    headers = [path.relative_to(NATIVE.parent).as_posix() for path in NATIVE.glob("*/*.h")]
    ffi.set_source(
        "cl.buffers._replay",
        '#include "native/include/replay.h"',
        sources=sources,
        depends=headers,
        source_extension=".cc",
        extra_compile_args=["-std=c++17", "-O3", "-g0", "-Wall", "-Wextra", "-fvisibility=hidden"],
        **_merged({"include_dirs": ["."]}, found or {}),
    )
    return ffi


def _merged(one: dict[str, list[str]], other: dict[str, list[str]]) -> dict[str, list[str]]:
    return {key: one.get(key, []) + other.get(key, []) for key in one.keys() | other.keys()}


ffi = builder()
