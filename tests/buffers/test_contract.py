"""What every replay buffer promises, seen from outside: each test runs on every buffer of FACTORIES."""

import time
from collections import Counter
from itertools import permutations, product
from math import prod
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from cl.buffers.base import Field
from cl.buffers.insertion import InsertionPolicy
from cl.buffers.native import NativeBuffer
from cl.buffers.reference import ReferenceBuffer
from cl.buffers.sampling import SamplingPolicy
from cl.buffers.settings import check_policies, parse_capacity, total_capacity
from cl.distributed.comm import Comm

FACTORIES = {"reference": ReferenceBuffer, "native": NativeBuffer}

# A policy is rejected at p < LEVEL: of correct buffers one in 10,000 would be. Seeds are fixed, so each test always
# passes or always fails.
LEVEL = 1e-4

CLASSES = 6
FIELDS = [
    Field("x", (3, 4, 4), torch.uint8),
    Field("y", (), torch.int64),
    Field("task", (), torch.int64),
    Field("logits", (CLASSES,), torch.float16),
    Field("amplitude", (2, 3), torch.float32),
    Field("id", (), torch.int64),
]
INSERTION_POLICIES, SAMPLING_POLICIES = sorted(InsertionPolicy.known), sorted(SamplingPolicy.known)
POLICIES = list(product(INSERTION_POLICIES, SAMPLING_POLICIES))


@pytest.fixture(params=FACTORIES.values(), ids=FACTORIES.keys())
def make(request):
    """Makes buffers, of 24 records unless told otherwise, and closes them after the test."""
    made = []

    def make_buffer(insertion="reservoir", sampling="uniform", **changes):
        options = {
            "capacity": 24,
            "candidates": 2 if insertion == "candidates" else None,
            "fields": FIELDS,
            "num_classes": CLASSES,
            "seed": 0,
            "device": torch.device("cpu"),
            "comm": Comm(),
        } | changes
        made.append(request.param(insertion=insertion, sampling=sampling, **options))
        return made[-1]

    yield make_buffer
    for buffer in made:
        buffer.close()


def batch(ids):
    """Records of which every number is a function of the id, and none is 0 throughout like a slot never written."""
    ids = torch.tensor(list(ids), dtype=torch.int64)

    def spread(shape, modulus):
        return (ids.view(-1, *[1] * len(shape)) * 31 + torch.arange(prod(shape)).view(shape)) % modulus + 1

    return {
        "x": spread((3, 4, 4), 251).to(torch.uint8),
        "y": ids % CLASSES,
        "task": ids // 10,
        "logits": spread((CLASSES,), 1021).to(torch.float16),  # whole numbers up to 2048 are exact
        "amplitude": spread((2, 3), 4001).to(torch.float32) / 8,
        "id": ids,
    }


def of_class(label, count):
    """Ids of `count` records of a class."""
    return range(label, label + count * CLASSES, CLASSES)


def receive(buffer):
    """The next draw, checked to consist of whole records and copied: a buffer may use its memory again."""
    records = buffer.receive()
    assert records.columns.keys() == {field.name for field in FIELDS}
    for name, expected in batch(records["id"].tolist()).items():
        assert records[name].dtype == expected.dtype
        assert torch.equal(records[name], expected), f"{name} is not that of the record"
    assert records.weight.dtype == torch.float32
    assert len(records.weight) == len(records) == len(records["id"])
    return SimpleNamespace(ids=records["id"].tolist(), weights=records.weight.tolist())


def draw(buffer, n):
    buffer.request(n)
    return receive(buffer)


def stored(buffer):
    """The ids of all records."""
    return set(draw(buffer, len(buffer)).ids)


def live(buffer, steps):
    """Training steps as a strategy takes them, batches of uneven size; returns what was received."""
    received = []
    for step in steps:
        received += [receive(buffer) for _ in range(buffer.pending)]
        buffer.add(batch(range(10 * step, 10 * step + 4 + step % 4)))
        buffer.request(7)
        buffer.request(3)
    return received


# Names of records, and updates


def test_every_record_has_a_name_of_its_own_that_stays(make):
    buffer = make()
    buffer.add(batch(range(24)))
    first, second = draw_records(buffer, 24), draw_records(buffer, 24)
    names = dict(zip(first["id"].tolist(), first.ids.tolist()))
    assert len(set(names.values())) == 24
    assert names == dict(zip(second["id"].tolist(), second.ids.tolist()))


def draw_records(buffer, n):
    buffer.request(n)
    return buffer.receive()


@pytest.mark.parametrize("insertion, sampling", POLICIES)
def test_an_update_changes_one_field_of_the_named_records_and_nothing_else(make, insertion, sampling):
    buffer = make(insertion, sampling)
    for i in range(10):
        buffer.add(batch(range(8 * i, 8 * i + 8)))
    before = draw_records(buffer, 24)
    chosen = before.ids[::2]
    buffer.update("amplitude", chosen, torch.full((len(chosen), 2, 3), -7.0))
    after = draw_records(buffer, 24)
    updated = set(chosen.tolist())
    expected = batch(after["id"].tolist())
    for row, name in enumerate(after.ids.tolist()):
        for field in FIELDS:
            if field.name == "amplitude" and name in updated:
                assert (after["amplitude"][row] == -7).all()
            else:
                assert torch.equal(after[field.name][row], expected[field.name][row])
    assert {name for name, value in zip(after.ids.tolist(), after["amplitude"]) if (value == -7).all()} == updated


def test_a_draw_requested_before_an_update_does_not_see_it(make):
    buffer = make()
    buffer.add(batch(range(5)))
    names = draw_records(buffer, 5).ids
    buffer.request(5)
    buffer.update("task", names, torch.full((5,), 99))
    assert sorted(receive(buffer).ids) == [0, 1, 2, 3, 4]  # as they were
    assert draw_records(buffer, 5)["task"].tolist() == [99] * 5


def test_an_update_of_records_that_are_gone_changes_nothing(make):
    buffer = make()
    buffer.add(batch(range(24)))
    names = draw_records(buffer, 24).ids
    for i in range(200):  # each of the old records stays with probability 24 / 2024
        buffer.add(batch(range(100 + 10 * i, 110 + 10 * i)))
    still = set(draw_records(buffer, 24).ids.tolist())
    gone = torch.tensor([name for name in names.tolist() if name not in still])
    assert len(gone) > 15
    buffer.update("amplitude", gone, torch.full((len(gone), 2, 3), -7.0))
    receive_all = draw(buffer, 24)  # compares every field with the id
    assert len(receive_all.ids) == 24


@pytest.mark.parametrize(
    "name, ids, values, message",
    [
        ("y", torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), "no field y"),
        ("logit", torch.zeros(1, dtype=torch.int64), torch.zeros(1, CLASSES), "no field logit.*logits"),
        ("logits", torch.zeros(1, dtype=torch.int64), torch.zeros(1, CLASSES), "float16"),
        ("task", torch.zeros(2, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), "expected"),
        ("task", torch.zeros(1), torch.zeros(1, dtype=torch.int64), "int64 ids"),
    ],
)
def test_updates_that_make_no_sense_are_errors(make, name, ids, values, message):
    with pytest.raises(ValueError, match=message):
        make().update(name, ids, values)


def test_what_was_received_stays_while_it_is_held(make):
    buffer = make()
    buffer.add(batch(range(24)))
    held = [draw_records(buffer, 9) for _ in range(20)]
    copies = [{name: column.clone() for name, column in records.columns.items()} for records in held]
    for i in range(50):
        buffer.add(batch(range(100 + 8 * i, 108 + 8 * i)))
        draw_records(buffer, 9)
    part = held[3]["x"][2:4]  # a view keeps the whole
    del held[3]
    draw_records(buffer, 9)
    assert torch.equal(part, copies[3]["x"][2:4])
    del copies[3]
    for records, copy in zip(held, copies):
        assert all(torch.equal(records[name], copy[name]) for name in copy)


def test_what_was_received_outlives_the_buffer(make):
    buffer = make()
    buffer.add(batch(range(10)))
    records = draw_records(buffer, 10)
    buffer.close()
    del buffer
    assert torch.equal(records["x"], batch(records["id"].tolist())["x"])


# Records


def test_an_abandoned_buffer_is_gone_and_what_was_received_stays(make):
    buffer = make()
    buffer.add(batch(range(10)))
    records = draw_records(buffer, 10)
    buffer.exit(ValueError, ValueError("on purpose"), None)
    buffer.abandon()
    assert torch.equal(records["x"], batch(records["id"].tolist())["x"])
    buffer.close()
    if isinstance(buffer, NativeBuffer):
        with pytest.raises(ValueError, match="buffer is NULL"):
            buffer.add(batch([1]))


def test_fields_and_dtypes_come_back_intact(make):
    buffer = make()
    buffer.add(batch(range(100, 120)))
    buffer.request(20)
    records, expected = buffer.receive(), batch(range(100, 120))
    order = records["id"].argsort()
    for field in FIELDS:
        assert records[field.name].shape == (20, *field.shape)
        assert records[field.name].dtype == field.dtype
        assert torch.equal(records[field.name][order], expected[field.name])


@pytest.mark.parametrize("insertion, sampling", POLICIES)
def test_rows_are_never_mixed_while_records_are_overwritten(make, insertion, sampling):
    buffer, seen = make(insertion, sampling), set()
    for records in live(buffer, range(60)):  # `receive` compares every field with the id
        seen |= set(records.ids)
    assert len(seen) > 2 * 24  # every slot was written more than once on average


def test_the_layout_of_the_given_tensors_does_not_matter(make):
    buffer, data = make(), batch(range(8))
    data["x"] = data["x"].contiguous(memory_format=torch.channels_last)
    data["logits"] = torch.cat([data["logits"], data["logits"]], dim=1)[:, :CLASSES]
    data["amplitude"] = data["amplitude"].transpose(1, 2).contiguous().transpose(1, 2)
    data["id"] = data["id"].repeat_interleave(3)[::3]
    assert not any(data[name].is_contiguous() for name in ("x", "logits", "amplitude", "id"))
    buffer.add(data)
    assert sorted(draw(buffer, 8).ids) == list(range(8))


def test_stored_records_do_not_follow_later_changes_of_the_given_tensors(make):
    buffer, data = make(), batch(range(8))
    buffer.add(data)
    for column in data.values():
        column.fill_(77)
    assert sorted(draw(buffer, 8).ids) == list(range(8))


@pytest.mark.parametrize("sampling", SAMPLING_POLICIES)
def test_changing_received_records_in_place_changes_neither_the_memory_nor_other_draws(make, sampling):
    buffer = make(sampling=sampling)
    buffer.add(batch([0, 1, 6, 12]))
    buffer.request(4)
    buffer.request(4)
    for _ in range(2):
        records = buffer.receive()
        weight = dict(zip(records["id"].tolist(), records.weight.tolist()))
        assert weight == (
            {0: 1.5, 6: 1.5, 12: 1.5, 1: 0.5} if sampling == "class_balanced" else dict.fromkeys(weight, 1)
        )
        for column in (*records.columns.values(), records.weight):
            column.fill_(77)
    later = draw(buffer, 4)
    assert sorted(later.ids) == [0, 1, 6, 12]
    assert dict(zip(later.ids, later.weights)) == weight


def test_records_of_a_computation_are_stored_without_its_graph(make):
    buffer, data = make(), batch(range(8))
    data["logits"].requires_grad_()
    buffer.add(data)
    buffer.request(8)
    assert not any(column.requires_grad for column in buffer.receive().columns.values())


def test_nbytes_counts_the_records_at_full_capacity(make):
    buffer = make(capacity=10)
    record = 3 * 4 * 4 + 8 + 8 + 2 * CLASSES + 4 * 6 + 8
    assert buffer.nbytes == 10 * record
    buffer.add(batch(range(30)))
    assert buffer.nbytes == 10 * record


# Draws


@pytest.mark.parametrize("sampling", SAMPLING_POLICIES)
@pytest.mark.parametrize("n", [0, 1, 9, 10, 11, 500])
def test_a_draw_has_exactly_min_n_stored_records_and_no_duplicate(make, sampling, n):
    buffer = make(sampling=sampling)
    buffer.add(batch([*of_class(0, 7), 1, 2, 3]))
    for _ in range(30):
        ids = draw(buffer, n).ids
        assert len(ids) == len(set(ids)) == min(n, 10)


@pytest.mark.parametrize("sampling", SAMPLING_POLICIES)
@pytest.mark.parametrize("n", [0, 1, 5])
def test_a_draw_from_an_empty_memory_is_empty(make, sampling, n):
    buffer = make(sampling=sampling)
    assert len(buffer) == 0
    buffer.request(n)
    records = buffer.receive()
    assert len(records) == 0
    for field in FIELDS:
        assert records[field.name].shape == (0, *field.shape) and records[field.name].dtype == field.dtype


@pytest.mark.parametrize("sampling", SAMPLING_POLICIES)
@pytest.mark.parametrize("offered", [9, 24, 60], ids=["unfilled", "full", "overwritten"])
def test_every_record_can_be_drawn_from_the_first_to_the_last(make, sampling, offered):
    buffer = make(sampling=sampling)
    buffer.add(batch(range(offered)))
    drawn = Counter(draw(buffer, 1).ids[0] for _ in range(600))  # one of 24 is left out with probability 24 * 8e-12
    assert drawn.keys() == stored(buffer)
    assert len(drawn) == min(offered, 24)


def uneven_memory(make, sampling):
    """24 records of three classes; one class came late, so the slots of those it drove out were used again."""
    buffer = make("class_balanced", sampling)
    buffer.add(batch(of_class(2, 60)))
    buffer.add(batch([*of_class(4, 4), *of_class(0, 5)]))
    ids = stored(buffer)
    assert [sum(record % CLASSES == label for record in ids) for label in (2, 4, 0)] == [15, 4, 5]
    return buffer, sorted(ids)


def test_uniform_draws_every_record_equally_often(make, same_chance):
    buffer, ids = uneven_memory(make, "uniform")
    drawn = Counter(record for _ in range(3000) for record in draw(buffer, 3).ids)
    assert same_chance([drawn[record] for record in ids], [3] * 3000) > LEVEL


@pytest.mark.parametrize("n", [1, 3])
def test_class_balanced_draws_are_even_over_classes_and_uniform_within(make, same_chance, n):
    buffer, ids = uneven_memory(make, "class_balanced")
    drawn = [draw(buffer, n).ids for _ in range(3000)]
    sizes = {label: [sum(record % CLASSES == label for record in one) for one in drawn] for label in (2, 4, 0)}
    assert stats.chisquare([sum(of_label) for of_label in sizes.values()]).pvalue > LEVEL
    counts = Counter(record for one in drawn for record in one)
    for label, of_label in sizes.items():
        assert same_chance([counts[record] for record in ids if record % CLASSES == label], of_label) > LEVEL


def test_the_weight_of_a_uniform_draw_is_1(make):
    buffer, _ = uneven_memory(make, "uniform")
    assert draw(buffer, 10).weights == [1] * 10


def test_the_weight_of_a_class_balanced_draw_is_the_uniform_chance_over_its_own(make):
    buffer, _ = uneven_memory(make, "class_balanced")
    by_hand = {2: 3 * 15 / 24, 4: 3 * 4 / 24, 0: 3 * 5 / 24}  # (1/24) / (1/3 * 1/size of the class)
    for n in (1, 5, 24):
        records = draw(buffer, n)
        assert records.weights == pytest.approx([by_hand[record % CLASSES] for record in records.ids])


def test_weights_belong_to_the_memory_of_the_request(make):
    buffer = make(sampling="class_balanced")
    buffer.add(batch([0, 6, 12, 1]))
    buffer.request(4)
    buffer.add(batch(of_class(1, 10)))
    records = receive(buffer)
    assert dict(zip(records.ids, records.weights)) == {0: 1.5, 6: 1.5, 12: 1.5, 1: 0.5}


# Time


@pytest.mark.parametrize("insertion, sampling", POLICIES)
def test_a_draw_sees_exactly_the_memory_after_the_add_before_it(make, insertion, sampling):
    late, prompt = make(insertion, sampling), make(insertion, sampling)
    expected = []
    for step in range(15):
        records = batch(range(5 * step, 5 * step + 5))
        late.add(records)
        late.request(24)
        prompt.add(records)
        expected.append(draw(prompt, 24))
    received = [receive(late) for _ in range(15)]
    assert received == expected
    assert draw(late, 5) == draw(prompt, 5)  # nor does the time of `receive` change what is drawn later
    before = set()
    for step, records in enumerate(received):
        after = set(records.ids)
        assert after - before <= set(range(5 * step, 5 * step + 5))
        if step < 3:  # not one of the six classes is full yet
            assert after == set(range(5 * step + 5))
        before = after
    assert len(before) == 24 and before != set(range(24))


def test_pending_draws_are_received_in_the_order_of_the_requests(make):
    buffer = make()
    buffer.add(batch(range(10)))
    sizes = [3, 0, 5, 1]
    for pending, n in enumerate(sizes):
        assert buffer.pending == pending
        buffer.request(n)
    assert [len(receive(buffer).ids) for _ in range(3)] == sizes[:3]
    buffer.request(4)
    assert buffer.pending == 2
    assert [len(receive(buffer).ids) for _ in range(2)] == [1, 4]
    assert buffer.pending == 0


def test_receiving_more_than_was_requested_is_an_error(make):
    buffer = make()
    buffer.add(batch(range(10)))
    with pytest.raises(ValueError, match="request"):
        buffer.receive()
    draw(buffer, 2)
    with pytest.raises(ValueError, match="request"):
        buffer.receive()


def test_a_negative_draw_is_an_error_and_leaves_no_trace(make):
    buffer, twin = make(), make()
    for one in (buffer, twin):
        one.add(batch(range(10)))
    with pytest.raises(ValueError, match="-1"):
        buffer.request(-1)
    assert buffer.pending == 0
    assert draw(buffer, 5) == draw(twin, 5)


@pytest.mark.parametrize("insertion, sampling", POLICIES)
def test_equal_seeds_give_equal_draws_and_different_seeds_different_ones(make, insertion, sampling):
    first, again, other = (live(make(insertion, sampling, seed=seed), range(20)) for seed in (3, 3, 4))
    assert first == again
    assert [set(records.ids) for records in first] != [set(records.ids) for records in other]


@pytest.mark.parametrize("sampling", SAMPLING_POLICIES)
def test_draws_from_equal_memories_differ_between_seeds(make, sampling):
    drawn = []
    for seed in (3, 4):
        buffer = make(sampling=sampling, seed=seed)
        buffer.add(batch(range(20)))  # all of it is stored
        drawn.append(draw(buffer, 10).ids)
    assert set(drawn[0]) != set(drawn[1])


@pytest.mark.parametrize("insertion", INSERTION_POLICIES)
def test_what_is_stored_depends_on_the_seed_and_not_on_the_draws(make, insertion):
    drawing, quiet, other = make(insertion), make(insertion), make(insertion, seed=1)
    for step in range(20):
        for buffer in (drawing, quiet, other):
            buffer.add(batch(range(6 * step, 6 * step + 6)))
        draw(drawing, step)
    assert stored(drawing) == stored(quiet) != stored(other)


def test_the_time_waited_for_draws_is_counted(make):
    buffer, started = make(), time.perf_counter()
    assert buffer.wait_seconds == 0
    live(buffer, range(10))
    waited = buffer.wait_seconds
    assert 0 < waited < time.perf_counter() - started
    live(buffer, range(10, 20))
    assert waited < buffer.wait_seconds < time.perf_counter() - started


# Insertion


def test_batches_of_any_size_are_accepted(make):
    buffer = make()
    for start, size in ((0, 1), (1, 0), (1, 5), (6, 17)):
        buffer.add(batch(range(start, start + size)))
        assert stored(buffer) == set(range(start + size))
    buffer.add(batch(range(23, 100)))  # more than the memory holds
    assert len(buffer) == len(stored(buffer)) == 24


@pytest.mark.parametrize("insertion, sampling", POLICIES)
def test_an_empty_add_changes_nothing(make, insertion, sampling):
    buffer, twin = make(insertion, sampling), make(insertion, sampling)
    for one in (buffer, twin):
        one.add(batch([]))
        live(one, range(8))
    buffer.add(batch([]))
    assert len(buffer) == len(twin)
    assert live(buffer, range(8, 16)) == live(twin, range(8, 16))


def test_reservoir_keeps_every_position_of_the_stream_with_probability_k_over_n(make, same_chance):
    counts, runs = np.zeros(20), 600
    for seed in range(runs):  # a seed of its own for each run: their streams must be independent too
        buffer = make(capacity=5, seed=seed)
        for start, end in ((0, 3), (3, 7), (7, 8), (8, 20)):
            buffer.add(batch(range(start, end)))
        counts[list(stored(buffer))] += 1
        buffer.close()
    assert same_chance(counts, [5] * runs) > LEVEL


@pytest.mark.parametrize("capacity", [3, 24])
def test_class_balanced_shares_the_capacity_evenly_after_every_add(make, capacity):
    buffer, offered = make("class_balanced", capacity=capacity), Counter()
    stream = [*of_class(0, 50), *of_class(5, 2), *range(200, 230), *of_class(3, 20), *range(300, 330)]
    for start in range(0, len(stream), 7):
        ids = stream[start : start + 7]
        buffer.add(batch(ids))
        offered.update(record % CLASSES for record in ids)
        held = Counter(record % CLASSES for record in stored(buffer))
        assert len(buffer) == sum(held.values()) == min(capacity, offered.total())
        for label in offered:  # a class has its share, or all there was of it
            assert held[label] == offered[label] or held[label] >= max(held.values()) - 1
    assert len(buffer) == capacity


def test_candidates_never_exceeds_the_share_of_a_class(make):
    buffer, offered = make("candidates", capacity=20), Counter()
    for start in range(0, 40):
        ids = [*of_class(1, 3), *range(100 + start, 105 + start)] if start % 2 else list(of_class(4, 2))
        ids = [record + CLASSES * 100 * start for record in ids]
        buffer.add(batch(ids))
        offered.update(record % CLASSES for record in ids)
        held = Counter(record % CLASSES for record in stored(buffer))
        assert held == {label: min(number, 20 // CLASSES) for label, number in offered.items()}
    assert len(buffer) == 18


# Life cycle


@pytest.mark.parametrize("insertion, sampling", POLICIES)
@pytest.mark.parametrize("pending", [True, False], ids=["pending", "received"])
@pytest.mark.parametrize("steps", [0, 2, 12], ids=["empty", "unfilled", "full"])
def test_a_loaded_buffer_goes_on_like_one_never_saved(make, tmp_path, insertion, sampling, steps, pending):
    twin, saved, loaded = (make(insertion, sampling) for _ in range(3))
    live(loaded, range(20, 23))  # what it held and had pending is replaced
    for one in (twin, saved):
        live(one, range(steps))
        while one.pending and not pending:
            receive(one)
    copy = saved.copy()
    expected = live(twin, range(steps, steps + 12))
    assert live(saved, range(steps, steps + 12)) == expected  # the copy has no effect on it
    copy.write(tmp_path / "folder" / "buffer")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["buffer"]
    loaded.load(tmp_path / "folder" / "buffer")
    assert len(loaded) == {0: 0, 2: 9, 12: 24}[steps]
    assert loaded.pending == (2 if pending and steps else 0)
    assert live(loaded, range(steps, steps + 12)) == expected  # nothing that came after the copy is in it


def test_a_copy_holds_no_memory_of_the_buffer(make, tmp_path):
    buffer, loaded = make(), make()
    live(buffer, range(5))
    copy = buffer.copy()
    for records in [buffer.receive() for _ in range(buffer.pending)]:  # who receives a draw may change it,
        for column in records.columns.values():
            column.zero_()
    drawn = draw(buffer, 10)
    buffer.request(10)
    records = buffer.receive()
    buffer.update("amplitude", records.ids, torch.zeros(10, 2, 3))  # and stored records
    buffer.close()
    copy.write(tmp_path / "buffer")
    loaded.load(tmp_path / "buffer")
    assert [len(receive(loaded).ids) for _ in range(2)] == [7, 3]  # which checks that they are whole
    assert draw(loaded, 10).ids == drawn.ids
    assert len(stored(loaded)) == 24


@pytest.mark.parametrize("insertion", ["reservoir", "class_balanced"])
def test_a_loaded_reservoir_knows_how_much_was_offered_before(make, tmp_path, same_chance, insertion):
    # Of one class both policies are the same. A memory that takes itself for new after `load` prefers later records.
    counts, runs = np.zeros(80), 150
    for seed in range(runs):
        buffer, loaded = (make(insertion, capacity=8, seed=seed) for _ in range(2))
        buffer.add(batch(of_class(0, 40)))
        buffer.save(tmp_path / "buffer")
        loaded.load(tmp_path / "buffer")
        loaded.add(batch(range(40 * CLASSES, 80 * CLASSES, CLASSES)))
        counts[[record // CLASSES for record in stored(loaded)]] += 1
        buffer.close()
        loaded.close()
    assert same_chance(counts, [8] * runs) > LEVEL
    # Once more for both halves as a whole, which tells small differences apart better. The number of old records
    # among 8 of 40 old and 40 new ones has the hypergeometric variance 8 * 1/2 * 1/2 * 72/79.
    deviation = (counts[:40].sum() - 4 * runs) / np.sqrt(runs * 2 * 72 / 79)
    assert 2 * stats.norm.sf(abs(deviation)) > LEVEL


@pytest.mark.parametrize("insertion, sampling", POLICIES)
def test_slots_never_written_are_not_replayed_after_a_load_either(make, tmp_path, insertion, sampling):
    buffer, loaded = make(insertion, sampling), make(insertion, sampling)
    live(loaded, range(20, 30))  # full: its old records must not come back
    buffer.add(batch([1, 2, 3, 9]))
    buffer.save(tmp_path / "buffer")
    loaded.load(tmp_path / "buffer")
    for _ in range(20):
        assert sorted(draw(loaded, 24).ids) == [1, 2, 3, 9]


REPLACED_FIELDS = {
    "a missing field": FIELDS[:-1],
    "another field": [*FIELDS[:-1], Field("number", (), torch.int64)],
    "one more field": [*FIELDS, Field("phase", (), torch.float32)],
    "another shape": [Field("x", (3, 2, 8), torch.uint8), *FIELDS[1:]],
    "another dtype": [Field("x", (3, 4, 4), torch.int8), *FIELDS[1:]],
}


@pytest.mark.parametrize(
    "options, changes",
    [
        *(pytest.param({}, {"fields": fields}, id=name) for name, fields in REPLACED_FIELDS.items()),
        *(
            pytest.param({sampling: one}, {sampling: other}, id=f"{sampling} {one} from {other}")
            for sampling, names in (("insertion", INSERTION_POLICIES), ("sampling", SAMPLING_POLICIES))
            for one, other in permutations(names, 2)
        ),
        pytest.param({}, {"capacity": 25}, id="another capacity"),
        pytest.param({"insertion": "candidates"}, {"num_classes": 7}, id="another share of a class"),  # 24 // 7 records
    ],
)
def test_the_file_of_another_buffer_is_refused_and_leaves_no_trace(make, tmp_path, options, changes):
    buffer, twin, other = make(**options), make(**options), make(**options | changes)
    other.save(tmp_path / "other")
    for one in (buffer, twin):
        live(one, range(6))
    with pytest.raises(ValueError, match="other"):
        buffer.load(tmp_path / "other")
    assert len(buffer) == len(twin) and buffer.pending == twin.pending
    assert live(buffer, range(6, 12)) == live(twin, range(6, 12))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: torch.save({"model": {"weight": torch.zeros(3)}, "step": 4}, path),
        lambda path: torch.save([1, 2], path),
        lambda path: torch.save(torch.zeros(3), path),
        lambda path: path.write_bytes(path.read_bytes()[:-300]),
        lambda path: path.write_bytes(path.read_bytes()[:300]),
        lambda path: path.write_bytes(b"no file of this kind"),
        lambda path: path.write_bytes(b""),
    ],
    ids=["a checkpoint", "a list", "a tensor", "its end is lost", "most is lost", "a text", "empty"],
)
def test_a_file_that_is_no_buffer_or_is_damaged_is_refused_and_leaves_no_trace(make, tmp_path, spoil):
    buffer, twin = make(), make()
    for one in (buffer, twin):
        live(one, range(6))
    buffer.save(tmp_path / "other")
    spoil(tmp_path / "other")
    with pytest.raises(ValueError, match="other"):
        buffer.load(tmp_path / "other")
    assert live(buffer, range(6, 12)) == live(twin, range(6, 12))


def test_closing_twice_does_nothing_more_and_other_buffers_go_on(make):
    buffer, twin, fresh = make(), make(), make()
    live(buffer, range(5))
    live(twin, range(5))
    fresh.close()
    fresh.close()
    twin.close()  # with draws pending
    twin.close()
    assert buffer.pending == 2
    assert live(buffer, range(5, 10)) == live(make(), range(10))[8:]


# Errors


def without(name):
    return lambda data: data.pop(name)


def with_column(name, change):
    return lambda data: data.update({name: change(data[name] if name in data else data["id"])})


MISTAKES = {
    "a field is missing": (without("logits"), r"\blogits\b"),
    "the labels are missing": (without("y"), r"\by\b"),
    "no field at all": (lambda data: data.clear(), r"\by\b"),
    "an unknown field": (with_column("phase", lambda value: value.float()), r"\bphase\b"),
    "a wrong shape": (with_column("x", lambda value: value.view(-1, 3, 2, 8)), r"\bx\b"),
    "a dimension too few": (with_column("x", lambda value: value.flatten(1)), r"\bx\b"),
    "a dimension too many": (with_column("y", lambda value: value.unsqueeze(1)), r"\by\b"),
    "one record without its batch": (with_column("id", lambda value: value[0]), r"\bid\b"),
    "one label without its batch": (with_column("y", lambda value: value[0]), "field"),
    "float64 for float32": (with_column("amplitude", lambda value: value.double()), r"\bamplitude\b"),
    "float32 for float16": (with_column("logits", lambda value: value.float()), r"\blogits\b"),
    "int32 labels": (with_column("y", lambda value: value.int()), r"\by\b"),
    "a field too short": (with_column("task", lambda value: value[:-1]), r"\btask\b"),
    "a field too long": (with_column("x", lambda value: torch.cat([value, value])), r"\bx\b"),
    "labels too short": (with_column("y", lambda value: value[:-1]), r"\b4\b"),
    "no labels for five records": (with_column("y", lambda value: value[:0]), r"\b0\b"),
    "a negative label": (with_column("y", lambda value: value - value.max() - 1), "labels .*-"),
    "one label too high": (with_column("y", lambda value: value.index_fill(0, torch.tensor(4), CLASSES)), "labels .*6"),
    "one label -1": (with_column("y", lambda value: value.index_fill(0, torch.tensor(4), -1)), "labels .*-1"),
}


@pytest.mark.parametrize("insertion", INSERTION_POLICIES)
@pytest.mark.parametrize("name", MISTAKES)
def test_a_bad_batch_is_a_named_error_and_leaves_no_trace(make, insertion, name):
    spoil, message = MISTAKES[name]
    buffer, twin = make(insertion), make(insertion)
    for one in (buffer, twin):
        live(one, range(3))
    data = batch(range(500, 505))
    spoil(data)
    with pytest.raises(ValueError, match=message):
        buffer.add(data)
    assert len(buffer) == len(twin) and buffer.pending == twin.pending
    assert live(buffer, range(3, 12)) == live(twin, range(3, 12))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"capacity": 0}, "capacity"),
        ({"capacity": -5}, "capacity"),
        ({"insertion": "fifo"}, "buffer.insertion=fifo .*candidates, class_balanced, reservoir"),
        ({"sampling": "newest"}, "buffer.sampling=newest .*class_balanced, uniform"),
        ({"insertion": "candidates", "candidates": None}, "buffer.candidates"),
        ({"insertion": "candidates", "candidates": 0}, "buffer.candidates"),
        ({"insertion": "reservoir", "candidates": 3}, "buffer.candidates"),
        ({"insertion": "class_balanced", "candidates": 3}, "buffer.candidates"),
        ({"insertion": "candidates", "capacity": CLASSES - 1}, "capacity of 5"),
    ],
)
def test_options_that_make_no_sense_are_errors(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


# Capacities


@pytest.mark.parametrize(
    "capacity, parsed, total",  # the total for 1250 training samples of 10 classes
    [
        (200, (200, "records"), 200),
        ("200", (200, "records"), 200),
        (1, (1, "records"), 1),
        ("5000", (5000, "records"), 5000),  # more than there are training samples
        ("10%", (10, "%"), 125),
        ("10 %", (10, "%"), 125),
        ("2.5%", (2.5, "%"), 31),
        ("100%", (100, "%"), 1250),
        ("0.01%", (0.01, "%"), 1),  # at least one
        ("20/class", (20, "/class"), 200),
        ("1/class", (1, "/class"), 10),
        (" 20 /class", (20, "/class"), 200),
    ],
)
def test_capacities_in_records_percent_and_per_class(capacity, parsed, total):
    assert parse_capacity(capacity) == parsed
    assert total_capacity(capacity, 1250, 10) == total
    assert type(total_capacity(capacity, 1250, 10)) is int


@pytest.mark.parametrize(
    "capacity",
    [0, "0", "0%", "0.0%", "0/class", -3, "-3", "-10%", "200%", "100.5%", 1.5, "1.5", "2.5/class", "abc", "", None]
    + [True, "10 percent", "%", "/class", "20/task", "20class", "10%%", "10%/class", "1e3", "inf", "nan", float("nan")],
)
def test_capacities_that_make_no_sense_are_errors_that_show_them(capacity):
    with pytest.raises(ValueError) as error:
        total_capacity(capacity, 1000, 10)
    assert "buffer.capacity" in str(error.value) and repr(capacity) in str(error.value)


@pytest.mark.parametrize("insertion, sampling", POLICIES)
def test_every_pair_of_policies_is_valid(insertion, sampling):
    given = {"candidates": 1 if insertion == "candidates" else None}
    assert check_policies(insertion, sampling, given) == ({name: 1 for name in given if given[name]}, {})
