"""The commands of docs/sweeps.md: all of them can be composed, and those that need nothing else are run."""

import re
import shlex

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from support import QUICK, ROOT, command

from cl.configuration.composing import composed

PAGE = (ROOT / "docs" / "sweeps.md").read_text()
COMMANDS = re.findall(r"^    python run\.py (.*)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_page_can_be_composed(line):
    overrides = [word for word in shlex.split(line) if word != "-m"]
    parsed = OverridesParser.create().parse_overrides(overrides)
    single = [
        f"{each.get_key_element()}=0.1" if each.is_interval_sweep() else each.input_line for each in parsed
    ]  # what a sweeper that optimises chooses
    for job in BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(single), None)[0]:
        assert composed("run", job).strategy.name in ("er", "derpp")


def test_the_page_shows_every_launcher_and_sweeper():
    assert len(COMMANDS) == 6
    for part in ("-m jobs=2", "=joblib", "=submitit_local", "=submitit_slurm", "hydra/sweeper=search"):
        assert sum(part in line for line in COMMANDS) == 1, part


@pytest.mark.parametrize("part, more", [("-m jobs=2", []), ("hydra/sweeper=search", ["hydra.sweeper.n_trials=2"])])
def test_a_command_of_the_page_runs(tmp_path, part, more):
    (line,) = (line for line in COMMANDS if part in line)
    done = command(*shlex.split(line), *more, "scenario=class2", f"output={tmp_path}", *QUICK)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert len(list(tmp_path.rglob("results.json"))) == (2 if more else 8)
    assert ("\nbest: optimizer.lr=" in done.stdout) == bool(more)
