"""A new policy is one file in Python and one in C++: the recipe of docs/replay_buffer.md, carried out."""

import importlib
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from scipy import stats
from support import ROOT

import cl.buffers
from cl.buffers.base import Field
from cl.buffers.insertion import InsertionPolicy
from cl.buffers.library import check_both_sides, lib, native_policies
from cl.buffers.native import NativeBuffer
from cl.buffers.policy import Policy
from cl.buffers.reference import ReferenceBuffer
from cl.buffers.sampling import SamplingPolicy
from cl.buffers.settings import check_policies, import_policies, policy_options
from cl.build import options_of
from cl.distributed.comm import Comm

POLICIES = Path(__file__).parent / "policies"
CPP = ROOT / "native" / "tests" / "policies"
NEW = {"insertion": "fifo", "sampling": "tempered"}
FIELDS = [Field("y", (), torch.int64), Field("number", (), torch.int64)]


@pytest.fixture
def new_policies(tmp_path, monkeypatch):
    """The files lie in cl/buffers for the length of a test."""
    for key, name in NEW.items():
        shutil.copy(POLICIES / f"{key}_{name}.py", tmp_path)
    monkeypatch.setattr(cl.buffers, "__path__", [*cl.buffers.__path__, str(tmp_path)])
    for kind in (InsertionPolicy, SamplingPolicy):
        monkeypatch.setattr(kind, "known", dict(kind.known))
    import_policies()
    yield
    for key, name in NEW.items():
        del sys.modules[f"cl.buffers.{key}_{name}"]


def make(kind=ReferenceBuffer, **options):
    settings = {"capacity": 12, "insertion": "fifo", "sampling": "tempered", "power": 0.5} | options
    return kind(**settings, fields=FIELDS, num_classes=4, seed=0, device=torch.device("cpu"), comm=Comm())


def add(buffer, numbers, label=0):
    numbers = torch.tensor(numbers)
    buffer.add({"y": torch.full_like(numbers, label), "number": numbers})


def test_a_new_insertion_policy_decides_what_stays(new_policies):
    buffer = make()
    for first in range(0, 40, 5):
        add(buffer, range(first, first + 5))
        buffer.request(12)
        stored = buffer.receive()["number"].tolist()
        assert sorted(stored) == list(range(first + 5))[-12:]


def test_a_new_sampling_policy_decides_what_is_drawn(new_policies):
    buffer = make(capacity=100)
    add(buffer, range(4), label=1)
    add(buffer, range(4, 40), label=2)
    drawn = []
    for _ in range(4000):
        buffer.request(1)
        records = buffer.receive()
        drawn.append(int(records["y"]))
        # Uniform chance 1/40; here sqrt(count) / (2 + 6) of the class over its count.
        count = {1: 4, 2: 36}[drawn[-1]]
        assert records.weight.item() == pytest.approx((1 / 40) / (count**0.5 / 8 / count))
    counts = Counter(drawn)
    assert stats.chisquare([counts[1], counts[2]], [4000 * 2 / 8, 4000 * 6 / 8]).pvalue > 1e-4


def test_a_buffer_with_new_policies_is_saved_and_loaded(new_policies, tmp_path):
    one, other = make(), make()
    for step in range(5):
        add(one, range(5 * step, 5 * step + 5), label=step % 4)
    one.save(tmp_path / "buffer")
    other.load(tmp_path / "buffer")
    for buffer in (one, other):
        add(buffer, range(100, 107))
        buffer.request(6)
    assert one.receive().ids.tolist() == other.receive().ids.tolist()


def test_the_options_of_new_policies_are_checked_like_all_others(new_policies):
    assert "power" in policy_options()
    assert check_policies("fifo", "tempered", {"power": "0.5", "candidates": None}) == ({}, {"power": 0.5})
    policies = {"insertion": "fifo", "sampling": "tempered", "candidates": None}
    node = {"_target_": "cl.buffers.reference.ReferenceBuffer", "capacity": 5, "power": "1", **policies}
    assert options_of(node, "buffer") == {"capacity": 5, "power": 1.0, **policies}
    for options, message in (
        ({"power": None}, "buffer.insertion=fifo buffer.sampling=tempered needs buffer.power"),
        ({"power": -1}, "buffer.power must be a number of at least 0, got -1"),
        ({"power": 1, "candidates": 2}, "buffer.candidates=2 belongs to buffer.insertion=candidates, got"),
        ({"power": 1, "pover": 2}, "unknown option buffer.pover \\(did you mean power?"),
    ):
        with pytest.raises(ValueError, match=message):
            check_policies("fifo", "tempered", options)
    with pytest.raises(ValueError, match="unknown option buffer.pover .*valid: .*power"):
        options_of(node | {"pover": 1}, "buffer")


def test_a_policy_of_one_side_only_is_named_with_the_file_that_is_missing(new_policies, monkeypatch):
    with pytest.raises(ValueError, match="buffer.insertion=fifo is missing in the C.. library: .*insertion_fifo.cpp"):
        make(NativeBuffer)
    monkeypatch.delitem(SamplingPolicy.known, "uniform")
    with pytest.raises(ValueError, match="buffer.sampling=uniform is missing in Python: add cl/buffers/sampling_unif"):
        check_both_sides("sampling", "uniform", SamplingPolicy, lib.rb_sampling_policy)


def test_both_sides_have_the_same_policies():
    assert sorted(InsertionPolicy.known) == native_policies(lib.rb_insertion_policy)
    assert sorted(SamplingPolicy.known) == native_policies(lib.rb_sampling_policy)


def test_two_policies_of_one_name_and_policies_without_a_name_are_refused(new_policies):
    with pytest.raises(TypeError, match="two policies have the name fifo: cl.buffers.insertion_fifo and"):
        type("Other", (InsertionPolicy,), {"offer": None}, name="fifo")
    with pytest.raises(TypeError, match="Other has no name"):
        type(
            "Other", (InsertionPolicy,), {"offer": lambda self, labels: {}, "__module__": "cl.buffers.insertion_other"}
        )
    assert Policy.__subclasses__() == [InsertionPolicy, SamplingPolicy]


@pytest.mark.parametrize(
    "path", [POLICIES / "insertion_fifo.py", CPP / "insertion_fifo.cpp"], ids=lambda path: path.name
)
def test_the_recipe_in_the_documentation_is_what_was_tested(path):
    assert path.read_text() in (ROOT / "docs" / "replay_buffer.md").read_text()


def test_settings_are_checked_without_torch():
    program = (
        "import sys; from cl.buffers.settings import check_buffer;"
        "check_buffer({'capacity': '10%', 'insertion': 'candidates', 'sampling': 'uniform', 'candidates': 3});"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=60)


def test_every_policy_is_documented():
    text = (ROOT / "docs" / "replay_buffer.md").read_text()
    for kind in (InsertionPolicy, SamplingPolicy):
        for name in kind.known:
            assert f"| `{name}` |" in text
            assert importlib.import_module(kind.known[name].__module__).__doc__
