"""The split of labels against that of continuum imported as a whole, in a process where both are done."""

import subprocess
import sys

import numpy as np
import pytest
from support import ROOT

from cl.scenarios import splits

BOTH = """
import sys
import numpy as np
from cl.scenarios import splits

def cases():
    generator = np.random.default_rng(0)
    for classes, samples, increments in [(10, 500, [2] * 5), (10, 60_000, [5, 1, 4]), (7, 40, [1] * 7), (3, 9, [3])]:
        labels = np.concatenate([np.arange(classes), generator.integers(0, classes, samples - classes)])
        for order in (list(range(classes)), generator.permutation(classes).tolist()):
            yield generator.permutation(labels), increments, order, generator.integers(0, 3, samples)

ours = [
    (splits.class_incremental(labels, increments, order), splits.instance_incremental(labels, task_of))
    for labels, increments, order, task_of in cases()
]
assert not [name for name in sys.modules if name.partition(".")[0] in ("continuum", "torchvision", "datasets")]

from continuum.datasets import InMemoryDataset
from continuum.scenarios import ClassIncremental, InstanceIncremental
from continuum.tasks import TaskType

def tasks(scenario):
    for task in scenario:
        indices, labels, _ = task.get_raw_samples()
        yield indices, labels.astype(np.int64)

for (by_class, by_instance), (labels, increments, order, task_of) in zip(ours, cases(), strict=True):
    def data(tasks=None):
        return InMemoryDataset(np.arange(len(labels)), labels, tasks, data_type=TaskType.TENSOR)
    for own, theirs in (
        (by_class, ClassIncremental(data(), increment=increments, class_order=order)),
        (by_instance, InstanceIncremental(data(task_of))),
    ):
        for (indices, new), (their_indices, their_new) in zip(own, tasks(theirs), strict=True):
            assert indices.dtype == their_indices.dtype and new.dtype == their_new.dtype
            np.testing.assert_array_equal(indices, their_indices)
            np.testing.assert_array_equal(new, their_new)
print("equal", len(ours))
"""


def test_the_split_is_that_of_continuum_and_continuum_can_be_imported_afterwards():
    done = subprocess.run([sys.executable, "-c", BOTH], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "equal 8\n"), done.stderr


@pytest.mark.parametrize(
    "content, words",
    [
        ("from torchvision import transforms\nfrom continuum.unheard import Of\n", "base.py imports continuum.unheard"),
        ("from continuum.tasks import Unheard\n", "cannot import name 'Unheard'"),
        ("x = 1\n", "no attribute 'ClassIncremental'"),
        (None, "base.py"),
    ],
)
def test_another_layout_of_continuum_is_named(tmp_path, monkeypatch, content, words):
    folder = tmp_path / "continuum" / "scenarios"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise AssertionError('it was imported')\n")
    if content is not None:
        for name in splits.FILES:
            (folder / f"{name}.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    splits._scenarios.cache_clear()
    monkeypatch.delitem(sys.modules, "continuum", raising=False)
    with pytest.raises(ImportError, match="1.2.7") as raised:
        splits.class_incremental(np.array([0, 1]), [1, 1], [0, 1])
    assert words in str(raised.value)
    splits._scenarios.cache_clear()
