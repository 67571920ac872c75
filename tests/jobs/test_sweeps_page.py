"""The commands of docs/sweeps.md can be composed; test_launchers.py runs such sweeps under every launcher."""

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
    assert len(COMMANDS) == 8
    for part in ("-m jobs=2", " seeds=10 -m", "=joblib", "=submitit_local", "=submitit_slurm", "hydra/sweeper=search"):
        assert sum(part in line for line in COMMANDS) == 1, part


def test_the_search_of_the_page_runs(tmp_path):
    (line,) = (line for line in COMMANDS if "hydra/sweeper=search" in line)
    done = command(*shlex.split(line), "hydra.sweeper.n_trials=2", "scenario=class2", f"output={tmp_path}", *QUICK)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert len(list(tmp_path.rglob("results.json"))) == 2 and "\nbest: optimizer.lr=" in done.stdout
