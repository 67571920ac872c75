"""Builds Horovod from its source distribution against the installed torch, and installs it.

    .venv/bin/python scripts/build_horovod.py

`pip install horovod` fails with every torch since 2.1, because that release sets an older C++ standard than torch's
headers accept. This script edits a few lines of the release (edits() below lists them with reasons), builds a wheel,
keeps it in the user's cache, installs it into the environment of the Python that runs the script, and tests it. It
returns at once if that was done before, and builds again after an upgrade of torch or Python.

Horovod's environment variables choose the build:

    HOROVOD_WITH_MPI=1, HOROVOD_WITHOUT_MPI=1   default: with MPI if mpicxx and mpirun are found; Gloo is always built
    HOROVOD_GPU_OPERATIONS=NCCL                 collectives on GPUs; needs a CUDA toolkit. Uses the NCCL of torch's
                                                wheels if they have one and no HOROVOD_NCCL_... is set
    HOROVOD_CUDA_HOME, HOROVOD_NCCL_HOME, ...   passed on (see BUILD_VARIABLE below for all of them)

These values, and whether MPI was found, are stored with the installed package. So a later call without them does not
replace a GPU build by a CPU build. Another value builds again; an empty one (HOROVOD_GPU_OPERATIONS=) removes the
choice. CMAKE_BUILD_PARALLEL_LEVEL limits the number of compiler processes.

Needs a C++ compiler and make; CMake comes from pip. Wheels and logs: ${XDG_CACHE_HOME:-~/.cache}/remerge/wheels.
"""

import contextlib
import difflib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from pathlib import Path

VERSION = "0.28.1"
SHA256 = "92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"
RECIPE = 1  # increase it when edits() or the build change, so that older wheels are no longer used

RECORD = "remerge_build.json"  # inside the installed package: the options of its build, see wanted()

# setup.py needs the run-time dependencies even for building. Old setuptools, because newer ones no longer support
# setup_requires. All of this goes into a temporary folder, never into the user's environment.
BUILD_REQUIREMENTS = [
    "cmake>=3.26,<5",
    "setuptools<81",
    "wheel",
    "cloudpickle",
    "psutil",
    "pyyaml",
    "packaging",
    "cffi",
]

# The variables that the release reads during the build. The others (HOROVOD_RANK, HOROVOD_TIMELINE ...) are for runs.
BUILD_VARIABLE = re.compile(
    r"HOROVOD_(WITH(OUT)?_\w+|GPU|GPU_\w+|CPU_OPERATIONS|ALLOW_MIXED_GPU_IMPL|CUDA_HOME|ROCM_HOME|NCCL_\w+|NVTX_\w+|"
    r"BUILD_\w+|DEBUG)"
)

CHECK = """
import horovod.torch as hvd
hvd.init()
assert hvd.size() == 1, f"world size {hvd.size()} in a single process"
assert hvd.gloo_built(), "built without Gloo"
print(*(name for name, built in (("gloo", hvd.gloo_built()), ("mpi", hvd.mpi_built()), ("nccl", hvd.nccl_built()))
        if built))
"""


class Failure(Exception):
    """An error for the user, shown without traceback."""


def say(text):
    print(f"horovod: {text}", file=sys.stderr, flush=True)


# ---- The wanted build -----------------------------------------------------------------------------------------------
def choose_options(env, remembered, find=shutil.which):
    """Returns the build variables: those of an earlier build, overridden by env, with defaults for the others."""
    given = {name: value for name, value in env.items() if BUILD_VARIABLE.fullmatch(name)}
    options = {**remembered, **given}
    # WITH_X and WITHOUT_X contradict each other, so a new one of them replaces the remembered one.
    for name in given:
        for this, other in ("HOROVOD_WITH_", "HOROVOD_WITHOUT_"), ("HOROVOD_WITHOUT_", "HOROVOD_WITH_"):
            opposite = other + name.removeprefix(this)
            if name.startswith(this) and opposite not in given:
                options.pop(opposite, None)
    options = {name: value for name, value in options.items() if value}

    for what in "PYTORCH", "GLOO":
        options.pop(f"HOROVOD_WITHOUT_{what}", None)
        options[f"HOROVOD_WITH_{what}"] = "1"
    for what in "TENSORFLOW", "MXNET":
        if options.get(f"HOROVOD_WITH_{what}") != "1":
            options[f"HOROVOD_WITHOUT_{what}"] = "1"
    if "1" not in (options.get("HOROVOD_WITH_MPI"), options.get("HOROVOD_WITHOUT_MPI")):
        # mpicxx for the build, mpirun for using it
        options["HOROVOD_WITH_MPI" if find("mpicxx") and find("mpirun") else "HOROVOD_WITHOUT_MPI"] = "1"
    return dict(sorted(options.items()))


def wants_gpu(options):
    return any(name.startswith("HOROVOD_GPU") for name in options)


def wants_mpi(options):
    return options.get("HOROVOD_WITH_MPI") == "1" and options.get("HOROVOD_WITHOUT_MPI") != "1"


def wanted(torch_version, env, installed, find=shutil.which):
    """Returns the record of the wanted build: everything in which a wheel must match the environment to work there.

    `installed` is the record of the installed build ({} if there is none).
    """
    options = choose_options(env, installed.get("options", {}), find)
    mpi = ""
    if wants_mpi(options):
        # Another MPI library has another ABI. If MPI is not found now (a module that is not loaded in this shell), the
        # recorded one is kept.
        compiler = find("mpicxx")
        mpi = os.path.realpath(compiler) if compiler else installed.get("mpi", "")
    libc = ""
    with contextlib.suppress(AttributeError, ValueError, OSError):  # some systems lack it, or os.confstr
        libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    return {
        "recipe": RECIPE,
        "horovod": VERSION,
        "torch": torch_version,
        "python": sysconfig.get_config_var("SOABI") or sys.implementation.cache_tag,
        "platform": sysconfig.get_platform(),
        "libc": libc,  # machines with different systems may share a home folder, and with it the cache
        "mpi": mpi,
        "options": options,
    }


def key(record):
    """Returns the name of a build's cache folder: readable at the front, unique by the hash at the end."""
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    name = f"horovod-{record['horovod']}-torch-{record['torch']}-{record['python']}-{digest[:16]}"
    return re.sub(r"[^\w.+-]", "_", name)


def read_record(site_packages):
    """Returns the record of the installed horovod; {} if there is none, or if this script did not install it."""
    try:
        record = json.loads((Path(site_packages) / "horovod" / RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def describe(options):
    parts = ["gloo"] + ["mpi"] * wants_mpi(options)
    return ", ".join(parts + [f"{name}={options[name]}" for name in options if name.startswith("HOROVOD_GPU")])


# ---- The edits ------------------------------------------------------------------------------------------------------
def edits(standard, gpu):
    """Returns the edits of the release as (file, old text, new text, reason)."""
    process_set = (
        "  device_attr.iface = gloo_iface_;\n  device_attr.ai_family = AF_UNSPEC;\n"
        "  auto dev = CreateDevice(device_attr);\n\n  global_ctx = global_context.ctx;\n"
    )
    result = [
        (
            "CMakeLists.txt",
            "\nset(CMAKE_CXX_STANDARD 14)\n",
            "\nset(CMAKE_CXX_STANDARD 17)\n",
            "for the parts without torch",
        ),
        (
            "horovod/torch/CMakeLists.txt",
            "    set(CMAKE_CXX_STANDARD 14)\n",
            f"    set(CMAKE_CXX_STANDARD {standard})\n",
            "for what torch's headers ask",
        ),
        # Python 3.12 has no distutils; setuptools provides it only if it is installed into the environment.
        (
            "horovod/torch/CMakeLists.txt",
            '"from distutils.sysconfig import get_python_inc; print(get_python_inc())"',
            '''"import sysconfig; print(sysconfig.get_path('include'))"''',
            "because Python 3.12 has no distutils",
        ),
        (
            "horovod/runner/js_run.py",
            "from distutils.spawn import find_executable\n",
            "from shutil import which as find_executable\n",
            "because Python 3.12 has no distutils",
        ),
        (
            "setup.cfg",
            "[egg_info]\n",
            f"[options.package_data]\nhorovod = {RECORD}\n\n[egg_info]\n",
            "so that the wheel contains the record",
        ),
        # Two bugs of the release in the Gloo part. Because of the first, stalled ranks were never reported
        # (HOROVOD_STALL_CHECK_TIME_SECONDS): the list of ranks stayed empty.
        (
            "horovod/common/gloo/gloo_controller.cc",
            "  global_ranks_.reserve(size_);\n",
            "  global_ranks_.resize(size_);\n",
            "to report stalled ranks",
        ),
        # Because of the second, HOROVOD_GLOO_IFACE was partly ignored, and init() failed if the host's name has no
        # address.
        (
            "horovod/common/gloo/gloo_context.cc",
            process_set,
            process_set.replace(" = gloo_iface_", " = gloo_iface_ = global_context.gloo_iface_"),
            "to use the chosen network interface",
        ),
    ]
    if not gpu:
        # With a GPU build of torch and anything that looks like a CUDA toolkit the release always builds for CUDA, and
        # an nvcc without the rest of the toolkit then ends the build.
        for tool, version in ("CUDA_HOME", "cuda"), ("ROCM_HOME", "hip"):
            result.append(
                (
                    "cmake/Modules/FindPytorch.cmake",
                    f'"import torch; from torch.utils.cpp_extension import {tool}; print(True if '
                    f'((torch.version.{version} is not None) and ({tool} is not None)) else False)"',
                    f'"print(False)  # instead of {tool}"',
                    "because no GPU operations are wanted",
                )
            )
    return result


def edited(text, old, new, where):
    """Returns text with old replaced by new; raises Failure unless old occurs exactly once."""
    count = text.count(old)
    if count != 1:
        line = max(old.splitlines(), key=len).strip()
        near = difflib.get_close_matches(line, {other.strip() for other in text.splitlines()}, 1)
        if count:
            found = f"found it {count} times"
        else:
            found = f"found {near[0]!r}" if near else "found nothing like it"
        raise Failure(f"{where}: expected {line!r}, {found}: this release differs from the {VERSION} known here")
    result = text.replace(old, new)
    if result.count(new) != 1 or (old in result and old not in new):
        raise Failure(f"{where}: replacing {old.strip()!r} by {new.strip()!r} did not take effect")
    return result


def apply_edits(source, changes):
    for name, old, new, reason in changes:
        path = source / name
        if not path.is_file():
            raise Failure(
                f"{name}: expected this file (edited {reason}), found none: this release differs from the "
                f"{VERSION} known here"
            )
        path.write_text(edited(path.read_text(), old, new, name))
    for name, _, new, _ in changes:  # a later edit must not have undone an earlier one
        if new not in (source / name).read_text():
            raise Failure(f"{name}: {new.strip()!r} was written but is not there")


def cxx_standard(torch_folder):
    """Returns the C++ standard that torch's headers require, from their error message for older compilers."""
    header = torch_folder / "include" / "ATen" / "ATen.h"
    try:
        found = re.search(r"C\+\+(\d\d) or later compatible compiler is required", header.read_text())
    except OSError as error:
        raise Failure(f"cannot read torch's headers, without which nothing can be built against it: {error}")
    if not found:
        raise Failure(
            f"{header}: expected a line 'C++17 or later compatible compiler is required' (or C++20 ...), "
            "found none: cannot tell which C++ standard this torch needs"
        )
    return int(found[1])


# ---- Building -------------------------------------------------------------------------------------------------------
def run(command, log, env=None):
    """Runs command and appends its output to the file log; the error of a failure has an excerpt."""
    with open(log, "a") as output:
        output.write(f"+ {' '.join(map(str, command))}\n")
        output.flush()
        start = output.tell()
        status = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env).returncode
    if status:
        with open(log, "rb") as output:
            output.seek(start)
            lines = output.read().decode(errors="replace").splitlines()
        raise Failure(
            f"{Path(command[0]).name} failed with status {status}:\n{excerpt(lines)}\nhorovod: all of its output: {log}"
        )


def excerpt(lines):
    """Returns the last lines of a log, and before them the first error of a compiler or CMake.

    Parallel jobs and tracebacks may have printed many lines after that error.
    """
    last = max(len(lines) - 15, 0)
    first = next((i for i, line in enumerate(lines[:last]) if re.search(r"CMake Error|: (fatal )?error:", line)), last)
    return "\n".join(lines[first : min(first + 10, last)] + ["..."] * (first + 10 < last) + lines[last:])


def pip(*arguments):
    return [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]


def find_cuda(env):
    """Returns the folder of the CUDA toolkit, looking where both Horovod and torch look."""
    homes = [env.get(name) for name in ("HOROVOD_CUDA_HOME", "CUDA_HOME", "CUDA_PATH")]
    nvcc = shutil.which("nvcc", path=env.get("PATH"))
    homes = [Path(home) for home in [*homes, nvcc and Path(nvcc).parent.parent, "/usr/local/cuda"] if home]
    for home in homes:
        headers = [home / "include" / "cuda_runtime.h", *home.glob("targets/*/include/cuda_runtime.h")]
        # nvcc is started as a test, because a wrapper may be left of a toolkit that was removed or is elsewhere.
        with contextlib.suppress(OSError):
            works = subprocess.run([home / "bin" / "nvcc", "--version"], capture_output=True, env=env).returncode == 0
            if works and any(header.is_file() for header in headers):
                return home
    raise Failure(
        "GPU operations need a CUDA toolkit, and none with a working bin/nvcc and include/cuda_runtime.h was "
        f"found in {', '.join(map(str, homes))}: set HOROVOD_CUDA_HOME, or unset HOROVOD_GPU_OPERATIONS"
    )


def torch_nccl(torch_folder, folder):
    """Returns the variables that make Horovod use the NCCL of torch's wheels, {} if they have none.

    So the user needs no second NCCL, and a process never loads two versions.
    """
    nccl = torch_folder.parent / "nvidia" / "nccl"
    if not (nccl / "include" / "nccl.h").is_file() or not (nccl / "lib" / "libnccl.so.2").is_file():
        return {}
    folder.mkdir(parents=True)
    (folder / "libnccl.so").symlink_to(nccl / "lib" / "libnccl.so.2")  # the name that the linker looks for
    return {
        "HOROVOD_NCCL_INCLUDE": str(nccl / "include"),
        "HOROVOD_NCCL_LIB": str(folder),
        "HOROVOD_NCCL_LINK": "SHARED",
    }


def build_environment(env, options, tools, jobs):
    """Returns the environment variables to build with: env without its build variables, and the options instead."""
    result = {name: value for name, value in env.items() if not BUILD_VARIABLE.fullmatch(name)}
    # When make runs this script, these belong to that make; setup.py would take them as the user's options.
    for name in "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES":
        result.pop(name, None)
    result.update(options)
    result.update(
        PYTHONPATH=os.pathsep.join([str(tools)] + ([env["PYTHONPATH"]] if env.get("PYTHONPATH") else [])),
        MAKEFLAGS=f"-j{jobs}",
        CMAKE_GENERATOR="Unix Makefiles",  # setup.py passes make's arguments, which other generators do not know
        CMAKE_POLICY_VERSION_MINIMUM="3.5",  # the bundled libraries require versions that CMake 4 rejects
        PYTHONNOUSERSITE="1",
    )
    # The program itself, because the script of that name in bin/ may not start from a long or unusual path.
    result.setdefault("HOROVOD_CMAKE", str(tools / "cmake" / "data" / "bin" / "cmake"))
    if wants_gpu(options) and options.get("HOROVOD_GPU") != "ROCM":
        cuda = find_cuda({**env, **options})
        result.update(HOROVOD_CUDA_HOME=str(cuda), CUDA_HOME=str(cuda))  # the second is torch's name for it
    return result


def fetch(folder, log, env):
    """Downloads the source distribution through the user's pip settings and unpacks it; returns its folder."""
    run(
        pip(
            "download",
            "--no-deps",
            "--no-build-isolation",
            "--no-binary",
            "horovod",
            "-d",
            folder,
            f"horovod=={VERSION}",
        ),
        log,
        env,
    )
    archives = sorted(folder.glob("horovod-*.tar.gz"))
    if len(archives) != 1:
        raise Failure(f"expected one horovod-{VERSION}.tar.gz from pip download, found {[a.name for a in archives]}")
    digest = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    if digest != SHA256:
        raise Failure(f"{archives[0].name}: expected sha256 {SHA256}, found {digest}: not the release known here")
    with tarfile.open(archives[0]) as archive:
        # The default in Python 3.14; older versions warn or lack it. The checksum guarantees a harmless archive.
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return folder / f"horovod-{VERSION}"


def build(record, torch_folder, target, log, env):
    """Builds the wheel for record and puts it into the folder target."""
    if not shutil.which("make"):
        raise Failure("building needs make, which was not found: install it (apt install make / dnf install make)")
    if wants_mpi(record["options"]) and not shutil.which("mpicxx"):
        raise Failure(
            "HOROVOD_WITH_MPI=1 needs mpicxx, which was not found: install MPI or load its module, or set "
            "HOROVOD_WITHOUT_MPI=1"
        )
    standard = cxx_standard(torch_folder)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    jobs = env.get("CMAKE_BUILD_PARALLEL_LEVEL") or cores
    with tempfile.TemporaryDirectory(prefix="remerge-horovod-") as scratch:
        scratch = Path(scratch)
        tools = scratch / "tools"
        environment = build_environment(env, record["options"], tools, jobs)  # first: it may find CUDA missing
        if wants_gpu(record["options"]) and not any(name.startswith("HOROVOD_NCCL_") for name in record["options"]):
            environment.update(torch_nccl(torch_folder, scratch / "nccl"))
        say("fetching the build tools and the source")
        run(pip("install", "--prefer-binary", "--target", tools, *BUILD_REQUIREMENTS), log, env)
        source = fetch(scratch, log, environment)
        apply_edits(source, edits(standard, wants_gpu(record["options"])))
        (source / "horovod" / RECORD).write_text(json.dumps(record, indent=1) + "\n")

        say(
            f"building {VERSION} for torch {record['torch']} (C++{standard}; {describe(record['options'])}) with "
            f"{jobs} jobs, which takes minutes; log: {log}"
        )
        start = time.monotonic()
        run(
            pip("wheel", "-v", "--no-deps", "--no-build-isolation", "--no-index", "-w", scratch / "wheel", source),
            log,
            environment,
        )
        (wheel,) = (scratch / "wheel").glob("horovod-*.whl")
        # Copied under another name first, so that other processes never see a partial wheel.
        part = target / f"{wheel.name}.part"
        shutil.copyfile(wheel, part)
        os.replace(part, target / wheel.name)
        say(f"built in {time.monotonic() - start:.0f} s")


def cached_wheel(folder):
    return next(iter(sorted(folder.glob("*.whl"))), None)


@contextlib.contextmanager
def locked(path, log):
    """Holds a lock file, so that of two clones that need the same wheel one builds it and the other waits."""
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that builds the same wheel; its log: {log}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def check(log):
    """Starts the installed horovod in a new process; returns the names of the parts it was built with."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("HOROVOD_")}
    # Gloo, because a single process cannot start MPI everywhere (on the login node of a cluster, for example), and the
    # loopback interface, because the host's name may have no address.
    env.update(HOROVOD_CONTROLLER="gloo", HOROVOD_CPU_OPERATIONS="gloo")
    env.update({"HOROVOD_GLOO_IFACE": name for _, name in socket.if_nameindex() if name in ("lo", "lo0")})
    # In the root folder, because a folder named horovod in the current one would be imported instead.
    result = subprocess.run(
        [sys.executable, "-c", CHECK], env=env, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if result.returncode:
        with open(log, "a") as output:
            output.write(result.stdout + result.stderr)
        raise Failure(
            f"it was installed but does not run, so it was removed again:\n{result.stderr.strip()[-2000:]}\n"
            f"horovod: log: {log}"
        )
    return result.stdout.split()


def main():
    torch = importlib.util.find_spec("torch")  # without importing it, which takes seconds
    if torch is None or torch.origin is None:
        raise Failure(
            f"torch is not installed for {sys.executable}: install it first (pip install torch, or make setup)"
        )
    site_packages = sysconfig.get_path("platlib")
    installed = read_record(site_packages)
    record = wanted(importlib.metadata.version("torch"), os.environ, installed)
    if installed == record:
        return

    if importlib.util.find_spec("pip") is None:
        raise Failure(f"pip is not installed for {sys.executable}: add it with: {sys.executable} -m ensurepip")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "remerge" / "wheels"
    folder = cache / key(record)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "build.log"
    with locked(folder / "lock", log):
        wheel = cached_wheel(folder)
        if wheel is None:
            log.unlink(missing_ok=True)
            build(record, Path(torch.origin).parent, folder, log, dict(os.environ))
            wheel = cached_wheel(folder)

    say(f"installing {wheel}")
    log = folder / "install.log"
    log.unlink(missing_ok=True)
    # Removed first, because pip does not distinguish builds of the same version.
    run(pip("uninstall", "-y", "horovod"), log)
    run(pip("install", wheel), log)
    try:
        built = check(log)
    except Failure:
        # So that no later call uses it, here or in another environment.
        run(pip("uninstall", "-y", "horovod"), log)
        wheel.unlink(missing_ok=True)
        raise
    say(f"{VERSION} runs with torch {record['torch']}; built with {', '.join(built)}")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        say(failure)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
