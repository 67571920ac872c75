"""Nothing is loaded before it is needed: what must not be there at the first training step, for help, for a mistake."""

import json
import subprocess
import sys

import pytest
from support import ROOT
from test_mistakes import LEFT, MISTAKES, NEED_TORCH, split

# What a step of a small network has no use for; torch itself is needed.
UNUSED = {
    "torchvision", "timm", "continuum", "datasets", "scipy", "pandas", "sklearn", "sympy", "mpmath", "triton",
    "matplotlib", "PIL", "simplejpeg", "h5py", "wandb", "ot", "horovod", "networkx", "safetensors", "requests",
    "pyarrow", "torch._inductor", "torch._dynamo.config", "torch.fx.experimental.symbolic_shapes", "torch.onnx",
    "nvidia.dali", "rich",
}  # fmt: skip
WITHOUT_TORCH = UNUSED | {"torch", "tqdm", "cl.run.experiment"}

MODULES = """
import atexit, json, runpy, sys
atexit.register(lambda: print("\\n" + json.dumps(sorted(sys.modules))))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

# Runs command lines in one process in which torch can be found but not imported, and gives what each of them said.
BLOCKED = """
import contextlib, importlib.machinery, io, json, os, runpy, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name != "torch":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name)
        spec.loader.exec_module = lambda module: (_ for _ in ()).throw(ImportError("torch is imported"))
        return spec

sys.meta_path.insert(0, Blocked())
root, folder = sys.argv[1:]
sys.path.insert(0, root)
os.chdir(folder)
said = []
for program, *words in json.load(sys.stdin):
    sys.argv = [f"{root}/{program}", *words]
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as ended:
            said.append((ended.code, errors.getvalue()))
print(json.dumps(said))
"""


def modules(*command: str) -> set[str]:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def loaded(found: set[str], unwanted: set[str]) -> list[str]:
    return sorted(name for name in unwanted if name in found)


def test_the_first_step_on_the_digits_has_loaded_nothing_it_does_not_use(tmp_path):
    found = modules("benchmarks/first_step.py", "run.py", f"output={tmp_path}")
    assert {"torch", "cl.strategies.derpp", "cl.buffers.native"} <= found
    assert loaded(found, UNUSED) == []


def test_the_first_step_of_merging_has_loaded_nothing_it_does_not_use(tmp_path):
    found = modules("benchmarks/first_step.py", "merge.py", f"output={tmp_path}")
    assert {"torch", "merging.run", "cl.strategies.finetune"} <= found
    assert loaded(found, UNUSED) == []


def test_the_first_step_of_split_mnist_has_loaded_nothing_it_does_not_use(tmp_path, mnist_root):
    overrides = ("+experiment=split_mnist_er", "buffer.capacity=200", f"dataset.root={mnist_root}")
    found = modules("benchmarks/first_step.py", "run.py", *overrides, f"output={tmp_path}")
    assert {"torch", "cl.strategies.er", "cl.datasets.torchvision_sets"} <= found
    assert loaded(found, UNUSED) == []


@pytest.mark.parametrize(
    "command, more",
    [
        ("run.py --help", {"numpy"}), ("merge.py --help", {"numpy"}), ("run.py --cfg job", {"numpy"}),
        ("run.py sed=1", {"numpy"}), ("run.py strategy.alpha=-1", set()), ("merge.py fusion=ties fusion.keep=0", set()),
    ],
)  # fmt: skip
def test_help_and_mistakes_need_no_torch(tmp_path, command, more):
    found = modules("-c", MODULES, *command.split(), *([] if "--help" in command else [f"output={tmp_path}"]))
    assert "hydra" in found and loaded(found, WITHOUT_TORCH | more) == []


def test_a_finished_run_needs_no_torch(tmp_path):
    overrides = [f"output={tmp_path}", "steps=1", "pictures=[]", "progress=false"]
    subprocess.run([sys.executable, "run.py", *overrides], cwd=ROOT, check=True, capture_output=True)
    found = modules("-c", MODULES, "run.py", *overrides)
    assert loaded(found, (WITHOUT_TORCH | {"numpy", "rich.progress", "pygments"}) - {"rich"}) == []  # for its table


def test_mistakes_are_said_before_torch_is_imported(tmp_path):
    cases = [case for case in MISTAKES if case[0] not in NEED_TORCH]
    assert len(cases) == len(MISTAKES) - len(NEED_TORCH)
    lines = [
        ("merge.py", *split(line[6:])) if line.startswith("merge ") else ("run.py", *split(line)) for line, *_ in cases
    ]
    (tmp_path / "README.md").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(ROOT), str(tmp_path)],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    late = []
    for (line, *parts), (status, said) in zip(cases, json.loads(done.stdout), strict=True):
        one_line = said.startswith("error: ") and said.count("\n") == 1
        if status != 1 or not one_line or any(part not in said for part in parts):
            late.append((line, said))
    assert late == []
    assert [path for path in tmp_path.rglob("*") if path.name not in LEFT] == []
