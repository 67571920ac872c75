"""What a command writes to a terminal, a real one of 80 columns, and what it writes into a pipe.

A terminal is read as a person sees it: a bar is drawn over the one before it.
"""

import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import forkserver
import pytest
from support import ROOT, command, run_killed

from cl.reporting import opening
from cl.run.folder import plain

COLUMNS = 80
WORDS = ("strategy=er", "scenario=class5", "backbone.hidden=[16]")
NO_TORCH = """
import runpy, sys
sys.modules["torch"] = None  # an import of it raises ImportError
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def in_terminal(*words: str, cwd) -> tuple[int, str]:
    """The exit status of run.py with a terminal as its output, and all that it wrote there."""
    if not forkserver.SUPPORTED:
        pytest.skip("needs pidfd_open")
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    env = kept | {"TERM": "xterm-256color"}
    with open(os.devnull) as nothing:
        streams = (nothing.fileno(), theirs, theirs)
        pid, handle = forkserver.server().start([str(ROOT / "run.py"), *words], str(cwd), env, streams)
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # EIO: the process has ended
            part = b""
        if not part:
            break
        written += part
    os.close(ours), os.close(handle)
    return forkserver.server().status(pid), written.decode()


def pictures(written: str) -> list[str]:
    """All lines that were to be seen at some time: what a carriage return or an erased line replaces is one."""
    lines = re.split(r"\r\n|\r|\n|\x1b\[2K|\x1b\[\d*A", written)
    return [re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", line) for line in lines]


def last_screen(written: str) -> list[str]:
    """The lines that are left in the end: carriage returns, new lines, and codes for "up" and "erase the line"."""
    lines, at = [""], 0
    for text, code in re.findall(r"([^\x1b\r\n]*)(\x1b\[[?\d;]*[A-Za-z]|\r|\n|$)", written):
        lines[at] += text
        if code.endswith("A"):
            at -= int(code[2:-1])
        elif code == "\n":
            at += 1
            lines += [""] * (at == len(lines))
        elif code == "\x1b[2K":
            lines[at] = ""
    return lines[:-1] if lines[-1] == "" else lines


def test_in_a_terminal_no_line_is_too_wide_and_a_bar_is_there_while_it_trains(tmp_path):
    status, written = in_terminal(*WORDS, "epochs=25", cwd=tmp_path)
    (folder,) = (path.parent for path in tmp_path.rglob("results.json"))
    steps = json.loads((folder / "results.json").read_text())["gradient_steps"]
    place = folder.relative_to(tmp_path)
    seen, left = pictures(written), last_screen(written)
    assert status == 0 and max(map(len, seen)) <= COLUMNS, [line for line in seen if len(line) > COLUMNS]
    bars = [line for line in seen if "━" in line]
    assert len(bars) > 2 and max(map(len, bars)) <= COLUMNS - 2  # ^C has room
    assert all(line.startswith("er_200 seed 0 ") and f"/{steps}" in line for line in bars)
    assert any("steps/s" in line and "left" in line for line in bars) and any("loss " in line for line in bars)
    assert not any("━" in line for line in left)
    assert left[:2] == ["er (200 samples) on class5 of digits, seed 0, network mlp", f"-> {place}"]
    tasks = [line for line in left if line.startswith("er_200 seed 0")]
    assert len(tasks) == 5 and all(f"task  {i}/5" in line for i, line in enumerate(tasks, start=1))
    assert " ".join(left[-3:]).split() == ["in", f"{place}:", "accuracy_matrix.png,", "average_accuracy.png"]
    assert {path.name for path in folder.glob("*.png")} == {"accuracy_matrix.png", "average_accuracy.png"}
    assert any(line.startswith("not shown for want of width: forward %") for line in left)
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h")  # the cursor is there again


def test_a_pipe_gets_neither_bars_nor_escape_codes_and_all_columns(tmp_path):
    done = command(*WORDS, "epochs=1", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and done.stderr == ""
    assert not {"\x1b", "\r", "━", "─"} & set(done.stdout) and "%|" not in done.stdout
    assert re.fullmatch(r"er \(200 samples\) on class5 of digits, seed 0, network mlp -> multirun/\S+/seed0", lines[0])
    heading = next(line for line in lines if line.startswith("strategy"))
    assert re.split(" {2,}", heading) == [
        "strategy", "seeds", "accuracy %", "task-aware %", "forgetting %", "backward %", "forward %", "train s",
    ]  # fmt: skip


def test_a_run_that_goes_on_says_where(tmp_path, compose_config):
    words = ("strategy=finetune", "scenario=class5", "backbone.hidden=[8]", "epochs=1", "pictures=[]")
    run_killed(compose_config(*words), stage=2)  # two stages are saved
    done = command(*words, f"output={tmp_path / 'multirun'}", cwd=tmp_path)
    (results,) = tmp_path.rglob("results.json")
    content = json.loads(results.read_text())
    steps = [stage["gradient_steps"] for stage in content["stage_costs"]]
    assert done.returncode == 0, done.stderr
    line = f"resumed at task 3, step 0 of {steps[2]} ({sum(steps[:2])} of {content['gradient_steps']} steps in all)"
    assert done.stdout.splitlines()[1] == line


@pytest.mark.parametrize(
    "script, words, line",
    [
        ("run.py", ["strategy=joint"], "joint on class10 of digits, seed 0, network mlp -> "),
        ("merge.py", ["seed=3"], "avg of the networks of independent on class10 of digits, seed 3, network mlp -> "),
        ("merge.py", ["study=equal_budget", "-m", "seed=0,1"], "study equal_budget"),
    ],
)  # fmt: skip
def test_what_is_being_done_is_said_before_torch_is_imported(tmp_path, script, words, line):
    process = subprocess.Popen(
        [sys.executable, "-c", NO_TORCH, str(ROOT / script), "scenario=class10", *words],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout.readline().startswith(line)
    process.kill()  # a study would go on: others import torch for it
    process.communicate()


@pytest.mark.parametrize(
    "words, said",
    [
        (["strategy=gdumb", "buffer.capacity=10%"], "gdumb (10%) on class10 of digits, seed 0, network mlp -> x"),
        (["strategy=derpp", "launcher=torchrun", "launcher.np=2", "seed=4"],
         "derpp (200 samples) on class10 of digits, seed 4, network mlp, 2 ranks -> x"),
    ],
)  # fmt: skip
def test_the_first_line_has_the_memory_and_the_ranks(compose_config, monkeypatch, capsys, words, said):
    opening.run(plain(compose_config("scenario=class10", *words)), Path("x"))
    assert capsys.readouterr().out == f"{said}\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(len(said) - 1))
    opening.run(plain(compose_config("scenario=class10", *words)), Path("x"))
    assert capsys.readouterr().out == said.replace(" -> x", "\n-> x\n")
