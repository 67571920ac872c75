"""torch's compiler is not loaded by an optimizer, is loaded by what uses it, and makes no difference to the numbers."""

import subprocess
import sys

import pytest
from support import ROOT

TRAINED = """
import sys, torch
from cl.run.compiler import defer_compiler
if {deferred}:
    defer_compiler()

def trained():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    optimizer = torch.optim.{optimizer}
    called = []
    optimizer.register_step_post_hook(lambda *_: called.append(1))
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 7)).square().sum().backward()
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert len(called) == 3
    return torch.cat([weight.flatten() for weight in model.parameters()]).tolist()

print(trained())
print(sorted(name for name in ("sympy", "torch._dynamo.config") if name in sys.modules), file=sys.stderr)
"""

LATER = """
import sys, torch
from cl.run.compiler import defer_compiler
defer_compiler()
defer_compiler()
weight = torch.nn.Parameter(torch.ones(3))
optimizer = torch.optim.SGD([weight], lr=1.0)
assert "sympy" not in sys.modules
{use}
assert "sympy" in sys.modules and torch._dynamo is sys.modules["torch._dynamo"]
assert torch._dynamo.__file__.endswith("__init__.py")
weight.grad = torch.ones(3)
optimizer.step()
print(weight.tolist())
"""


def output(program: str) -> tuple[str, str]:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    "optimizer", ["SGD(model.parameters(), lr=0.1, momentum=0.9)", "AdamW(model.parameters(), lr=0.1)"]
)
def test_the_weights_are_the_same_with_and_without_the_compiler(optimizer):
    with_it, loaded = output(TRAINED.format(deferred=False, optimizer=optimizer))
    without, not_loaded = output(TRAINED.format(deferred=True, optimizer=optimizer))
    assert (loaded, not_loaded) == ("['sympy', 'torch._dynamo.config']\n", "[]\n")
    assert with_it == without != ""


@pytest.mark.parametrize(
    "use",
    [
        "import torch._dynamo.config",
        "from torch._dynamo import reset",
        "torch._dynamo.config.suppress_errors = False",
        "compiled = torch.compile(lambda x: 2 * x, backend='eager')\n"
        "assert compiled(weight).tolist() == [2, 2, 2] and torch._dynamo.utils.counters['frames']['ok'] == 1",
    ],
)
def test_what_uses_the_compiler_loads_it(use):
    assert output(LATER.format(use=use))[0] == "[0.0, 0.0, 0.0]\n"


def test_looking_at_all_modules_does_not_load_it():
    program = (
        "import inspect, sys, torch\nfrom cl.run.compiler import defer_compiler\ndefer_compiler()\n"
        "inspect.getmodule(torch.zeros, 'nowhere')\nprint('sympy' in sys.modules)"
    )
    assert output(program)[0] == "False\n"
