"""Random streams are reproducible, independent of each other, and go on exactly where a checkpoint left them."""

from itertools import combinations

import numpy as np
import pytest
import torch

from cl.seeding import Uniforms, derive, generator, restore, state_of

KEYS = [
    (0, "draw"),
    (1, "draw"),
    (2**32, "draw"),
    (2**32 + 1, "draw"),
    (2**63, "draw"),
    (0, "admission"),
    (0, "draws"),
    (0, "ward"),
    (0, ""),
    (0, "draw", 0),
    (0, "draw", 1),
    (1, "draw", 0),  # like seed + rank, of which the neighbours meet
    (0, "draw", 0, 0),
    (0, "draw", 0, 1),
    (0, "draw", 1, 0),
    (0, "draw", 1, 0, 0),
    (0, "draw", 2**31),
    (0, "draw", 2**32 - 1),
]


def raw(key, count):
    return generator(*key).integers(2**64, size=count, dtype=np.uint64)


def correlation(one, other):
    """Of two sequences of uniform numbers, in standard deviations; for independent ones nearly standard normal."""
    return np.corrcoef(one, other)[0, 1] * np.sqrt(len(one))


@pytest.mark.parametrize("key", KEYS)
def test_the_same_key_gives_the_same_numbers(key):
    assert (raw(key, 100) == raw(key, 100)).all()
    assert derive(*key) == derive(*key)
    assert Uniforms(*key).take(100) == Uniforms(*key).take(100)


def test_integers_of_numpy_name_the_same_streams():
    assert (raw((7, "draw", 1), 4) == raw((np.int64(7), "draw", np.int32(1)), 4)).all()
    assert derive(7, "draw", 1) == derive(np.int64(7), "draw", np.uint8(1))


def test_streams_of_different_keys_share_no_number():
    # Two streams that overlap anywhere, also shifted, would; 36,000 independent ones do with probability 4e-11.
    numbers = np.concatenate([raw(key, 2000) for key in KEYS])
    assert len(np.unique(numbers)) == len(numbers)
    assert len({derive(*key) for key in KEYS}) == len(KEYS)


def test_a_number_beyond_32_bits_is_not_another_pair_of_numbers():
    assert (raw((0, "draw", 2**32), 4) != raw((0, "draw", 0, 1), 4)).all()
    assert derive(0, "draw", 2**32) != derive(0, "draw", 0, 1)


def test_streams_of_different_keys_are_uncorrelated():
    streams = [generator(*key).random(20000) for key in KEYS]
    shifted = [correlation(one[:-1], other[1:]) for one, other in combinations(streams, 2)]
    aligned = [correlation(one, other) for one, other in combinations(streams, 2)]
    # 306 values: the largest of that many normal ones exceeds 5.3 with probability 3e-5.
    assert max(map(abs, aligned + shifted)) < 5.3
    assert abs(correlation(streams[0], streams[0] + streams[1])) > 5.3  # what the test would see if they were related


def test_neighbouring_seeds_and_ranks_are_uncorrelated_in_their_first_numbers():
    # What related generators share is mostly their beginning: here across 4000 of them instead of along one.
    by_seed = np.array([generator(seed, "draw").random(4) for seed in range(4000)])
    by_rank = np.array([generator(0, "draw", rank).random(4) for rank in range(4000)])
    for first in (by_seed, by_rank):
        values = [correlation(first[:-1, i], first[1:, j]) for i in range(4) for j in range(4)]
        values += [correlation(first[:, i], np.arange(4000)) for i in range(4)]
        assert max(map(abs, values)) < 5  # 20 normal values exceed it with probability 1e-5
    assert max(abs(correlation(by_seed[:, i], by_rank[:, i])) for i in range(4)) < 5


@pytest.mark.parametrize("uses", [0, 1, 2, 3, 4, 5, 7, 1001], ids=lambda uses: f"{uses} numbers")
@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_a_restored_stream_goes_on_exactly(tmp_path, uses, dtype):
    # Philox makes four 64-bit numbers at a time, and half of one is kept after an odd number of 32-bit ones.
    stream, other = generator(5, "test"), generator(6, "other")
    stream.integers(2**32, size=uses, dtype=dtype)
    other.integers(2**32, size=3, dtype=np.uint32)
    torch.save(state_of(stream), tmp_path / "state")
    went_on = continuation(stream)
    restore(other, torch.load(tmp_path / "state", weights_only=True))
    assert continuation(other) == went_on
    fresh = generator(5, "test")
    assert (continuation(fresh) == went_on) == (uses == 0)


def continuation(stream):
    return [
        stream.integers(2**32, size=3, dtype=np.uint32).tolist(),
        stream.random(5).tolist(),
        stream.integers(2**32, dtype=np.uint32),
        stream.permutation(20).tolist(),
        stream.standard_normal(3).tolist(),
    ]


def test_a_state_consists_of_plain_numbers_that_later_use_does_not_change():
    stream, other = generator(5, "test"), generator(5, "test")
    stream.integers(2**32, dtype=np.uint32)
    state = state_of(stream)

    def leaves(value):
        if isinstance(value, dict):
            return [leaf for item in value.values() for leaf in leaves(item)]
        return [leaf for item in value for leaf in leaves(item)] if isinstance(value, list) else [value]

    assert {type(leaf) for leaf in leaves(state)} == {int, str}
    went_on = continuation(stream)
    restore(other, state)
    assert continuation(other) == went_on
    restore(other, state)  # and can be used again
    assert continuation(other) == went_on


@pytest.mark.parametrize("make", [generator, derive, Uniforms])
@pytest.mark.parametrize("seed", [-1, -(2**40)])
def test_a_negative_seed_is_an_error(make, seed):
    with pytest.raises(ValueError, match=f"seed must be 0 or more, got {seed}"):
        make(seed, "test")


@pytest.mark.parametrize("make", [generator, derive, Uniforms])
def test_a_negative_number_is_an_error(make):
    with pytest.raises(ValueError):
        make(0, "test", -1)


def test_derived_seeds_are_63_bit_numbers_that_torch_takes():
    seeds = [derive(0, "test", number) for number in range(2000)]
    assert {type(seed) for seed in seeds} == {int}
    assert min(seeds) >= 0 and max(seeds) < 2**63
    # Each of the 63 bits is used: of 2000 coin tosses fewer than 880 or more than 1120 have probability 1e-7 a bit.
    ones = [sum(seed >> bit & 1 for seed in seeds) for bit in range(63)]
    assert min(ones) > 880 and max(ones) < 1120
    assert torch.Generator().manual_seed(max(seeds)).initial_seed() == max(seeds)


def test_uniforms_do_not_depend_on_how_they_are_grouped():
    sizes = [0, 1, 3, 0, 1000, 1, 4096, 4095, 10000, 2]
    grouped = Uniforms(3, "test")
    taken = [grouped.take(size) for size in sizes]
    assert [len(numbers) for numbers in taken] == sizes
    together = [number for numbers in taken for number in numbers]
    assert together == Uniforms(3, "test").take(sum(sizes)) == generator(3, "test").random(sum(sizes)).tolist()
    assert 0 <= min(together) and max(together) < 1


@pytest.mark.parametrize("uses", [0, 1, 4095, 4096, 4097, 9000])
def test_restored_uniforms_go_on_exactly(tmp_path, uses):
    uniforms, other = Uniforms(3, "test"), Uniforms(4, "test")
    uniforms.take(uses)
    other.take(17)
    torch.save(uniforms.state(), tmp_path / "state")
    state = uniforms.state()
    went_on = uniforms.take(5000)
    assert went_on == Uniforms(3, "test").take(uses + 5000)[uses:]
    for restored in (torch.load(tmp_path / "state", weights_only=True), state):
        other.restore(restored)
        assert other.take(5000) == went_on
