"""Batches of an epoch: every sample once with its own label, in an order by seed, task and epoch only."""

import numpy as np
import pytest
import torch
from torch import nn

from cl.data.loader import epoch_batches, num_batches
from cl.data.rows import Rows
from cl.networks.backbones import fewest_samples


def numbered(count: int) -> Rows:
    """Samples whose image, label and task all tell their number."""
    numbers = torch.arange(count)
    x = torch.stack([numbers // 256, numbers % 256], 1).to(torch.uint8).view(count, 1, 1, 2)
    return Rows({"x": x, "y": numbers % 7, "task": numbers % 3})


def numbers_of(batch) -> list[int]:
    return (batch.x[:, 0, 0, 0].long() * 256 + batch.x[:, 0, 0, 1]).tolist()


def order(count: int = 100, batch_size: int = 10, seed: int = 0, task_id: int = 0, epoch: int = 0) -> list[int]:
    batches = epoch_batches(numbered(count), batch_size, seed, task_id, epoch)
    return [number for batch in batches for number in numbers_of(batch)]


@pytest.mark.parametrize(
    "count, batch_size, sizes",
    [
        (100, 10, [10] * 10),
        (103, 10, [10] * 10 + [3]),
        (99, 50, [50, 49]),
        (7, 10, [7]),
        (10, 10, [10]),
        (5, 1, [1] * 5),
        (1, 3, [1]),
    ],
)
def test_every_sample_comes_once_with_its_label_and_task_and_the_last_batch_holds_the_rest(count, batch_size, sizes):
    batches = list(epoch_batches(numbered(count), batch_size, seed=0, task_id=0, epoch=0))
    assert [len(batch.y) for batch in batches] == sizes
    assert num_batches(count, batch_size) == len(sizes)
    assert sorted(number for batch in batches for number in numbers_of(batch)) == list(range(count))
    for batch in batches:
        assert batch.x.dtype == torch.uint8 and batch.x.is_contiguous()
        assert batch.y.tolist() == [number % 7 for number in numbers_of(batch)]
        assert batch.task.tolist() == [number % 3 for number in numbers_of(batch)]


@pytest.mark.parametrize("block_bytes", [1, 20, 100, 1000])
def test_how_many_samples_are_gathered_at_once_changes_nothing(monkeypatch, block_bytes):
    # two bytes a sample: blocks of less than a batch, one batch, several batches, and more than there are
    expected = list(epoch_batches(numbered(103), 10, seed=0, task_id=0, epoch=0))
    monkeypatch.setattr("cl.data.loader.GATHER_BYTES", block_bytes)
    batches = list(epoch_batches(numbered(103), 10, seed=0, task_id=0, epoch=0))
    assert [len(batch.y) for batch in batches] == [10] * 10 + [3]
    for got, wanted in zip(batches, expected):
        assert all(torch.equal(got[name], wanted[name]) for name in ("x", "y", "task"))


@pytest.mark.parametrize("changed", [{"seed": 1}, {"task_id": 1}, {"epoch": 1}])
def test_the_order_changes_with_seed_task_and_epoch(changed):
    assert order(**changed) != order()


def test_equal_sums_of_seed_task_and_epoch_are_different_orders():
    keys = [(seed, task_id, epoch) for seed in range(3) for task_id in range(3) for epoch in range(3)]
    assert len({tuple(order(seed=seed, task_id=task_id, epoch=epoch)) for seed, task_id, epoch in keys}) == 27


def test_nothing_else_changes_the_order():
    first = order()
    np.random.seed(5), torch.manual_seed(5)
    assert order() == first
    assert order(batch_size=33) == first
    interrupted = epoch_batches(numbered(100), 10, 0, 0, 0)
    next(interrupted)  # an epoch that is begun elsewhere has no part in it
    assert order() == first


def test_the_samples_are_left_as_they_were():
    samples = numbered(20)
    for batch in epoch_batches(samples, 4, seed=0, task_id=0, epoch=0):
        batch.x.zero_(), batch.y.zero_(), batch.task.zero_()
    for name in ("x", "y", "task"):
        assert torch.equal(samples[name], numbered(20)[name])


def test_every_place_of_the_order_is_equally_likely():
    # where sample 0 stands in 3000 orders of 10: 300 +- 16.4 times in each place; 5 deviations in one of ten is
    # an error rate of 6e-6
    places = np.bincount([order(count=10, epoch=epoch).index(0) for epoch in range(3000)], minlength=10)
    assert np.abs(places - 300).max() < 83


# Where a batch must have two samples


@pytest.mark.parametrize(
    "count, batch_size, ranks, fewest, sizes",  # of the batches with a loss weight, rank by rank
    [
        (289, 288, 1, 1, [[288, 1]]),
        (289, 288, 1, 2, [[289]]),
        (290, 288, 1, 2, [[288, 2]]),
        (19, 4, 4, 1, [[4, 1], [4, 1], [4, 1], [4, 0]]),
        (17, 4, 4, 2, [[5], [4], [4], [4]]),
        (19, 4, 4, 2, [[4, 3], [4, 0], [4, 0], [4, 0]]),
        (21, 4, 4, 2, [[4, 3], [4, 2], [4, 0], [4, 0]]),
        (3, 4, 2, 2, [[3], [0]]),
    ],
)
def test_no_batch_is_smaller_than_it_may_be(count, batch_size, ranks, fewest, sizes):
    parts = [list(epoch_batches(numbered(count), batch_size, 0, 0, 0, rank, ranks, fewest)) for rank in range(ranks)]
    assert [[len(batch) if batch.loss_weight else 0 for batch in part] for part in parts] == sizes
    assert min(len(batch) for part in parts for batch in part) >= fewest
    assert num_batches(count, batch_size, ranks, fewest) == len(sizes[0])
    own = [[numbers_of(batch) if batch.loss_weight else [] for batch in part] for part in parts]
    assert sorted(number for part in own for batch in part for number in batch) == list(range(count))
    for step in range(len(sizes[0])):  # the mean over ranks of the weighed means is that over the samples
        mean = sum(part[step].loss_weight * np.mean(numbers_of(part[step])) for part in parts) / ranks
        assert mean == pytest.approx(np.mean([number for part in own for number in part[step]]))


def test_a_single_sample_is_refused_where_two_are_needed():
    with pytest.raises(ValueError, match="a stage of training has 1 samples, and needs at least 2: batch norm"):
        next(epoch_batches(numbered(1), 4, 0, 0, 0, fewest=2))


def test_two_samples_are_needed_where_batch_norm_has_one_value_of_each():
    image = torch.zeros(1, 1, 2, 2)
    layers = {"spatial": nn.BatchNorm2d(1), "flat": nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4)), "none": nn.ReLU()}
    assert {name: fewest_samples(layer, image) for name, layer in layers.items()} == {
        "spatial": 1,
        "flat": 2,
        "none": 1,
    }
    assert layers["spatial"].num_batches_tracked == 0  # the network itself is left as it is
