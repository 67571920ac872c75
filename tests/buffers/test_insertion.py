"""Each insertion policy keeps records with exactly the chances it promises, and never more than it may."""

from collections import Counter
from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import stats

from cl import seeding
from cl.buffers.insertion_candidates import Candidates
from cl.buffers.insertion_class_balanced import ClassBalanced
from cl.buffers.insertion_reservoir import Reservoir
from cl.seeding import Uniforms

# A policy is rejected at p < LEVEL: of correct ones one in 10,000 would be. Seeds are fixed, so each test always passes
# or always fails.
LEVEL = 1e-4

POLICIES = {
    "reservoir": Reservoir,
    "class_balanced": ClassBalanced,
    "candidates": partial(Candidates, candidates=2),
}


def keep(policy, batches):
    """Offer batches of labels; after each, the positions in the stream of the records that are stored then."""
    content, offered = {}, 0
    for labels in batches:
        placed = policy.offer(list(labels))
        for slot, row in placed.items():
            assert slot in policy.stored, "a record was put into a slot that counts as free"
            assert 0 <= row < len(labels)
            content[slot] = offered + row
        offered += len(labels)
        assert set(policy.stored) <= content.keys() & set(range(policy.capacity)), (
            "a slot never written counts as stored"
        )
        kept = [content[slot] for slot in policy.stored]
        assert len(set(kept)) == len(kept) <= policy.capacity, "a record is stored twice"
        yield kept


def test_reservoir_keeps_every_position_of_the_stream_with_probability_k_over_n(same_chance):
    uniforms, runs, capacity = Uniforms(0, "test"), 10000, 6
    sizes = [1, 4, 0, 3, 17, 2, 9]  # one batch is empty; the memory gets full in the middle of the one after it
    counts = [np.zeros(end) for end in np.cumsum(sizes)]
    for _ in range(runs):
        for stored, kept in zip(counts, keep(Reservoir(capacity, 10, uniforms), [[0] * size for size in sizes])):
            assert len(kept) == min(capacity, len(stored))
            stored[kept] += 1
    for stored in counts:
        if len(stored) <= capacity:
            assert (stored == runs).all()
        else:  # exactly k are stored, so equal chances are chances of k/n
            assert same_chance(stored, [capacity] * runs) > LEVEL


def test_the_test_of_the_reservoir_rejects_replacing_at_a_constant_rate(same_chance):
    stream, runs, capacity, offered = seeding.generator(0, "test"), 10000, 6, 36
    counts = np.zeros(offered)
    for _ in range(runs):
        slots = list(range(capacity))
        for record in range(capacity, offered):
            if stream.random() < 0.25:  # about k/n in the middle of the stream, too often after it
                slots[stream.integers(capacity)] = record
        counts[slots] += 1
    assert same_chance(counts, [capacity] * runs) < LEVEL


@pytest.mark.parametrize("capacity, offered", [(2, 6), (3, 6), (5, 6)])
def test_reservoir_keeps_every_set_equally_often(capacity, offered):
    uniforms, sets = Uniforms(1, "test"), Counter()
    for _ in range(10000):
        *_, kept = keep(Reservoir(capacity, 10, uniforms), [[0], [0] * (offered - 1)])
        sets[frozenset(kept)] += 1
    expected = list(combinations(range(offered), capacity))
    assert stats.chisquare([sets[frozenset(kept)] for kept in expected]).pvalue > LEVEL


def test_reservoir_keeps_every_pair_with_probability_k_times_k_minus_1_over_n_times_n_minus_1():
    uniforms, runs, capacity, offered = Uniforms(2, "test"), 10000, 4, 9
    together = Counter()
    for _ in range(runs):
        *_, kept = keep(Reservoir(capacity, 10, uniforms), [[0] * 2, [0] * 5, [0] * 2])
        together.update(combinations(sorted(kept), 2))
    pairs = list(combinations(range(offered), 2))
    chance = capacity * (capacity - 1) / (offered * (offered - 1))
    # Bonferroni: the level holds for all 36 pairs together.
    assert min(stats.binomtest(together[pair], runs, chance).pvalue for pair in pairs) > LEVEL / len(pairs)


# Streams of labels, each with the sizes of its batches.
STREAMS = {
    "balanced": ([0, 1, 2, 3] * 20, 7),
    "a class at a time": (sorted([0, 1, 2, 3, 4] * 16), 10),
    "a class appears late": ([0] * 40 + [1] * 5 + [0] * 20 + [2] * 30, 6),
    "very uneven": ([0] * 60 + [1] + [2] * 3 + [0] * 20, 9),
    "more classes than capacity": (list(range(25)) * 3, 4),
    "labels far apart, descending": ([900, 900, 900, 5, 5, 900, 0, 0, 0, 5] * 5, 3),
    "all in one batch": ([0] * 20 + [1] * 20 + [2] * 20, 60),
    "one by one": ([0, 0, 0, 1, 0, 2, 2, 2, 2, 2, 1, 1, 1, 3, 4, 4, 4, 4] * 3, 1),
}


def even_parts(seen: Counter, capacity: int) -> dict[int, int]:
    """How many records of each class, dealt out one by one to the classes in turn that have some left."""
    parts = dict.fromkeys(seen, 0)
    while sum(parts.values()) < min(capacity, seen.total()):
        for label in parts:
            if parts[label] < seen[label] and sum(parts.values()) < capacity:
                parts[label] += 1
    return parts


@pytest.mark.parametrize("capacity", [1, 4, 7, 12])
@pytest.mark.parametrize("name", STREAMS)
def test_class_balanced_shares_the_capacity_evenly_after_every_offer(name, capacity):
    labels, size = STREAMS[name]
    batches = [labels[start : start + size] for start in range(0, len(labels), size)]
    policy, seen = ClassBalanced(capacity, 10, Uniforms(0, "test")), Counter()
    for batch, kept in zip(batches, keep(policy, batches)):
        seen.update(batch)
        held, parts = Counter(labels[record] for record in kept), even_parts(seen, capacity)
        assert len(kept) == min(capacity, seen.total())  # no room is left unused
        # Which class has the one that is over depends on the order in which they came.
        assert sorted(held[label] for label in seen) == sorted(parts.values())
        assert all(abs(held[label] - part) <= 1 for label, part in parts.items())
        assert all(held[label] == seen[label] for label in seen if seen[label] < min(parts.values()))


def test_class_balanced_shrinks_a_class_only_when_the_memory_is_full():
    policy = ClassBalanced(10, 10, Uniforms(0, "test"))
    stream = [[0] * 100, [1], [1] * 2, [1] * 100, [2], [0] * 50]
    found = []
    for kept in keep(policy, stream):
        labels = np.concatenate(stream)[kept]
        found.append(np.bincount(labels, minlength=3).tolist())
    assert found == [[10, 0, 0], [9, 1, 0], [7, 3, 0], [5, 5, 0], [5, 4, 1], [5, 4, 1]]


@pytest.mark.parametrize("name", ["reservoir", "class_balanced", "candidates"])
def test_an_empty_batch_before_any_other_stores_nothing(name):
    assert list(keep(POLICIES[name](12, 4, Uniforms(0, "test")), [[], [1], []])) == [[], [0], [0]]


@pytest.mark.parametrize(
    "batches",
    [
        [[0] * 12, [1]],  # full, then the second class appears
        [[0] * 30, [1] * 3],  # the first class is a reservoir before it shrinks
        [[0] * 25 + [1] * 4 + [0] * 5 + [2]],  # all of it within one batch
        [[0] * 5, [0] * 15, [1] * 20, [0] * 10, [2] * 2, [0] * 4],  # shrinks twice and goes on
    ],
    ids=["at once", "after replacing", "within a batch", "twice"],
)
def test_class_balanced_evicts_uniformly_so_a_class_stays_a_reservoir(same_chance, batches):
    uniforms, runs = Uniforms(0, "test"), 6000
    labels = np.concatenate(batches)
    counts, sizes = np.zeros(len(labels)), Counter()
    for _ in range(runs):
        *_, kept = keep(ClassBalanced(12, 10, uniforms), batches)
        counts[kept] += 1
        sizes.update(labels[kept].tolist())
    assert counts[labels == 0].max() < runs  # class 0 has lost records in every one of these streams
    for label in np.unique(labels).tolist():
        of_class = counts[labels == label]
        if of_class.min() < runs:
            assert same_chance(of_class, [sizes[label] // runs] * runs) > LEVEL


def test_candidates_appends_until_a_class_is_full_and_never_exceeds_it():
    policy = Candidates(10, 3, Uniforms(0, "test"), candidates=1)  # 10 // 3 records of each
    batches = [[0, 1], [0, 0, 1], [2], [1], [0] * 50 + [1] * 50 + [2] * 50]
    *appended, replaced = keep(policy, batches)
    assert [sorted(kept) for kept in appended] == [list(range(end)) for end in (2, 5, 6, 7)]
    labels = np.concatenate(batches)
    assert np.bincount(labels[replaced]).tolist() == [3, 3, 3]


@pytest.mark.parametrize("candidates, size", [(1, 8), (3, 8), (7, 8), (1, 2), (2, 3)])
def test_candidates_replaces_with_probability_c_over_b_a_uniform_record_of_its_class(candidates, size):
    batches, quota = 8000, 5
    policy = Candidates(2 * quota, 2, Uniforms(0, "test"), candidates=candidates)
    policy.offer([0] * quota + [1] * quota)
    replaced, slots = np.zeros(size), Counter()
    for batch in range(batches):
        row = batch % size  # one record of class 1 among those of class 0, in turn at each place of the batch
        placed = policy.offer([int(place == row) for place in range(size)])
        slot = {of: slot for slot, of in placed.items()}.get(row)
        if slot is not None:
            replaced[row] += 1
            slots[slot] += 1
    assert set(slots) == set(range(quota, 2 * quota))
    assert stats.chisquare(list(slots.values())).pvalue > LEVEL
    assert stats.binomtest(int(replaced.sum()), batches, candidates / size).pvalue > LEVEL
    tries = np.bincount(np.arange(batches) % size)
    each = [stats.binomtest(int(hits), int(n), candidates / size).pvalue for hits, n in zip(replaced, tries)]
    assert min(each) > LEVEL / size  # Bonferroni, as above


@pytest.mark.parametrize("size", [1, 2, 3])
def test_candidates_takes_every_record_of_a_batch_no_larger_than_their_number(size):
    policy = Candidates(4, 4, Uniforms(0, "test"), candidates=3)  # one slot a class
    policy.offer([0, 1, 2, 3])
    for _ in range(100):
        assert policy.offer(list(range(size))) == {label: label for label in range(size)}


def test_candidates_refuses_a_capacity_below_one_record_a_class():
    with pytest.raises(ValueError, match="capacity of 9 is less than one for each of 10 classes"):
        Candidates(9, 10, Uniforms(0, "test"), candidates=1)
    assert Candidates(10, 10, Uniforms(0, "test"), candidates=1).quota == 1


def offers(policy, seed, steps):
    stream = seeding.generator(seed, "labels")
    return [policy.offer(stream.integers(4, size=1 + step % 5).tolist()) for step in range(steps)]


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("before", [0, 2, 20], ids=["empty", "unfilled", "full"])
def test_a_restored_law_goes_on_exactly(name, before, tmp_path):
    policy, other = (POLICIES[name](12, 4, Uniforms(seed, "test")) for seed in (0, 1))
    offers(policy, 0, before)
    offers(other, 1, 7)  # what it held before is forgotten
    torch.save(policy.state(), tmp_path / "state")
    other.restore(torch.load(tmp_path / "state", weights_only=True))
    assert other.stored == policy.stored
    went_on = offers(policy, 2, 20)
    assert offers(other, 2, 20) == went_on
    assert any(went_on) and other.stored == policy.stored


@pytest.mark.parametrize("name", POLICIES)
def test_a_state_is_a_snapshot_that_later_offers_do_not_change(name):
    policy, other = (POLICIES[name](12, 4, Uniforms(0, "test")) for _ in range(2))
    offers(policy, 0, 2)
    state = policy.state()
    went_on = offers(policy, 1, 20)
    other.restore(state)
    assert offers(other, 1, 20) == went_on
    assert other.stored == policy.stored
