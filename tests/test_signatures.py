"""Signatures that are read from the source are those of the imported targets, for every file of conf/."""

import inspect
import os

import pytest
from omegaconf import OmegaConf
from support import ROOT

from cl import values
from cl.build import GIVEN, KINDS, locate
from cl.signatures import Unknown, UnreadableError, parameters_of


def targets(node) -> list[str]:
    """All that a configuration builds, also within others."""
    if not isinstance(node, dict):
        return []
    own = [node["_target_"]] if "_target_" in node else []
    return own + [target for value in node.values() for target in targets(value)]


TARGETS = sorted(
    {
        (path.relative_to(ROOT / "conf").parts[0], target)
        for path in (ROOT / "conf").rglob("*.yaml")
        if path.relative_to(ROOT / "conf").parts[0] != "hydra"  # plugins, which Hydra builds
        for target in targets(OmegaConf.to_container(OmegaConf.load(path)))
    }
)


def kinds(parameters, group: str) -> dict:
    """Of every option what `values.convert` makes of it."""
    known = {name: parameter.annotation for name, parameter in parameters.items()}
    known |= {name: kind for name, kind in KINDS.get(group, {}).items() if name in known}
    return {name: values._parts(kind) for name, kind in known.items() if name not in GIVEN.get(group, ())}


def test_every_group_has_targets():
    assert {"strategy", "scenario", "dataset", "backbone", "buffer", "optimizer", "schedule", "loader", "logger"} < {
        group for group, _ in TARGETS
    }
    assert ("optimizer", "torch.optim.SGD") in TARGETS and ("fusion", "merging.vectors.ties.Ties") in TARGETS


@pytest.mark.parametrize("group, target", TARGETS, ids=lambda word: word)
def test_the_source_says_what_the_import_says(group, target):
    found, expected = parameters_of(target), inspect.signature(locate({"_target_": target}, group)).parameters
    assert list(found) == list(expected)
    assert [parameter.kind for parameter in found.values()] == [parameter.kind for parameter in expected.values()]
    for name, parameter in expected.items():
        if found[name].default is not Unknown:
            assert (found[name].default, type(found[name].default)) == (parameter.default, type(parameter.default))
    assert kinds(found, group) == kinds(expected, group)


SOURCE = """
import abc
from abc import ABC
from cl.values import Count
from .other import Far as Near
from .other import function as renamed
import elsewhere

class Plain(ABC):
    def __init__(self, a: Count, b: "text" = 1, *, c: int | elsewhere.Thing | None = None, d=elsewhere.X, **more): ...

class Child(Plain):
    x = 1

class Grandchild(Child):
    '''Its constructor is that of Plain.'''

class Bare: ...

class Inherits(Near): ...

class Twice(Plain, Near): ...

class Dotted(abc.ABC): ...

class Meta(metaclass=abc.ABCMeta): ...

class Assigned:
    __init__ = Plain.__init__

class Created:
    def __new__(cls, a): ...

@elsewhere.decorated
class Decorated: ...

@elsewhere.decorated
def decorated(a): ...

Alias = Plain
VALUE = 3

def function(a, /, b: list[int] = (), *rest: float): ...
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose import fails, so that it must not be imported."""
    folder = tmp_path / "unimported"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise AssertionError('it was imported')\nfrom .one import Child\n")
    (folder / "one.py").write_text(SOURCE)
    (folder / "other.py").write_text("class Far:\n    def __init__(self, far: bool): ...\ndef function(x): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "unimported"


@pytest.mark.parametrize(
    "name, expected",
    [
        ("one.Child", "(a: Count, b: 'text' = 1, *, c: int | Unknown | None = None, d=Unknown, **more)"),
        ("one.Grandchild", "(a: Count, b: 'text' = 1, *, c: int | Unknown | None = None, d=Unknown, **more)"),
        ("Child", "(a: Count, b: 'text' = 1, *, c: int | Unknown | None = None, d=Unknown, **more)"),
        ("one.Bare", "()"),
        ("one.Meta", "()"),
        ("one.Near", "(far: bool)"),
        ("one.Inherits", "(far: bool)"),
        ("one.renamed", "(x)"),
        ("one.function", "(a, /, b: list[int] = (), *rest: float)"),
    ],
)
def test_parameters_are_found_through_bases_and_imports(package, name, expected):
    found = inspect.Signature(list(parameters_of(f"{package}.{name}").values()))
    shown = str(found).replace("cl.signatures.", "").replace("<class 'Unknown'>", "Unknown")
    count = "typing.Annotated[int, Range(least=1, above=None, most=None, below=None)]"
    assert shown.replace(count, "Count") == expected


@pytest.mark.parametrize(
    "name",
    [
        "one.Twice", "one.Dotted", "one.Assigned", "one.Created", "one.Decorated", "one.decorated", "one.Alias",
        "one.VALUE", "one.Missing", "three.Child", "one.deeper.Child", "",
    ],
)  # fmt: skip
def test_what_the_source_does_not_tell_is_left_to_the_import(package, name):
    with pytest.raises(UnreadableError):
        parameters_of(f"{package}.{name}")


@pytest.mark.parametrize("target", ["no_such_package.A", "sys.exit", "None", "", ".a", "a..b", "math.sin", "cl.build."])
def test_what_has_no_source_is_left_to_the_import(target):
    with pytest.raises(UnreadableError):
        parameters_of(target)


def test_a_module_that_was_changed_is_read_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "edited_in_a_notebook.py"
    file.write_text("def make(old): pass")
    assert list(parameters_of("edited_in_a_notebook.make")) == ["old"]
    file.write_text("def make(new, more=1): pass")
    os.utime(file, ns=(1, 1))  # a clock may be coarse
    assert list(parameters_of("edited_in_a_notebook.make")) == ["new", "more"]
