"""Streams: which samples are in which task, counted by hand, and a distribution over time, tested at a stated error."""

import numpy as np
import pytest
import torch
from test_scenarios import CPU, Unloaded, ids, numbered

from cl.scenarios.longtail import LongTailed, tail
from cl.scenarios.repetition import RandomRepetition, Repetition, slots
from cl.scenarios.streams import Blurry, Gaussian

PER_CLASS = 40
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), PER_CLASS))
TEST = np.random.default_rng(1).permutation(np.repeat(np.arange(10), 5))


def tasks_of(scenario, seed: int = 0, labels=LABELS):
    scenario.plan(Unloaded())
    return scenario.split(numbered(labels), numbered(TEST, 1000), seed)


def counts(tasks, classes: int = 10) -> np.ndarray:
    """[tasks, classes]: how many training samples of each class a task has."""
    return np.array([tasks.training([task]).y.bincount(minlength=classes).tolist() for task in range(len(tasks))])


def numbers(tasks) -> list[list[int]]:
    return [ids(tasks.training([task])) for task in range(len(tasks))]


ALL = {
    "blurry": Blurry(5, 0.5, 0.1),
    "gaussian": Gaussian(5, 0.5),
    "repetition": Repetition(8, 5),
    "random repetition": RandomRepetition(8, 0.3, 0.4),
    "long tail": LongTailed(5, 20.0, shuffle=True),
}


@pytest.mark.parametrize("scenario", ALL.values(), ids=ALL)
def test_the_seed_alone_decides_and_labels_stay_with_their_pictures(scenario):
    one, same, other = (tasks_of(scenario, seed) for seed in (3, 3, 4))
    assert numbers(one) == numbers(same) != numbers(other)
    for task in range(len(one)):
        rows = one.training([task])
        assert rows.y.tolist() == LABELS[ids(rows)].tolist() == one.train_parts[task].labels.tolist()
        assert len(set(ids(rows))) == len(rows) > 0 and set(rows.task.tolist()) == {task}


@pytest.mark.parametrize("name", ["blurry", "gaussian", "repetition"])
def test_every_sample_comes_once(name):
    assert sorted(sum(numbers(tasks_of(ALL[name])), [])) == list(range(len(LABELS)))


@pytest.mark.parametrize("spread, moved", [(0.1, 4), (0.5, 20), (0.0, 0)])
def test_a_blurry_class_has_its_share_in_other_tasks_and_a_disjoint_one_has_not(spread, moved):
    # i-Blurry-50-M with 5 tasks of 2 classes: one of each two is disjoint, all 40 of its samples in its task. Of the
    # other one 40 - moved are there, and moved / 4 in each other task.
    found = counts(tasks_of(Blurry(5, 0.5, spread)))
    for task in range(5):
        both = found[:, [2 * task, 2 * task + 1]]
        alone, blurred = sorted(both.T.tolist(), key=lambda column: -column[task])
        expected = [0] * 5
        expected[task] = PER_CLASS
        assert alone == expected
        expected = [moved // 4] * 5
        expected[task] = PER_CLASS - moved
        assert blurred == expected


def test_shares_of_blurry_classes_are_even_to_within_one_where_they_do_not_divide():
    found = counts(tasks_of(Blurry(4, 0.3, 0.15)))  # 3 of 10 classes disjoint, in tasks of 3, 3, 2, 2; 6 samples moved
    mains = [0, 0, 0, 1, 1, 1, 2, 2, 3, 3]
    disjoint = [label for label in range(10) if (found[:, label] > 0).sum() == 1]
    assert [mains[label] for label in disjoint] == [0, 1, 2]
    for label in set(range(10)) - set(disjoint):
        assert found[mains[label], label] == 34
        assert sorted(np.delete(found[:, label], mains[label])) == [2, 2, 2]


@pytest.mark.parametrize("scenario", [Blurry(5, 0.5, 0.1), Gaussian(5, 0.5), Gaussian(4, 0.5)])
def test_test_sets_of_streams_divide_the_classes(scenario):
    tasks = tasks_of(scenario)
    groups = [tasks.testing(task, CPU).y.unique().tolist() for task in range(len(tasks))]
    assert sum(groups, []) == list(range(10)) and max(map(len, groups)) - min(map(len, groups)) <= 1
    assert sorted(sum((ids(tasks.testing(task, CPU)) for task in range(len(tasks))), [])) == list(range(1000, 1050))
    assert scenario.kind == "stream" and scenario.task_outputs == [] and scenario.num_outputs == 10


def test_labels_of_a_stream_are_positions_in_the_order_of_classes():
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    tasks = tasks_of(Gaussian(5, 0.01, class_order=order))
    for task, first in enumerate(range(0, 10, 2)):
        rows = tasks.training([task])
        assert {(LABELS[number], label) for number, label in zip(ids(rows), rows.y.tolist())} == {
            (order[first], first), (order[first + 1], first + 1),
        }  # fmt: skip
        assert set(TEST[np.array(ids(tasks.testing(task, CPU))) - 1000]) == set(order[first : first + 2])


def test_a_narrow_gaussian_stream_has_one_class_after_the_other():
    tasks = tasks_of(Gaussian(5, 0.01))
    assert torch.cat([tasks.training([task]).y for task in range(5)]).tolist() == sorted(LABELS.tolist())


def test_shares_of_classes_are_gaussians_over_time():
    """The share of class k at time t is phi((t - k) / width) over the sum of these.

    A chi-squared test over 20 equal parts of the stream, class 4 against all others: with the right shares, which part
    a sample of class 4 is in has this law, up to the spread of the cuts. It fails for a right stream in less than one
    of 10,000 seeds (chi-squared with 19 degrees of freedom above 51.4), and the seed is fixed.
    """
    width, per_class, parts = 0.8, 2000, 20
    labels = np.repeat(np.arange(10), per_class)
    scenario = Gaussian(5, width)
    scenario.plan(Unloaded())
    order = np.concatenate(scenario.deal(labels, seed=1))
    place = np.flatnonzero(labels[order] == 4) / len(labels)
    # The place of time t in the stream: the mean over classes of Phi((t - k) / width).
    times = np.linspace(-5, 14, 20001)
    phi = np.exp(-(((times[:, None] - np.arange(10)) / width) ** 2) / 2)
    cumulated = np.cumsum(phi.sum(1)) / phi.sum()
    cuts = np.searchsorted(cumulated, np.linspace(0, 1, parts + 1)[1:-1])
    law = np.array([piece.sum() for piece in np.split(phi[:, 4], cuts)]) / phi[:, 4].sum()
    observed, _ = np.histogram(place, bins=parts, range=(0, 1))
    few = law * per_class < 5
    seen = np.append(observed[~few], observed[few].sum())
    expected = np.append(law[~few], law[few].sum()) * per_class
    assert ((seen - expected) ** 2 / expected).sum() < 51.4
    wrong = np.append(np.roll(law, 1)[~few], np.roll(law, 1)[few].sum()) * per_class  # the test can tell a class apart
    assert ((seen - wrong) ** 2 / np.maximum(wrong, 1)).sum() > 51.4


def test_intervals_of_a_gaussian_stream_are_equally_long():
    assert [len(part) for part in numbers(tasks_of(Gaussian(3, 0.5)))] == [134, 133, 133]


@pytest.mark.parametrize("classes, tasks, size", [(10, 20, 2), (10, 7, 3), (10, 5, 2), (10, 4, 10), (3, 50, 2)])
def test_slots_hold_different_classes_and_each_class_is_in_equally_many(classes, tasks, size):
    for seed in range(20):
        found = slots(classes, tasks, size, np.random.default_rng(seed))
        assert (found.sum(1) == size).all()
        assert found.sum() == tasks * size and found.sum(0).max() - found.sum(0).min() <= 1


def test_a_class_gives_each_of_its_tasks_an_equal_part():
    found = counts(tasks_of(Repetition(20, 2)))  # each class in 4 tasks: 10 samples in each
    assert ((found == 10) | (found == 0)).all() and ((found > 0).sum(0) == 4).all() and ((found > 0).sum(1) == 2).all()
    found = counts(tasks_of(Repetition(7, 10)))  # all classes in all tasks: 40 = 6 + 6 + 6 + 6 + 6 + 5 + 5
    assert (np.sort(found, 0)[::-1] == np.array([6] * 5 + [5] * 2)[:, None]).all()
    once = counts(tasks_of(Repetition(5, 2)))  # class-incremental
    assert ((once > 0).sum(0) == 1).all()


def test_all_tasks_with_repetition_are_tested_on_the_whole_split_once():
    tasks = tasks_of(Repetition(20, 2))
    assert [len(tasks.testing(task, CPU)) for task in range(20)] == [50] * 20
    assert {tasks.tested_with(task) for task in range(20)} == {0}
    assert len(tasks.testing_once(range(20), CPU)) == 50


def test_random_repetition_shares_out_its_samples_and_begins_again():
    scenario = RandomRepetition(30, 0.3, 0.4, samples=25)
    tasks = tasks_of(scenario)
    found = counts(tasks)
    assert (found > 0).any(0).all() and (found > 0).any(1).all()
    for row in found:
        there = row[row > 0]
        assert there.sum() == 25 or there.max() == PER_CLASS
        assert there.max() - there.min() <= 1
    for label in range(10):  # no sample a second time before all samples of the class have come
        taken = [number for part in numbers(tasks) for number in part if LABELS[number] == label]
        used = np.bincount(taken, minlength=len(LABELS))[LABELS == label]
        assert used.max() - used.min() <= 1


def test_classes_of_random_repetition_come_as_often_as_the_law_says():
    """First occurrences and repetitions over 2,000 seeds, to within four standard errors: 6 in 100,000 each."""
    scenario, runs = RandomRepetition(6, 0.4, 0.25), 2000
    scenario.plan(Unloaded())
    found = np.array([scenario.occurrences(np.random.default_rng(seed)) for seed in range(runs)])
    assert found.any(2).all() and found.any(1).all()
    starts = found.argmax(1)  # [runs, classes]
    law = 0.4 * 0.6 ** np.arange(6) / (1 - 0.6**6)
    share = (starts == 1).mean()
    assert abs(share - law[1]) < 4 * np.sqrt(law[1] * (1 - law[1]) / (10 * runs))
    again = np.array([found[:, task][starts < task].mean() for task in range(1, 6)])
    trials = [(starts < task).sum() for task in range(1, 6)]
    # Tasks without a class repeat one of the classes so far, which adds less than a hundredth here.
    for share, number in zip(again, trials):
        assert -4 * np.sqrt(0.25 * 0.75 / number) < share - 0.25 < 0.01 + 4 * np.sqrt(0.25 * 0.75 / number)


def test_sizes_of_a_long_tail_fall_exponentially():
    assert tail(500, 3, 100).tolist() == [500, 50, 5]
    assert tail(100, 5, 16).tolist() == [100, 50, 25, 12, 6]
    assert tail(40, 10, 1).tolist() == [40] * 10
    assert tail(40, 2, 1000).tolist() == [40, 1]


def test_a_long_tail_takes_training_samples_away_and_no_test_samples():
    expected = [40, 27, 18, 12, 8, 5, 3, 2, 1, 1]  # 40 x 32^(-k/9), rounded down
    ordered = tasks_of(LongTailed(5, 32.0))
    assert counts(ordered).sum(0).tolist() == expected
    assert [task for task in range(5) for _ in range(2)] == counts(ordered).argmax(0).tolist()
    shuffled = counts(tasks_of(LongTailed(5, 32.0, shuffle=True))).sum(0).tolist()
    assert sorted(shuffled, reverse=True) == expected != shuffled
    assert [len(ordered.testing(task, CPU)) for task in range(5)] == [10] * 5
    assert LongTailed(5, 32.0).has_boundaries and ALL["long tail"].kind == "class"


@pytest.mark.parametrize("make, message", [
    (lambda: Blurry(11, 0.5, 0.1), "num_tasks=11, but the data set has 10 classes"),
    (lambda: Blurry(1, 0.5, 0.1), "spreads samples over other tasks: at least 2, got 1"),
    (lambda: Gaussian(5, 0.5, class_order=[0, 1]), "must contain each label from 0 to 9 once"),
    (lambda: Gaussian(5, 0.5, class_order="first"), "must be null, random or a list"),
    (lambda: Repetition(4, 2), "classes_per_task must be from 3 to 10"),
    (lambda: Repetition(4, 11), "classes_per_task must be from 3 to 10"),
    (lambda: Repetition(50, 10), "class 0 has 40 training samples, and comes in 50 tasks"),
    (lambda: RandomRepetition(500, 0.5, 0.5), "0 samples per task leave a task empty"),
    (lambda: LongTailed(4, 10.0), "10 classes do not divide into 4 equal tasks"),
], ids=lambda value: "" if callable(value) else value)  # fmt: skip
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        tasks_of(make())
