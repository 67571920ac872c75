"""The fork server of the tests: a forked command does what a new interpreter does, and may be ended like one."""

import ast
import json
import os
import re
import signal
import subprocess

import forkserver
import pytest
import torch
from support import QUICK, ROOT

pytestmark = pytest.mark.skipif(not forkserver.SUPPORTED, reason="forked processes need pidfd_open, which Linux has")
KINDS = (forkserver.Process, forkserver.Fresh)
# The last of a line, and the rule below the heading of a table, which is as long as the line.
TIMES = re.compile(r"( {2,}(train s|\d+\.\d( ± \d+\.\d)?|about .* left) *|^-+)$", re.MULTILINE)
MEASURED = re.compile(r"seconds|per_second|peak_memory|^checksum$|^files$")  # names of results that differ each time


def ends_of_both(line: list, cwd, env=None) -> list[tuple[int, str, str]]:
    """Status and streams of a forked process and of a new interpreter, each in a folder of its own."""
    ends = []
    for kind in KINDS:
        folder = cwd / kind.__name__
        folder.mkdir()
        process = kind([str(word) for word in line], str(folder), {**os.environ, **(env or {})})
        out, err = process.communicate(timeout=600)
        ends.append((process.returncode, out, err))
    return ends


def repeatable(found: dict) -> dict:
    """The entries that are the same each time."""
    return {key: value for key, value in found.items() if not MEASURED.search(key)}


def files(folder) -> dict:
    """What a command wrote, by path: the content of its results and weights."""
    found = {}
    for path in folder.rglob("*"):
        content = None
        if path.name == "results.json":
            content = json.loads(path.read_text(), object_hook=repeatable)
        elif path.suffix == ".png":
            content = path.read_bytes()
        elif path.suffix == ".pt":
            content = {name: value.tolist() for name, value in torch.load(path)["model"].items()}
        found[str(path.relative_to(folder))] = content
    return found


@pytest.mark.parametrize(
    "script, words, status",
    [
        ("run.py", ["strategy=derpp", "scenario=class2", "-m", "seed=0,1", *QUICK, "pictures=[png]"], 0),
        ("merge.py", ["scenario=class2", "fusion=dare", "baselines=[er]", *QUICK], 0),
        ("run.py", ["strategy=finetune", "optimizer.lr=1e20", *QUICK], 1),
        ("run.py", ["buffer.capacity=0"], 1),
        ("merge.py", ["--help"], 0),
    ],
)
def test_a_forked_command_does_what_a_new_interpreter_does(tmp_path, script, words, status):
    ends = ends_of_both([ROOT / script, *words, "output=out"], tmp_path)
    forked, fresh = ((code, TIMES.sub("", out), err) for code, out, err in ends)
    assert forked == fresh
    assert forked[0] == status
    forked, fresh = (files(tmp_path / kind.__name__) for kind in KINDS)
    assert forked == fresh
    assert any(path.endswith("results.json") for path in forked) == (status == 0 and "--help" not in words)


MODULES = """
import atexit, runpy, sys
atexit.register(lambda: print(sorted(sys.modules)))
sys.path.insert(0, {root!r})
runpy.run_path({path!r}, run_name="__main__")
"""


def test_a_forked_command_ends_with_the_modules_that_a_new_interpreter_has(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(MODULES.format(root=str(ROOT), path=str(ROOT / "run.py")))
    words = ["strategy=finetune", "scenario=class2", *QUICK, "pictures=[png]", "progress=true", "output=out"]
    forked, fresh = (set(ast.literal_eval(end[1].splitlines()[-1])) for end in ends_of_both([script, *words], tmp_path))
    assert {"torch", "hydra", "matplotlib", "rich.table", "cl.run.session"} <= forked
    assert forked == fresh


WORLD = """import os, signal, sys, threading, time
ours = [name for name in sys.modules if name.partition(".")[0] in ("cl", "merging", "forkserver", "support")]
print(__name__, __file__, __spec__, sys.modules["__main__"].__dict__ is globals(), ours)
print(sys.argv, sys.path[0], os.getcwd() != sys.path[0], os.environ["GIVEN"], "HOME" in os.environ)
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.getsignal(signal.SIGTERM))
print(sys.stdin.read() == "", sys.stdout.isatty(), sys.stdout.line_buffering, sys.stdout.encoding)
print(os.getpgid(0) == os.getpgid(os.getppid()), sorted(map(int, os.listdir("/proc/self/fd")))[:3])
"""
ENDS = {
    "its end": ("import torch; print(torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype())", 0),
    "exit": ("sys.exit(3)", 3),
    "exit with a text": ("sys.exit('said last')", 1),
    "an error": ("1 / 0", 1),
    "at once": ("sys.stdout.flush(); os._exit(5)", 5),
    "a thread and atexit": (
        "import atexit; atexit.register(print, 'second')\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('first'))).start()",
        0,
    ),
    "an interrupt": ("sys.stdout.flush(); signal.raise_signal(signal.SIGINT); time.sleep(60)", -signal.SIGINT),
    "an abort": ("sys.stdout.flush(); os.abort()", -signal.SIGABRT),
}


@pytest.mark.parametrize("code, status", ENDS.values(), ids=ENDS)
def test_a_forked_script_finds_the_same_and_ends_the_same(tmp_path, code, status):
    script = tmp_path / "script.py"
    script.write_text(WORLD + code)
    forked, fresh = ends_of_both([script, "a b", "c=1"], tmp_path, {"GIVEN": "é"})
    assert forked[:2] == fresh[:2]
    assert forked[0] == status
    assert len(forked[1].splitlines()) >= 5, forked[2]
    assert forked[2].splitlines()[-1:] == fresh[2].splitlines()[-1:]  # but for a traceback's lines of the server


def test_processes_draw_different_numbers_and_change_nothing_for_each_other(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, random, sys, numpy, torch\n"
        "assert not hasattr(torch, 'spoilt') and torch.get_default_dtype() is torch.float32\n"
        "torch.spoilt = True; torch.set_default_dtype(torch.float64); os.environ['SPOILT'] = 'yes'\n"
        "print(random.random(), numpy.random.random(), torch.rand(()).item(), torch.initial_seed())"
    )
    outs = [forkserver.run([script], cwd=tmp_path) for _ in range(2)]
    assert [done.returncode for done in outs] == [0, 0], outs[1].stderr
    assert not set(outs[0].stdout.split()) & set(outs[1].stdout.split())
    assert "SPOILT" not in os.environ


def test_a_forked_process_is_signalled_waited_for_and_timed_out(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import time\nprint('here', flush=True)\ntime.sleep(600)")
    process = forkserver.start([script], cwd=tmp_path)
    assert process.stdout.readline() == "here\n"
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == process.poll() == -signal.SIGTERM
    process.kill()  # of a process that has ended: nothing
    assert process.communicate() == ("", "")
    with pytest.raises(subprocess.TimeoutExpired):
        forkserver.run([script], cwd=tmp_path, timeout=0.01)


def test_much_output_on_both_streams_arrives_whole(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys\nfor i in range(20000):\n    print(i)\n    print(-i, file=sys.stderr)")
    done = forkserver.run([script], cwd=tmp_path)
    assert done.stdout.split() == [str(i) for i in range(20000)]
    assert done.stderr.split() == [str(-i) for i in range(20000)]


def test_what_is_read_when_python_starts_is_refused(tmp_path):
    with pytest.raises(ValueError, match="PYTHONPATH is read when Python starts: start this process with subprocess"):
        forkserver.run([ROOT / "run.py"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": "x"})
