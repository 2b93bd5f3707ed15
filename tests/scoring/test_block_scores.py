"""Numbers per block become scores per entry: two routes agree, and ranks are what they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacontext.focus import Edit, WorkingContext
from megacontext.scoring.descendants import BestBelow, num_finished
from megacontext.scoring.ranks import RRF_DEPTH, best_first, fused_ranks, rank_scores
from megacontext.scoring.scorer import best_of_blocks


@st.composite
def tilings(draw):
    """Any context: a cover, opened at random places; with and without a tail."""
    size = draw(st.sampled_from([2, 3, 8]))
    context = WorkingContext.cover(draw(st.integers(0, 40 * size)), size)
    for place in draw(st.lists(st.floats(0, 1), max_size=10)):
        gists = np.flatnonzero(context.lod > 0)
        if len(gists):
            slot = int(gists[int(place * (len(gists) - 1))])
            context = context.edited([Edit("expand", slot)])
    return context


def naive_best(context, scores, tail):
    best = []
    for start, stop in zip(context.start.tolist(), context.stop.tolist(), strict=True):
        blocks = [scores[block] for block in range(start // context.block_size, stop // context.block_size)]
        best.append(max(blocks, default=tail))
    return best


@given(context=tilings(), seed=st.integers(0, 100), tail=st.sampled_from([-1.0, 0.25]))
def test_an_entry_is_worth_its_best_block(context, seed, tail):
    blocks = context.num_tokens // context.block_size
    scores = np.random.default_rng(seed).choice(np.linspace(-1, 1, 9), size=blocks).astype(np.float32)
    found = best_of_blocks(context, scores, tail)
    assert found.dtype == np.float32 and found.tolist() == naive_best(context, scores.tolist(), tail)


@given(context=tilings(), seed=st.integers(0, 100))
def test_the_best_block_of_an_entry_is_the_first_of_the_best(context, seed):
    size = context.block_size
    scores = np.random.default_rng(seed).integers(0, 4, size=context.num_tokens // size).astype(np.float32)
    found = BestBelow(scores, size).blocks(context)
    assert len(found) == num_finished(context) == len(context) - (context.num_tokens % size > 0)
    for block, start, stop in zip(found, context.start, context.stop, strict=False):
        first = start // size
        assert block == first + scores[first : stop // size].argmax()


@given(values=st.lists(st.integers(-3, 3), max_size=40), most=st.integers(1, 50))
def test_the_best_come_first_and_of_equals_the_later(values, most):
    order = sorted(range(len(values)), key=lambda place: (-values[place], -place))
    assert best_first(np.array(values, dtype=float), most).tolist() == order[:most]


@given(values=st.lists(st.floats(-1e3, 1e3) | st.just(np.inf), max_size=40), room=st.integers(0, 50))
def test_ranks_alone_make_the_scores(values, room):
    values = np.array(values)
    scores, step = rank_scores(values, room), 1 / max(1, room)
    assert scores.dtype == np.float32 and scores.shape == values.shape
    # The best first; of equals the later one.
    order = sorted(range(len(values)), key=lambda place: (-values[place], -place))
    np.testing.assert_allclose(
        scores[order], [max(-1.0, 1 - rank * step) for rank in range(len(values))], atol=1e-6
    )
    assert (scores > 0).sum() == min(len(values), max(1, room)), "as many as there is room for"


@given(values=st.lists(st.floats(-10, 10), min_size=1, max_size=20, unique=True), room=st.integers(1, 20))
def test_scores_do_not_depend_on_the_scale_of_the_numbers(values, room):
    values = np.array(values)
    ranks = np.argsort(np.argsort(values)).astype(float)
    assert np.array_equal(rank_scores(values, room), rank_scores(ranks * 1000 - 3, room))


def test_the_first_scores_one_and_after_the_room_comes_zero():
    assert rank_scores(np.arange(10.0), 4).tolist() == [-1, -1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize("tokens", [0, 1, 7])
def test_a_history_of_less_than_a_block_has_no_block_to_score(tokens):
    context = WorkingContext.cover(tokens, 8)
    assert best_of_blocks(context, np.zeros(0, np.float32), tail=-1.0).tolist() == [-1.0] * (tokens > 0)


def test_fused_ranks_add_up_by_the_formula():
    one, other = np.array([3.0, 1.0, 2.0, -np.inf]), np.array([-np.inf, 5.0, 7.0, -np.inf])
    expected = [1 / 61, 1 / 63 + 1 / 62, 1 / 62 + 1 / 61, 0.0]
    np.testing.assert_allclose(fused_ranks([one, other], 4), expected, rtol=1e-12)
    assert (fused_ranks([np.arange(3.0 * RRF_DEPTH)], 3 * RRF_DEPTH) > 0).sum() == RRF_DEPTH
    assert fused_ranks([np.zeros(0)], 0).shape == (0,)
