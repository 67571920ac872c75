"""What is installed beside the packages; `make wheel` builds the whole and tries it in a bare environment."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from support import ROOT

import remerge
from cl.configuration import place


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The packages as a wheel has them, without the extension."""
    place = tmp_path_factory.mktemp("installed")
    line = [sys.executable, "setup.py", "-q", "egg_info", "-e", str(place), "build_py", "-d", str(place / "site")]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return place / "site"


def test_an_installation_has_every_option_and_file(installed):
    def files(folder: Path, pattern: str = "*") -> dict:
        found = (path for path in folder.rglob(pattern) if path.is_file() and path.suffix not in (".pyc", ".so"))
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}

    assert files(installed / "remerge" / "conf") == files(ROOT / "conf") != {}
    for package in ("cl", "merging"):
        assert files(installed / package) == files(ROOT / package)
        assert (installed / package / "py.typed").is_file()
    assert (installed / "remerge" / "build_horovod.py").is_file()


def test_an_installation_composes_from_its_own_files_wherever_it_is_called(installed, tmp_path):
    (tmp_path / "conf").mkdir()  # that of somebody else
    (tmp_path / "pyproject.toml").write_text("")
    line = [sys.executable, "-m", "remerge", "run", "strategy=er", "--cfg", "job"]
    env = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "_target_: cl.strategies.er." in done.stdout, done.stderr
    where = "from cl.configuration.place import CONF, HOROVOD; print(CONF, HOROVOD)"
    found = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert found.stdout.split() == [
        str(installed / "remerge" / "conf"),
        str(installed / "remerge" / "build_horovod.py"),
    ]


def test_every_command_is_there_and_named_in_its_help(monkeypatch):
    scripts = metadata.distribution("remerge").entry_points.select(group="console_scripts")
    assert {script.name for script in scripts} == {f"remerge-{name}" for name in ("run", "merge", "report", "horovod")}
    assert all(callable(script.load()) for script in scripts)
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/remerge-run"])
    assert place.program("run") == "remerge-run" and place.program("report") == "remerge-report"
    monkeypatch.setattr(sys, "argv", ["run.py"])
    assert place.program("run") == "python run.py" and place.program("merge") == "python merge.py"


def test_the_api_is_what_it_says():
    assert set(remerge.__all__) == {*remerge.PLACES, "__version__"}
    for name in remerge.__all__:
        assert getattr(remerge, name) is not None and (name == "__version__" or getattr(remerge, name).__doc__)
    with pytest.raises(AttributeError, match="remerge has no 'swep'"):
        remerge.swep  # noqa: B018


def test_importing_it_imports_nothing_heavy():
    line = "import remerge, sys; print([name for name in ('torch', 'pandas', 'matplotlib') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", line], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
