"""Statistics over seeds against textbooks, hand counts and a stated error rate."""

import math
import statistics
import subprocess
import sys

import numpy as np
import pytest
from support import ROOT

from cl.reporting.page import inference

# Additional hours of sleep by two drugs, the same ten patients: Student 1908, The probable error of a mean.
# R's t.test(paired=TRUE) of its data set `sleep`: mean -1.58, interval -2.4598858 to -0.7001142, p 0.00283289.
SLEEP = [
    [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0],
    [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4],
]


def by_seed(values) -> dict[int, float]:
    return dict(enumerate(values))


def test_the_paired_difference_of_the_sleep_data():
    found = inference.paired(*map(by_seed, SLEEP))
    assert found.mean == pytest.approx(-1.58) and found.seeds == 10
    assert (found.low, found.high) == (pytest.approx(-2.4598858, abs=1e-6), pytest.approx(-0.7001142, abs=1e-6))
    assert found.p == pytest.approx(0.00283289, rel=1e-5)


def test_an_interval_by_hand():
    # 2.776 is Student's t at 97.5 % with 4 degrees of freedom in every table of it, 12.706 with one.
    values = by_seed([0.80, 0.82, 0.84, 0.86, 0.88])
    deviation = math.sqrt(0.004 / 4)
    assert inference.mean_and_deviation(values) == (pytest.approx(0.84), pytest.approx(deviation))
    assert inference.half_width(values) == pytest.approx(2.776 * deviation / math.sqrt(5), rel=2e-4)
    found = inference.paired(by_seed([0.5, 0.9]), by_seed([0.4, 0.6]))
    assert found.high - found.mean == pytest.approx(12.706 * math.sqrt(0.02) / math.sqrt(2), rel=1e-4)


def test_only_seeds_that_both_have_are_compared():
    one, other = {0: 0.5, 1: 0.6, 2: 0.7, 9: 0.0}, {2: 0.5, 0: 0.4, 1: 0.45, 7: 1.0}
    found = inference.paired(one, other)
    same = inference.paired({0: 0.5, 1: 0.6, 2: 0.7}, {0: 0.4, 1: 0.45, 2: 0.5})
    assert found == same and found.seeds == 3 and found.mean == pytest.approx(0.15)
    assert inference.paired({0: 1.0}, {1: 1.0}) is None and inference.paired({}, {}) is None


def test_without_two_common_seeds_or_any_spread_there_is_no_interval():
    single = inference.paired({0: 0.5, 1: 0.6}, {1: 0.4, 2: 0.3})
    assert single.mean == pytest.approx(0.2) and (single.low, single.high, single.p, single.seeds) == (None,) * 3 + (1,)
    # 0.3 - 0.1 and 0.4 - 0.2 differ in their last bit
    shifted = inference.paired({0: 0.3, 1: 0.4}, {0: 0.1, 1: 0.2})
    assert shifted.mean == pytest.approx(0.2) and (shifted.low, shifted.p) == (None, None)
    equal = inference.paired({0: 0.3, 1: 0.4}, {0: 0.3, 1: 0.4})
    assert (equal.mean, equal.low, equal.high, equal.p) == (0, 0, 0, 1)
    assert inference.half_width({3: 0.5}) is None and inference.mean_and_deviation({}) == (None, None)


def test_holm_by_hand():
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") is 0.03 0.06 0.06 0.02
    assert inference.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert inference.holm([0.4, None, 0.9]) == [pytest.approx(0.8), None, pytest.approx(0.9)]
    assert inference.holm([0.6, 0.7]) == [1, 1] and inference.holm([]) == []


def test_rows_that_cannot_be_told_apart_share_a_rank():
    noise = [0.001, -0.002, 0.0, 0.002, -0.001]
    turned = noise[::-1]
    rows = [
        by_seed([0.90 + n for n in noise]),
        by_seed([0.90 + n for n in turned]),
        by_seed([0.80 + n for n in noise[1:] + noise[:1]]),
        by_seed([0.80 + n for n in turned[1:] + turned[:1]]),
        by_seed([0.10 + 2 * n for n in turned]),
    ]
    assert inference.ranks(rows) == [1, 1, 3, 3, 5]
    assert inference.ranks(rows[::-1]) == [5, 3, 3, 1, 1]
    assert inference.ranks(rows, higher_is_better=False) == [4, 4, 2, 2, 1]
    assert inference.ranks([rows[0], {0: 0.5}]) == [None, None] and inference.ranks([rows[0]]) == [1]


def test_under_the_null_few_families_have_a_significant_row():
    """12 rows without any difference to a thirteenth: Holm at 5 % finds one in at most 5 % of the families.

    400 families: the count has a standard deviation of sqrt(400 * 0.05 * 0.95) = 4.4, so more than 20 + 4 * 4.4 is
    seen less than once in 10,000 times; without Holm it would be about 100 and more.
    """
    generator, wrong, uncorrected = np.random.default_rng(0), 0, 0
    for _ in range(400):
        reference, *rows = [by_seed(generator.normal(0.9, 0.01, 5)) for _ in range(13)]
        p_values = [_p_of(row, reference) for row in rows]
        wrong += min(inference.holm(p_values)) < inference.SIGNIFICANT
        uncorrected += min(p_values) < inference.SIGNIFICANT
    assert wrong <= 37 < 90 < uncorrected


def _p_of(row: dict, reference: dict) -> float:
    """The two-sided p of the paired t test by the closed form of Student's distribution with 4 degrees of freedom."""
    differences = [row[seed] - reference[seed] for seed in row]
    t = abs(statistics.fmean(differences)) / (statistics.stdev(differences) / math.sqrt(5))
    x = t / math.sqrt(4 + t * t)
    return 1 - x * (3 - x * x) / 2


def test_the_closed_form_of_that_test_is_the_p_value():
    one, other = by_seed([0.5, 0.61, 0.7, 0.78, 0.9]), by_seed([0.45, 0.6, 0.6, 0.75, 0.7])
    assert inference.paired(one, other).p == pytest.approx(_p_of(one, other), rel=1e-9)


def test_scipy_is_not_imported_without_a_page():
    code = "import sys; from cl.reporting import report; print({'scipy', 'jinja2'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n", done.stderr
