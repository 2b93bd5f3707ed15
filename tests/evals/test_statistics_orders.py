"""Rank correlation and the bootstrap against what can be worked out by hand."""

import numpy as np
import pytest

from megacontext.errors import ShapeError
from megacontext.evals.statistics import bootstrap_mean, spearman


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 400], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3], [2, 1, 3], 0.5),
        # Ranks 1.5, 1.5, 3 against 1, 2, 3: 1.5 / sqrt(1.5 * 2).
        ([0, 0, 5], [1, 2, 3], 1.5 / 3**0.5),
    ],
)
def test_spearman_is_the_correlation_of_mean_ranks(first, second, expected):
    assert spearman(np.array(first), np.array(second)) == pytest.approx(expected)


def test_a_constant_row_has_no_order():
    assert spearman(np.ones(4), np.arange(4)) is None


def test_a_bootstrap_interval_holds_the_mean_and_is_the_same_again():
    values = np.random.default_rng(0).normal(3.0, 1.0, 400)
    low, high = bootstrap_mean(values)
    assert low < values.mean() < high
    # The standard error of 400 values of spread 1 is .05; an interval is four of them wide.
    assert high - low == pytest.approx(4 * 0.05, rel=0.2)
    assert bootstrap_mean(values) == (low, high)


def test_values_that_agree_leave_no_doubt_and_none_leave_no_interval():
    assert bootstrap_mean(np.full(5, 2.0)) == (2.0, 2.0)
    with pytest.raises(ShapeError, match="needs at least one value"):
        bootstrap_mean(np.array([]))
