"""Wilson's interval, against published figures and against its own definition."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacontext.evals.statistics import Z_95, wilson


@pytest.mark.parametrize(
    ("right", "tried", "low", "high"),
    [
        # Newcombe 1998, table I, method 3 (the score interval without continuity correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_known_intervals(right, tried, low, high):
    assert wilson(right, tried) == pytest.approx((low, high), abs=5e-5)


def test_nothing_tried_is_nothing_known():
    assert wilson(0, 0) == (0.0, 1.0)


@given(tried=st.integers(1, 5000), data=st.data())
def test_the_interval_holds_the_share_and_its_ends_are_where_the_score_test_turns(tried, data):
    right = data.draw(st.integers(0, tried))
    low, high = wilson(right, tried)
    share = right / tried
    assert 0 <= low <= share + 1e-12 and share - 1e-12 <= high <= 1
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9:
            assert abs(share - end) / math.sqrt(end * (1 - end) / tried) == pytest.approx(Z_95, rel=1e-6)


@given(tried=st.integers(1, 500), data=st.data())
def test_failures_mirror_successes(tried, data):
    right = data.draw(st.integers(0, tried))
    low, high = wilson(right, tried)
    assert wilson(tried - right, tried) == pytest.approx((1 - high, 1 - low))
