"""The one line that the documentation gives for completion in bash completes groups and options."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

# What bash has when the Tab key is pressed, and what it then calls.
PRESS_TAB = 'COMP_POINT=${#COMP_LINE}; words=($COMP_LINE); COMP_CWORD=$((${#words[@]} - 1)); "$FUNCTION"; '
REGISTERED = 'FUNCTION=$(complete -p "${COMP_LINE%% *}" | sed "s/.*-F \\([^ ]*\\) .*/\\1/"); '


@pytest.fixture
def installed(tmp_path):
    """A folder with commands like those of an installation."""
    for name in ("run", "merge"):
        command = tmp_path / f"remerge-{name}"
        lines = (f"#!{sys.executable}", "import sys", f"sys.path.insert(0, {str(ROOT)!r})")
        command.write_text("\n".join([*lines, f"from remerge.commands import {name}", f"{name}()\n"]))
        command.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    "install, typed, expected",
    [
        ("python run.py", "python run.py strategy=de", "strategy=der strategy=derpp"),
        ("remerge-merge", "remerge-merge seed=1 fusion=t", "fusion=task_arithmetic fusion=ties fusion=tsvm"),
    ],
)
def test_options_are_completed(installed, install, typed, expected):
    line = f'eval "$({install} -sc install=bash)"'
    text = (ROOT / "docs" / "getting_started.md").read_text()
    assert line in text or install == "remerge-merge" and "the same for remerge-merge" in text
    path = os.pathsep.join([str(installed), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", f'{line}; COMP_LINE="{typed}"; {REGISTERED}{PRESS_TAB} echo "${{COMPREPLY[@]}}"'],
        cwd=ROOT, env=os.environ | {"PATH": path},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == expected, done.stderr
