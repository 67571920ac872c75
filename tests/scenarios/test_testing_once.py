"""Test samples of several tasks together: those that tasks share count once, those that only look alike do not."""

import json

import numpy as np
import pytest
import torch
from support import QUICK
from test_scenarios import CPU, FIRST_TEST_ID, TEST_LABELS, ids, numbered, tasks_of

from cl.data.rows import Rows
from cl.scenarios.base import Part, Tasks
from cl.scenarios.classes import ClassIncremental, TaskIncremental
from cl.scenarios.domains import DomainIncremental, Permuted, Rotated
from cl.scenarios.instances import InstanceIncremental, Skewed
from merging import run

COUNT = len(TEST_LABELS)


@pytest.mark.parametrize("scenario, count", [
    (Skewed(2, 4, 0.1), COUNT),
    (InstanceIncremental(3, False), COUNT),
    (ClassIncremental(5), COUNT),
    (TaskIncremental(5), COUNT),
    (DomainIncremental(5), COUNT),
    (Permuted(3), 3 * COUNT),
    (Permuted(3, permute_first=False), 3 * COUNT),
    (Rotated(4, [0, 90]), 4 * COUNT),
], ids=lambda value: type(value).__name__)  # fmt: skip
def test_each_picture_counts_once(scenario, count):
    tasks = tasks_of(scenario)
    everything = list(range(len(tasks)))
    once, each = tasks.testing_once(everything, CPU), [tasks.testing(task, CPU) for task in everything]
    assert len(once) == count
    pairs = {(picture.numpy().tobytes(), label) for rows in each for picture, label in zip(rows.x, rows.y.tolist())}
    assert {(picture.numpy().tobytes(), label) for picture, label in zip(once.x, once.y.tolist())} == pairs
    if count == sum(map(len, each)):  # nothing is shared: the tasks one after the other, as they are
        whole = Rows.cat(each)
        assert all(torch.equal(once[name], whole[name]) for name in ("x", "y", "task"))
    assert tasks.testing_once([1], CPU) is tasks.testing(1, CPU)


def overlapping(labels: list[list[int]], transforms: list) -> Tasks:
    """Tasks whose test sets overlap: the samples 0 to 5, and 3 to 8."""
    split = numbered(np.zeros(9, dtype=np.int64), FIRST_TEST_ID)
    parts = [Part(np.arange(first, first + 6), np.array(own)) for first, own in zip((0, 3), labels)]
    return Tasks(split, split, parts, parts, transforms)


SAME, OTHER = [[0] * 6, [0] * 6], [[0] * 6, [1] * 6]


@pytest.mark.parametrize("labels, transforms, by_task, expected", [
    (SAME, [None, None], False, [*range(6), 6, 7, 8]),
    (SAME, [torch.clone, torch.clone], False, [*range(6), 6, 7, 8]),
    (OTHER, [None, None], False, [*range(6), *range(3, 9)]),
    (SAME, [None, torch.clone], False, [*range(6), *range(3, 9)]),
    (SAME, [None, None], True, [*range(6), *range(3, 9)]),
])  # fmt: skip
def test_the_same_is_one_picture_with_one_label_and_one_transformation(labels, transforms, by_task, expected):
    once = overlapping(labels, transforms).testing_once([0, 1], CPU, by_task)
    assert [number - FIRST_TEST_ID for number in ids(once)] == expected
    assert once.task.tolist() == [0] * 6 + [1] * (len(expected) - 6)


def test_a_curve_is_measured_on_each_test_image_once(compose_config, monkeypatch):
    asked = []
    find = run.MergeContext.testing
    monkeypatch.setattr(run.MergeContext, "testing", lambda self, tasks: asked.append(find(self, tasks)) or asked[-1])
    words = ("scenario=skewed2", "baselines=[]", "fusion=curve", "fusion.epochs=0.1", "fusion.points=3")
    folder = run.run(compose_config(*QUICK, *words, "fusion.plane=0", "fusion.at=0.0", name="merge"))[-1]
    content = json.loads((folder / "results.json").read_text())
    (rows,) = asked
    assert len(rows) == 1797 - 1442  # the whole test split
    assert content["curve"]["test_accuracy"][0] == content["accuracy_matrix"][0][0] == content["accuracy_matrix"][0][1]
