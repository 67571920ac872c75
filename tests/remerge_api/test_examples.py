"""The scripts and the notebook of examples/, run as they are."""

import ast
import contextlib
import io
import json

import matplotlib
import pytest
from support import ROOT, command

SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
# What each prints at the end, from a source that is not the script: a bound, or what has to be equal.
SAYS = {
    "compare_strategies.py": "joint",
    "merge_networks.py": "its accuracy on each task:",
    "own_loop.py": "average accuracy:",
    "own_metric.py": "worst task:",
    "strategy_by_hand.py": "equal to the run: True",
}


def test_there_are_five_scripts_of_less_than_60_lines():
    assert {path.name for path in SCRIPTS} == SAYS.keys()
    for path in SCRIPTS:
        assert len(path.read_text().splitlines()) < 60, path.name
        assert f"python examples/{path.name}" in ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_runs_from_any_folder(path, tmp_path):
    done = command(script=path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert SAYS[path.name] in done.stdout


def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path, monkeypatch):
    cells = json.loads((ROOT / "examples" / "tour.ipynb").read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code"), "outputs belong to no checkout"
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    names: dict = {}
    for source in sources:
        *body, last = ast.parse(source).body
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(ast.Module(body, []), "cell", "exec"), names)
            if not isinstance(last, ast.Expr):
                exec(compile(ast.Module([last], []), "cell", "exec"), names)
                continue
            shown = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        if hasattr(shown, "_repr_html_"):
            assert "<table" in shown._repr_html_()
    assert shown is True  # the strategy by hand has the numbers of the run
