"""Which outputs belong to which task, by hand."""

import torch

from cl.scenarios.outputs import TaskOutputs, keep_only, tasks_of

OUTPUTS = TaskOutputs(5, [range(0, 2), range(2, 3), range(3, 5)])
INF = float("inf")


def test_other_classes_are_those_of_the_other_tasks():
    assert OUTPUTS.other_classes.tolist() == [
        [False, False, True, True, True],
        [True, True, False, True, True],
        [True, True, True, False, False],
    ]
    assert OUTPUTS.of_tasks([0, 2]).tolist() == [True, True, False, True, True]
    assert not OUTPUTS.of_tasks([]).any()


def test_logits_of_other_tasks_are_masked_sample_by_sample():
    logits = torch.arange(10.0).view(2, 5)
    masked = OUTPUTS.mask_others(logits, torch.tensor([2, 0]))
    assert masked.tolist() == [[-INF, -INF, -INF, 3, 4], [5, 6, -INF, -INF, -INF]]
    assert logits.tolist() == torch.arange(10.0).view(2, 5).tolist()
    assert keep_only(logits, OUTPUTS.of_tasks([1]))[1].tolist() == [-INF, -INF, 7, -INF, -INF]


def test_training_masks_only_where_it_is_told_the_task():
    logits, task = torch.zeros(1, 5), torch.tensor([1])
    assert OUTPUTS.for_training(logits, task) is logits
    aware = TaskOutputs(5, OUTPUTS.task_outputs, task_aware=True)
    assert aware.for_training(logits, task).tolist() == [[-INF, -INF, 0, -INF, -INF]]


def test_tasks_that_share_their_outputs_have_no_others():
    shared = TaskOutputs(3, [], task_aware=True)
    logits = torch.ones(2, 3)
    assert shared.shared and not shared.task_aware and shared.other_classes is None
    assert shared.mask_others(logits, torch.tensor([0, 1])) is logits
    assert shared.of_tasks([1]).tolist() == [True] * 3


def test_tasks_of_stages_come_once_and_in_order():
    assert tasks_of([[2], [0, 1], [1]]) == [0, 1, 2]
