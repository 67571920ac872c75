"""What the statistical tests of the policies share."""

import numpy as np
import pytest
from scipy import stats


@pytest.fixture(scope="session")
def same_chance():
    """p-value of the hypothesis that each of len(counts) records was equally likely to be in each of the samples.

    counts: how many samples each record was in; sizes: of each sample. Records of one sample exclude each other, so the
    counts scatter less than those of independent events and a plain chi-square would hardly ever reject.
    """

    def p_value(counts, sizes) -> float:
        counts, sizes = np.asarray(counts, dtype=float), np.asarray(sizes, dtype=float)
        assert counts.sum() == sizes.sum(), "these are not the sizes of the samples that were counted"
        share = sizes / len(counts)
        variance = (share * (1 - share)).sum() * len(counts) / (len(counts) - 1)
        return float(stats.chi2.sf(((counts - share.sum()) ** 2).sum() / variance, len(counts) - 1))

    return p_value
