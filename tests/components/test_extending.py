"""docs/extending.md agrees with the code: its commands can be given, its lists are those of the classes."""

import re
import shlex

import pytest
from support import ROOT

from cl.build import imported
from cl.run.callbacks import HOOKS
from cl.run.checks import check
from cl.run.folder import plain
from cl.strategies.base import Strategy
from remerge.words import configuration

EXAMPLES = ROOT / "docs" / "examples"
PAGE = (ROOT / "docs" / "extending.md").read_text()
COMMANDS = re.findall(r"^    python (run|merge)\.py --config-dir docs/examples/conf (.*)$", PAGE, re.MULTILINE)


def test_there_is_a_command_for_every_example():
    given = " ".join(words for _, words in COMMANDS)
    assert all(f"[{path.stem}]" in given for path in EXAMPLES.glob("my_*.py"))


@pytest.mark.parametrize("command, words", COMMANDS, ids=[words for _, words in COMMANDS])
def test_its_commands_can_be_given(own, tmp_path, command, words):
    own()
    check(plain(configuration(command, [*shlex.split(words), f"output={tmp_path}"], EXAMPLES / "conf")))


def test_what_must_be_there_is_what_is_abstract():
    rows = re.findall(r"^\| `([\w.]+\.[A-Z]\w+)` \| (`.*?`) \|", PAGE, re.MULTILINE)
    assert len(rows) == 8
    for target, names in rows:
        assert set(re.findall(r"`(\w+)`", names)) == imported(target, target).__abstractmethods__, target


def test_what_can_be_overridden_is_there():
    table = PAGE.partition("| override | to change |")[2].partition("\n\n")[0]
    names = re.findall(
        r"`(\w+)`", " ".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    )
    assert len(names) > 10 and all(callable(getattr(Strategy, name)) for name in names)
    assert not getattr(Strategy, "__abstractmethods__", ())
    assert all(f"`{hook}`" in PAGE for hook in HOOKS)


def test_every_file_that_is_included_is_there_and_every_example_is_included():
    included = re.findall(r'^--8<-- "(.*)"$', PAGE, re.MULTILINE)
    assert all((ROOT / path).is_file() for path in included)
    files = [*EXAMPLES.glob("my_*.py"), *EXAMPLES.glob("conf/*/*.yaml")]
    assert {path.relative_to(ROOT).as_posix() for path in files} == set(included)
