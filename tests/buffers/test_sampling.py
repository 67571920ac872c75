"""Both sampling policies have exactly the chances they promise, and the tests reject samplers that do not."""

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from cl import seeding
from cl.buffers.sampling_class_balanced import ClassBalanced
from cl.buffers.sampling_uniform import Uniform
from cl.seeding import Uniforms

# A policy is rejected at p < LEVEL: of correct ones one in 10,000 would be. Seeds are fixed, so each test always passes
# or always fails.
LEVEL = 1e-4
TRIALS = 20000

# Occupied slots with gaps at both ends, and the label in every slot; free slots carry labels that must not matter.
STORED = [1, 2, 4, 7, 8, 9, 13, 14, 15, 16, 17, 18, 21, 22, 23, 24, 25, 26]
OF_3, OF_5, OF_0 = STORED[:13], STORED[13:17], STORED[17:]
LABELS = [3 if slot in OF_3 else 5 if slot in OF_5 else 0 if slot in OF_0 else 9 for slot in range(30)]
# Fractions of the draws of one record that the class-balanced policy owes to each of STORED.
CHANCES = np.repeat([1 / 13, 1 / 4, 1], [13, 4, 1]) / 3


uniform, class_balanced = Uniform().draw, ClassBalanced().draw


def never_the_first(stored, labels, n, uniforms):
    return uniform(stored[1:], labels, n, uniforms)


def never_the_last(stored, labels, n, uniforms):
    return uniform(stored[:-1], labels, n, uniforms)


def first_slots_more_often(stored, labels, n, uniforms):
    keys = [key * (1 + place / 60) for place, key in enumerate(uniforms.take(len(stored)))]
    return [stored[place] for place in np.argsort(keys)[:n]]


def sample(policy, n, stored=STORED):
    uniforms = Uniforms(0, "test")
    return np.array([policy(stored, LABELS, n, uniforms) for _ in range(TRIALS)])


def inclusion(drawn, stored=STORED):
    counts = Counter(drawn.ravel().tolist())
    assert counts.keys() <= set(stored)
    return [counts[slot] for slot in stored]


@pytest.mark.parametrize("n", [1, 2, 7, 17])
@pytest.mark.parametrize("stored", [STORED, list(range(18)), STORED[::-1]], ids=["gaps", "contiguous", "descending"])
def test_uniform_draws_every_record_equally_often(same_chance, stored, n):
    drawn = sample(uniform, n, stored=stored)
    assert same_chance(inclusion(drawn, stored), [n] * TRIALS) > LEVEL


@pytest.mark.parametrize("policy", [never_the_first, never_the_last, first_slots_more_often, class_balanced])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_test_of_uniform_draws_rejects_another_policy(same_chance, policy, n):
    assert same_chance(inclusion(sample(policy, n)), [n] * TRIALS) < LEVEL


@pytest.mark.parametrize("n", [1, 3, 6, 9])
def test_p_values_of_a_correct_sampler_are_uniform(same_chance, n):
    stream = seeding.generator(0, "test")
    experiments = (stream.random((400, 200, 10)).argsort(axis=-1) < n).sum(axis=1)  # [experiment, record]
    p_values = [same_chance(counts, [n] * 200) for counts in experiments]
    assert stats.kstest(p_values, "uniform").pvalue > LEVEL


def test_uniform_draws_every_set_equally_often():
    sets = Counter(frozenset(drawn) for drawn in sample(uniform, 3, stored=STORED[:6]).tolist())
    assert len(sets) == 20
    assert stats.chisquare(list(sets.values())).pvalue > LEVEL


def class_counts(drawn):
    return [np.isin(drawn, members).sum() for members in (OF_3, OF_5, OF_0)]


def test_class_balanced_draws_of_one_choose_the_class_then_the_record():
    drawn = sample(class_balanced, 1)
    assert stats.chisquare(inclusion(drawn), CHANCES * TRIALS).pvalue > LEVEL


# The class of one record is left out: a class that runs out makes later choices depend on earlier ones.
@pytest.mark.parametrize("n", [2, 3, 4])
def test_class_balanced_draws_are_even_over_classes_and_uniform_within(same_chance, n):
    drawn = sample(class_balanced, n, stored=OF_3 + OF_5)
    assert stats.chisquare(class_counts(drawn)[:2]).pvalue > LEVEL
    for members in (OF_3, OF_5):
        of_class = np.isin(drawn, members)
        assert same_chance(inclusion(drawn[of_class], members), of_class.sum(axis=1)) > LEVEL


@pytest.mark.parametrize("policy", [uniform, never_the_first, first_slots_more_often])
def test_the_test_of_class_balanced_draws_rejects_another_policy(policy):
    assert stats.chisquare(class_counts(sample(policy, 1)), [TRIALS / 3] * 3).pvalue < LEVEL


def test_a_class_that_is_used_up_is_left_out_from_there_on():
    # a alone in its class, b and c in the other; two are drawn. With a first (1/2) the second is b or c; with b or c
    # first (1/4 each) the second is a or the other of its class, 1/2 each.
    uniforms = Uniforms(0, "test")
    sets = Counter(frozenset(class_balanced([0, 1, 2], [0, 1, 1], 2, uniforms)) for _ in range(TRIALS))
    counts = [sets[frozenset(pair)] for pair in ((0, 1), (0, 2), (1, 2))]
    assert stats.chisquare(counts, np.array([3 / 8, 3 / 8, 1 / 4]) * TRIALS).pvalue > LEVEL


@pytest.mark.parametrize("policy", [uniform, class_balanced])
@pytest.mark.parametrize("n", [0, 1, 17, 18, 19, 1000])
def test_a_draw_has_exactly_min_n_stored_records_and_no_duplicate(policy, n):
    uniforms = Uniforms(0, "test")
    for _ in range(50):
        drawn = policy(STORED, LABELS, n, uniforms)
        assert len(drawn) == len(set(drawn)) == min(n, 18)
        assert set(drawn) <= set(STORED)


@pytest.mark.parametrize("policy", [uniform, class_balanced])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_a_draw_from_nothing_is_empty(policy, n):
    assert policy([], LABELS, n, Uniforms(0, "test")) == []


@pytest.mark.parametrize("policy", [uniform, class_balanced])
def test_a_draw_leaves_its_arguments_as_they_were(policy):
    stored, labels = list(STORED), list(LABELS)
    policy(stored, labels, 10, Uniforms(0, "test"))
    assert stored == STORED and labels == LABELS


@pytest.mark.parametrize(
    "labels, stored, drawn, expected",
    [
        ([0, 0, 0, 1], [0, 1, 2, 3], [0, 3], [3 / 2, 1 / 2]),  # 1/4 over 1/2 * 1/3; 1/4 over 1/2 * 1
        ([7, 2, 7, 2], [0, 1, 2, 3], [1, 0, 2], [1, 1, 1]),  # even classes: both policies are the same
        ([4, 4, 4], [0, 1, 2], [1], [1]),
        ([5, 0, 5, 9, 5, 5], [5, 4, 3, 2, 1, 0], [3, 1, 5], [1 / 2, 1 / 2, 2]),  # 1/6 over 1/3 * 1; 1/6 over 1/3 * 1/4
        ([8, 8, 8, 1, 1], [0, 3, 4], [4, 0], [4 / 3, 2 / 3]),  # slots 1 and 2 are free; 1/3 over 1/2 * 1/2; over 1/2
        ([3, 1], [0, 1], [], []),
        ([0, 0], [], [], []),
    ],
)
def test_importance_weights_by_hand(labels, stored, drawn, expected):
    assert ClassBalanced().weights(stored, labels, drawn) == pytest.approx(expected)


def test_importance_weights_turn_the_mean_of_class_balanced_draws_into_the_mean_of_the_memory():
    values = np.array(STORED) ** 2
    weights = np.array(ClassBalanced().weights(STORED, LABELS, STORED))
    assert (CHANCES * weights * values).sum() == pytest.approx(values.mean())
