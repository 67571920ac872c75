"""The house: every module is in a room, and a room knows only the rooms below it.

A room is a package of cl/ or merging/, or a module of its own where HOUSE names it; the modules that lie directly in
cl/ or merging/ are its ground floor. Import statements inside functions count as well.
"""

import ast
import importlib
import importlib.util
from collections import Counter
from pathlib import Path

import pytest
from support import ROOT

# From the ground up: a room may import from those above it in this list, and from itself.
HOUSE = (
    "cl",
    "cl.distributed",
    "cl.data",
    "cl.datasets",
    "cl.scenarios",
    "cl.networks",
    "cl.buffers",
    "cl.step",
    "cl.strategies",
    "cl.configuration",
    "cl.reporting.loggers",
    "cl.reporting",
    "cl.reporting.page",
    "cl.reporting.report",
    "cl.run",
    "cl.jobs",
    "cl.report",
    "merging",
    "merging.align",
    "merging.vectors",
    "merging.means",
    "merging.curve",
    "merging.sources",
    "merging.context",
    "merging.checks",
    "merging.results",
    "merging.run",
    "merging.study",
    "merging.command",
    "remerge",
)
# Arrows that point up, and why they are there. The list only gets shorter.
UPWARDS: set[tuple[str, str]] = set()
MOST_LINES = 300
# Files that are longer. The list only gets shorter.
LONG = {
    "tests/buffers/test_contract.py",
    "tests/datasets/test_image_folder.py",
    "tests/datasets/test_torchvision_sets.py",
    "tests/distributed/replay_worker.py",
    "tests/distributed/test_replay.py",
    "tests/merging/test_merge.py",
    "tests/merging/test_sources.py",
    "tests/networks/test_backbones.py",
    "tests/run/test_experiment.py",
    "tests/scenarios/test_scenarios.py",
    "tests/test_build_horovod.py",
    "benchmarks/replay_ranks.py",
    "scripts/build_horovod.py",
}

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("cl", "merging", "remerge")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
STRATEGIES = [path.relative_to(ROOT).as_posix() for path in (ROOT / "cl" / "strategies").glob("*.py")]


def imports(path: Path) -> set[str]:
    """Every module that a file imports, also inside functions, and what it takes from each."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def importers(prefix: str) -> set[str]:
    """The files that import a module or anything below it."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in MODULES.values()
        if any(name == prefix or name.startswith(prefix + ".") for name in imports(path))
    }


def known(path: Path) -> set[str]:
    """The modules of the house that a file imports: of `from cl.run import trainer` cl.run.trainer alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the room they lead to; write the whole name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            while name and name not in MODULES:
                name = name.rpartition(".")[0]
            found |= {name} - {""}
    return found


ARROWS = sorted((name, other) for name, path in MODULES.items() for other in known(path) - {name})


def room(module: str) -> str:
    """The room of a module: the longest part of its name that is a room."""
    while module not in HOUSE:
        module = module.rpartition(".")[0]
    return module


def test_the_check_itself_sees_imports_inside_functions(tmp_path):
    file = tmp_path / "late.py"
    file.write_text("def f():\n    from cl.run import trainer\n    import cl.data.rows\n")
    assert known(file) == {"cl.run.trainer", "cl.data.rows"}
    assert imports(file) == {"cl.run", "cl.run.trainer", "cl.data.rows"}
    assert {"cl/reporting/plots.py"} <= importers("matplotlib")
    assert {"cl/reporting/loggers/wandb.py"} <= importers("wandb")
    assert len(ARROWS) > 200


def test_every_package_is_a_room_and_every_room_is_there():
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert packages <= set(HOUSE)
    assert set(HOUSE) <= MODULES.keys()


def test_arrows_point_down():
    up = {(a, b) for a, b in ARROWS if HOUSE.index(room(a)) < HOUSE.index(room(b))}
    assert up == UPWARDS


def test_no_module_needs_itself():
    below = {name: {b for a, b in ARROWS if a == name} for name in MODULES}
    while leaves := [name for name, others in below.items() if not others & below.keys()]:
        for name in leaves:
            del below[name]
    assert not below, f"cycles among {sorted(below)}"


def test_cl_never_knows_merging():
    assert not {path for path in importers("merging") if path.startswith("cl/")}


@pytest.mark.parametrize("name", MODULES)
def test_every_module_can_be_imported(name):
    module = importlib.import_module(name)
    assert Path(module.__file__) == MODULES[name] and module.__doc__


def test_packages_hold_a_docstring_and_nothing_else():
    for name, path in MODULES.items():
        if path.name == "__init__.py" and name not in ("cl", "remerge"):  # the version, and what users import
            assert [type(node) for node in ast.parse(path.read_text()).body] == [ast.Expr], name


@pytest.mark.parametrize(
    "module, allowed",
    [
        (
            "hydra",
            {
                "cl/configuration/composing.py",
                "cl/jobs/ahead.py",
                "cl/jobs/launching.py",
                "cl/run/cli.py",
                "cl/run/mistakes.py",
                "cl/run/sweeping.py",
                "remerge/commands.py",
                "remerge/words.py",
            },
        ),
        (
            "omegaconf",
            {
                "cl/configuration/arguments.py",
                "cl/configuration/composing.py",
                "cl/configuration/plugins.py",
                "cl/jobs/launching.py",
                "cl/run/mistakes.py",
                "cl/run/sweeping.py",
                "cl/run/folder.py",
                "cl/configuration/identity.py",
                "cl/reporting/results.py",
                "cl/reporting/published.py",
                "remerge/words.py",
            },
        ),
        ("horovod", {"cl/distributed/horovod_comm.py", "cl/distributed/rendezvous.py"}),
        ("cffi", {"cl/buffers/native.py"}),
        ("peft", {"cl/networks/lora.py"}),
        ("wandb", {"cl/reporting/loggers/wandb.py"}),
        ("tensorboard", {"cl/reporting/loggers/tensorboard.py"}),
        ("scipy", {"cl/reporting/page/inference.py", "cl/strategies/gem.py"}),
        ("jinja2", {"cl/reporting/page/page.py"}),
        ("continuum", set()),
        ("cl.run.experiment", {"cl/run/job.py", "cl/run/together.py", "remerge/learner.py"}),
        (
            "cl.strategies",
            {
                "cl/run/averaging.py",
                "cl/run/experiment.py",
                "cl/run/plan.py",
                "cl/run/recipe.py",
                "cl/run/together.py",
                "cl/run/trainer.py",
                *STRATEGIES,
            },
        ),
    ],
)
def test_only_these_files_import(module, allowed):
    assert {path for path in importers(module) if not path.startswith("merging/")} <= allowed


def test_files_are_short():
    folders = ("cl", "merging", "remerge", "tests", "benchmarks", "scripts", "examples")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    long = {path.relative_to(ROOT).as_posix() for path in files if len(path.read_text().splitlines()) > MOST_LINES}
    assert long == LONG


def test_no_folder_of_tests_hides_a_package_or_a_script():
    """pytest puts the folders of tests on the path; without __init__.py a folder yields to a module of its name."""
    assert not list((ROOT / "tests").rglob("__init__.py"))
    for name in ("cl", "merging", "remerge", "run", "merge"):
        found = importlib.util.find_spec(name)
        assert found is not None and Path(found.origin).is_relative_to(ROOT)
        assert not Path(found.origin).is_relative_to(ROOT / "tests")


def test_files_of_tests_have_different_names():
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py")
    assert not [name for name, count in names.items() if count > 1]
