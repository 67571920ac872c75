"""scripts/build_horovod.py: its edits, the choice of options, the key of a build and when there is nothing to do.
Nothing is built, installed or downloaded here."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "build_horovod.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("build_horovod", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nowhere(name):
    return None


def everywhere(name):
    return f"/opt/bin/{name}"


# ---- Edits ----------------------------------------------------------------------------------------------------------
def lines_of_the_release(standard=14):
    """The few lines of the release that are edited, as a source tree would hold them."""
    question = "".join(
        f'execute_process(COMMAND ${{PY_EXE}} -c "import torch; from torch.utils.cpp_extension import {tool}; '
        f'print(True if ((torch.version.{version} is not None) and ({tool} is not None)) else False)"\n'
        for tool, version in (("CUDA_HOME", "cuda"), ("ROCM_HOME", "hip"))
    )
    return {
        "CMakeLists.txt": f"project(horovod CXX)\n\nset(CMAKE_CXX_STANDARD {standard})\n",
        "horovod/torch/CMakeLists.txt": 'execute_process(COMMAND ${PY_EXE} -c "from distutils.sysconfig import get_python_inc; '
        'print(get_python_inc())"\n'
        f'if(NOT Pytorch_VERSION VERSION_LESS "1.5.0")\n    set(CMAKE_CXX_STANDARD {standard})\nendif()\n',
        "horovod/runner/js_run.py": "import os\nfrom distutils.spawn import find_executable\n",
        "setup.cfg": "[tool:pytest]\nnorecursedirs = x\n\n[egg_info]\ntag_build = \n",
        "cmake/Modules/FindPytorch.cmake": question,
        "horovod/common/gloo/gloo_controller.cc": "  global_ranks_.reserve(size_);\n  {\n",
        "horovod/common/gloo/gloo_context.cc": "  device_attr.iface = gloo_iface_;\n  device_attr.ai_family = AF_UNSPEC;\n"
        "  auto dev = CreateDevice(device_attr);\n\n  global_ctx = global_context.ctx;\n",
    }


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_edits_of_the_release(script, tmp_path):
    write(tmp_path, lines_of_the_release())
    script.apply_edits(tmp_path, script.edits(20, gpu=False))
    text = {name: (tmp_path / name).read_text() for name in lines_of_the_release()}
    assert "set(CMAKE_CXX_STANDARD 17)" in text["CMakeLists.txt"]
    assert "    set(CMAKE_CXX_STANDARD 20)\n" in text["horovod/torch/CMakeLists.txt"]
    assert not any("distutils" in t or "STANDARD 14" in t for t in text.values())
    assert text["cmake/Modules/FindPytorch.cmake"].count('-c "print(False)') == 2
    assert f"[options.package_data]\nhorovod = {script.RECORD}\n" in text["setup.cfg"]
    assert "[egg_info]\ntag_build" in text["setup.cfg"]


def test_with_gpu_operations_torch_is_asked_for_cuda(script, tmp_path):
    write(tmp_path, lines_of_the_release())
    script.apply_edits(tmp_path, script.edits(17, gpu=True))
    question = "cmake/Modules/FindPytorch.cmake"
    assert (tmp_path / question).read_text() == lines_of_the_release()[question]


def test_a_changed_release_is_refused_with_one_line(script, tmp_path):
    write(tmp_path, lines_of_the_release(standard=17))
    with pytest.raises(script.Failure) as failure:
        script.apply_edits(tmp_path, script.edits(20, gpu=False))
    message = str(failure.value)
    assert "\n" not in message
    assert "expected 'set(CMAKE_CXX_STANDARD 14)'" in message and "found 'set(CMAKE_CXX_STANDARD 17)'" in message
    assert "CMakeLists.txt" in message and "this release differs" in message


def test_a_missing_file_is_refused(script, tmp_path):
    files = lines_of_the_release()
    del files["horovod/runner/js_run.py"]
    write(tmp_path, files)
    with pytest.raises(script.Failure, match="js_run.py.*found none"):
        script.apply_edits(tmp_path, script.edits(20, gpu=False))


@pytest.mark.parametrize(
    "text, found",
    [
        ("a = 2\n", "nothing like it"),
        ("old line\nold line\n", "found it 2 times"),
    ],
)
def test_edited_refuses(script, text, found):
    with pytest.raises(script.Failure, match=found):
        script.edited(text, "old line", "new line", "file")


def test_edited_refuses_a_result_that_is_ambiguous(script):
    with pytest.raises(script.Failure, match="did not take effect"):
        script.edited("new line\nold line\n", "old line", "new line", "file")


@pytest.mark.parametrize(
    "line, standard",
    [
        ("#error C++17 or later compatible compiler is required to use ATen.", 17),
        ("#error C++20 or later compatible compiler is required to use ATen.", 20),
    ],
)
def test_cxx_standard_comes_from_the_headers(script, tmp_path, line, standard):
    write(tmp_path, {"include/ATen/ATen.h": f"#pragma once\n{line}\n"})
    assert script.cxx_standard(tmp_path) == standard


def test_cxx_standard_unknown(script, tmp_path):
    with pytest.raises(script.Failure, match="headers"):
        script.cxx_standard(tmp_path)
    write(tmp_path, {"include/ATen/ATen.h": "#pragma once\n"})
    with pytest.raises(script.Failure, match="cannot tell"):
        script.cxx_standard(tmp_path)


# ---- Options --------------------------------------------------------------------------------------------------------
def test_mpi_as_found(script):
    assert script.choose_options({}, {}, nowhere)["HOROVOD_WITHOUT_MPI"] == "1"
    assert script.choose_options({}, {}, everywhere)["HOROVOD_WITH_MPI"] == "1"
    compiler_only = {"mpicxx": "/opt/bin/mpicxx"}.get
    assert "HOROVOD_WITH_MPI" not in script.choose_options({}, {}, compiler_only)


def test_the_environment_decides_about_mpi(script):
    assert "HOROVOD_WITH_MPI" not in script.choose_options({"HOROVOD_WITHOUT_MPI": "1"}, {}, everywhere)
    assert "HOROVOD_WITHOUT_MPI" not in script.choose_options({"HOROVOD_WITH_MPI": "1"}, {}, nowhere)


def test_gloo_and_torch_always(script):
    options = script.choose_options({"HOROVOD_WITHOUT_GLOO": "1", "HOROVOD_WITHOUT_PYTORCH": "1"}, {}, nowhere)
    assert options["HOROVOD_WITH_GLOO"] == options["HOROVOD_WITH_PYTORCH"] == "1"
    assert "HOROVOD_WITHOUT_GLOO" not in options and "HOROVOD_WITHOUT_PYTORCH" not in options
    assert options["HOROVOD_WITHOUT_TENSORFLOW"] == options["HOROVOD_WITHOUT_MXNET"] == "1"


def test_variables_for_running_are_no_options(script):
    env = {"HOROVOD_RANK": "1", "HOROVOD_TIMELINE": "x"}
    env.update(HOROVOD_NCCL_HOME="/nccl", HOROVOD_GPU_OPERATIONS="NCCL")
    options = script.choose_options(env, {}, nowhere)
    assert "HOROVOD_RANK" not in options and "HOROVOD_TIMELINE" not in options
    assert options["HOROVOD_NCCL_HOME"] == "/nccl" and script.wants_gpu(options)


def test_options_are_remembered_until_changed_or_emptied(script):
    first = script.choose_options({"HOROVOD_GPU_OPERATIONS": "NCCL"}, {}, everywhere)
    assert script.choose_options({}, first, nowhere) == first
    without = script.choose_options({"HOROVOD_WITHOUT_MPI": "1"}, first, everywhere)
    assert "HOROVOD_WITH_MPI" not in without and without["HOROVOD_GPU_OPERATIONS"] == "NCCL"
    assert not script.wants_gpu(script.choose_options({"HOROVOD_GPU_OPERATIONS": ""}, first, everywhere))
    again = script.choose_options({"HOROVOD_WITHOUT_MPI": ""}, without, everywhere)
    assert again == first  # emptied: looked for anew


# ---- The key and whether there is anything to do -----------------------------------------------------------------
def test_key_changes_with_everything_that_matters(script):
    record = script.wanted("2.15.0", {}, {}, nowhere)
    keys = {script.key(record)}
    keys |= {script.key({**record, name: "other"}) for name in record}
    keys.add(script.key(script.wanted("2.15.0", {"HOROVOD_GPU_OPERATIONS": "NCCL"}, {}, nowhere)))
    assert len(keys) == len(record) + 2
    assert script.key(script.wanted("2.15.0", {"HOROVOD_LOG_LEVEL": "debug"}, {}, nowhere)) in keys
    assert all(re.fullmatch(r"[\w.+-]+", k) for k in keys)


def test_mpi_library_is_part_of_the_key_and_may_be_out_of_sight(script):
    record = script.wanted("2.15.0", {}, {}, everywhere)
    assert record["mpi"].endswith("mpicxx")
    assert script.wanted("2.15.0", {}, record, nowhere) == record
    other = script.wanted("2.15.0", {}, record, lambda name: f"/opt/other/{name}")
    assert other["mpi"] != record["mpi"]


class Doubles:
    """Stands in for the installed packages and for building and installing; notes what was done."""

    def __init__(self, script, monkeypatch, tmp_path):
        self.script, self.site, self.torch, self.done = script, tmp_path / "site", "2.15.0", []
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        for name in "HOROVOD_WITH_MPI", "HOROVOD_WITHOUT_MPI", "HOROVOD_GPU_OPERATIONS":
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(script.sysconfig, "get_path", lambda name: str(self.site))
        monkeypatch.setattr(script.importlib.metadata, "version", lambda name: self.torch)
        monkeypatch.setattr(script, "build", self.build)
        monkeypatch.setattr(script, "run", self.run)
        monkeypatch.setattr(script, "check", self.check)
        self.broken = False

    def build(self, record, torch_folder, target, log, env):
        self.done.append("build")
        (target / "horovod.whl").write_text(json.dumps(record))

    def run(self, command, log, env=None):
        path = self.site / "horovod" / self.script.RECORD
        if "uninstall" in command:
            path.unlink(missing_ok=True)
        elif "install" in command:
            self.done.append("install")
            write(self.site, {f"horovod/{self.script.RECORD}": Path(command[-1]).read_text()})

    def check(self, log):
        if self.broken:
            raise self.script.Failure("does not run")
        return ["gloo"]

    def main(self):
        self.done = []
        self.script.main()
        return self.done


@pytest.fixture
def doubles(script, monkeypatch, tmp_path):
    return Doubles(script, monkeypatch, tmp_path)


def test_second_call_does_nothing(doubles):
    assert doubles.main() == ["build", "install"]
    assert doubles.main() == []


def test_another_environment_takes_the_cached_wheel(doubles, tmp_path):
    doubles.main()
    doubles.site = tmp_path / "other"
    assert doubles.main() == ["install"]


def test_upgrade_of_torch_is_noticed_and_keeps_the_options(doubles, monkeypatch):
    monkeypatch.setenv("HOROVOD_GPU_OPERATIONS", "NCCL")
    doubles.main()
    monkeypatch.delenv("HOROVOD_GPU_OPERATIONS")
    assert doubles.main() == []
    doubles.torch = "2.16.0"
    assert doubles.main() == ["build", "install"]
    record = doubles.script.read_record(doubles.site)
    assert record["torch"] == "2.16.0" and record["options"]["HOROVOD_GPU_OPERATIONS"] == "NCCL"


def test_a_horovod_from_elsewhere_is_replaced(doubles):
    write(doubles.site, {"horovod/__init__.py": ""})
    assert doubles.main() == ["build", "install"]


@pytest.mark.parametrize("text", ["", "[1]", "{}", "not json"])
def test_an_unreadable_record_counts_as_none(doubles, text):
    write(doubles.site, {f"horovod/{doubles.script.RECORD}": text})
    assert doubles.script.read_record(doubles.site) == {}


def test_what_does_not_run_is_neither_left_installed_nor_cached(doubles):
    doubles.broken = True
    with pytest.raises(doubles.script.Failure):
        doubles.main()
    assert doubles.script.read_record(doubles.site) == {}
    doubles.broken = False
    assert doubles.main() == ["build", "install"]


def test_another_call_waits_for_the_lock(script, tmp_path, monkeypatch, capsys):
    hold = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); "
        "sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, tmp_path / "lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    waits, real = [], script.fcntl.flock

    def flock(file, how):
        if not how & script.fcntl.LOCK_NB:
            waits.append(how)
            holder.communicate(timeout=10)  # ends it, and with it its lock
        real(file, how)

    monkeypatch.setattr(script.fcntl, "flock", flock)
    with script.locked(tmp_path / "lock", tmp_path / "log"):
        assert waits and "waiting" in capsys.readouterr().err


# ---- Building --------------------------------------------------------------------------------------------------------
def test_build_environment(script, monkeypatch, tmp_path):
    env = {
        "PATH": "/bin",
        "MAKEFLAGS": " -j1 --jobserver-auth=3,4",
        "MAKELEVEL": "1",
        "HOROVOD_WITHOUT_GLOO": "1",
        "HOROVOD_LOG_LEVEL": "debug",
        "PYTHONPATH": "mine",
    }
    result = script.build_environment(env, {"HOROVOD_WITH_GLOO": "1"}, tmp_path, 3)
    assert result["MAKEFLAGS"] == "-j3" and "MAKELEVEL" not in result  # not those of the make that runs the script
    assert "HOROVOD_WITHOUT_GLOO" not in result and result["HOROVOD_WITH_GLOO"] == "1"
    assert result["HOROVOD_LOG_LEVEL"] == "debug"
    assert result["PYTHONPATH"].split(":") == [str(tmp_path), "mine"]


def test_gpu_operations_use_a_cuda_toolkit_that_starts(script, tmp_path):
    for name, text in ("stray", "exec /nonexistent/nvcc"), ("toolkit", "exit 0"):
        write(tmp_path, {f"{name}/bin/nvcc": f"#!/bin/sh\n{text}\n"})
        (tmp_path / name / "bin" / "nvcc").chmod(0o755)
    write(tmp_path, {"toolkit/include/cuda_runtime.h": ""})
    env = {"PATH": "/bin", "HOROVOD_CUDA_HOME": str(tmp_path / "stray"), "CUDA_HOME": str(tmp_path / "toolkit")}
    assert script.find_cuda(env) == tmp_path / "toolkit"
    result = script.build_environment(
        {"PATH": "/bin", "CUDA_HOME": str(tmp_path / "toolkit")}, {"HOROVOD_GPU_OPERATIONS": "NCCL"}, tmp_path, 1
    )
    assert result["HOROVOD_CUDA_HOME"] == str(tmp_path / "toolkit")


def test_without_a_cuda_toolkit_gpu_operations_are_refused(script, monkeypatch):
    def missing(command, **kwargs):
        raise FileNotFoundError(command[0])

    monkeypatch.setattr(script.subprocess, "run", missing)
    with pytest.raises(script.Failure, match="need a CUDA toolkit") as failure:
        script.find_cuda({"PATH": "/bin"})
    assert "\n" not in str(failure.value)


def test_nccl_that_torch_brought_along(script, tmp_path):
    assert script.torch_nccl(tmp_path / "torch", tmp_path / "links") == {}
    write(tmp_path, {"nvidia/nccl/include/nccl.h": "", "nvidia/nccl/lib/libnccl.so.2": "library"})
    found = script.torch_nccl(tmp_path / "torch", tmp_path / "links")
    assert (Path(found["HOROVOD_NCCL_LIB"]) / "libnccl.so").read_text() == "library"
    assert (Path(found["HOROVOD_NCCL_INCLUDE"]) / "nccl.h").is_file()


def test_failed_command_shows_the_end_of_its_log(script, tmp_path):
    log = tmp_path / "log"
    log.write_text("x.cc:1: error: of an earlier command\n")
    code = "import sys; [print('line', i) for i in range(100)]; sys.exit(3)"
    with pytest.raises(script.Failure) as failure:
        script.run([sys.executable, "-c", code], log)
    message = str(failure.value)
    assert "status 3" in message and "line 99" in message and str(log) in message
    assert "line 10\n" not in message and "earlier" not in message


@pytest.mark.parametrize("error", ["x.cc:1:2: error: no", "x.h:1:2: fatal error: no", "CMake Error at x.txt:3"])
def test_excerpt_has_the_first_error(script, error):
    many = [f"line {i}" for i in range(50)]
    text = script.excerpt(many + [error, "its reason"] + many + ["x.cc:9:9: error: a later one"] + many).splitlines()
    assert text[:2] == [error, "its reason"] and text[-1] == "line 49" and "..." in text and len(text) < 30
    assert script.excerpt([error, "last"]).splitlines() == [error, "last"]
    assert script.excerpt([]) == ""
