"""Rows of a layout: the context's own, each once, in the order that the layout promises, whatever is covered."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import K

from megacontext.errors import UnknownVariantError
from megacontext.focus import Edit, WorkingContext
from megacontext.runtime.layout import LAYOUTS, Rows, context_room, lay_out, most_rows

LENGTHS = [0, 1, K - 1, K, K + 1, K * K - 1, K * K, K * K + 1, K**3 - 1, K**3, K**3 + 1, 1023, 1024, 1025, 97]


@st.composite
def opened(draw, lengths=LENGTHS):
    """A cover, opened at random places."""
    context = WorkingContext.cover(draw(st.sampled_from(lengths)), K)
    for place in draw(st.lists(st.floats(0, 1), max_size=8)):
        if len(gists := np.flatnonzero(context.lod)):
            context = context.edited([Edit("expand", int(gists[int(place * (len(gists) - 1))]))])
    return context


def nodes(rows):
    return list(zip(rows.lod.tolist(), rows.index.tolist(), strict=True))


def span(node):
    lod, index = node
    return index * K**lod, (index + 1) * K**lod


@given(context=opened(), covered=st.integers(0, 1100), prompt=st.integers(0, 3))
@settings(max_examples=80)
def test_cover_first_is_coarse_gists_then_covered_tokens_then_what_came_since(context, covered, prompt):
    rows = nodes(lay_out(context, prompt, "cover-first", "context", covered))
    assert len(set(rows)) == len(rows)
    own, asked = rows[: len(rows) - prompt], rows[len(rows) - prompt :]
    assert asked == [(0, context.num_tokens + place) for place in range(prompt)]
    if not context.lod.any():
        assert own == [(0, token) for token in range(context.num_tokens)]
        return
    late = [node for node in own if span(node)[1] > covered]
    gists = [node for node in own if node not in late and node[0]]
    tokens = [node for node in own if node not in late and not node[0]]
    assert own == gists + tokens + late, "three parts, one behind the other"
    assert gists == sorted(gists, key=lambda node: (-node[0], node[1]))
    assert tokens == sorted(tokens) and late == sorted(late, key=span)
    # An opened gist is every covered node above something that is shown, and nothing else.
    shown = set(nodes(lay_out(context, 0, "timeline", "context", 0)))
    above = {
        (lod, index // K ** (lod - low))
        for low, index in shown
        for lod in range(low + 1, 5)
        if (index // K ** (lod - low) + 1) * K**lod <= min(covered, context.num_tokens)
    }
    assert set(own) == shown | above and not shown & above


@given(context=opened(), prompt=st.integers(0, 3))
@settings(max_examples=60)
def test_the_timeline_tiles_the_history_in_its_order(context, prompt):
    rows = lay_out(context, prompt, "timeline", "global", 1000)
    ends = [span(node) for node in nodes(rows)]
    assert [start for start, _ in ends] == [0, *(stop for _, stop in ends)][: len(ends)]
    assert ends[-1][1] == context.num_tokens + prompt if ends else context.num_tokens == 0
    assert rows.position.tolist() == [(start + stop - 1) / 2 for start, stop in ends]


@given(context=opened(), spare=st.integers(-K - 1, K + 1), covered=st.integers(0, 1100))
@settings(max_examples=120)
def test_what_costs_no_more_than_its_room_has_no_more_rows_and_never_more_than_was_said(
    context, spare, covered
):
    for layout in LAYOUTS.names():
        room = most_rows(context, layout) + spare
        count = len(lay_out(context, 0, layout, "context", covered))
        assert count <= most_rows(context, layout)
        if context.lod.any() or layout == "timeline":
            # Covered to the end, the two say the same, to the position.
            assert (context.cost <= context_room(room, context, layout)) == (
                most_rows(context, layout) <= room
            )
        whole = context.num_tokens // K * K
        assert len(lay_out(context, 0, layout, "context", whole)) == most_rows(context, layout)


@given(data=st.data())
@settings(max_examples=60)
def test_the_same_start_is_the_longest_common_beginning(data):
    row = st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from([0.0, 1.5]))
    one, other = (data.draw(st.lists(row, max_size=6)) for _ in range(2))
    other = [*one[: data.draw(st.integers(0, 6))], *other]

    def rows(made):
        lod, index, position = (list(column) for column in zip(*made, strict=True)) if made else ([], [], [])
        return Rows(
            np.array(lod, dtype=np.int64), np.array(index, dtype=np.int64), np.array(position, dtype=float)
        )

    longest = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    longest = min(len(one), len(other)) if longest is None else longest
    assert rows(one).same_start(rows(other)) == rows(other).same_start(rows(one)) == longest
    assert (rows(one) == rows(other)) == (one == other)


def test_an_opened_block_moves_no_gist_that_is_as_coarse_or_coarser():
    """Why cover-first keeps rows: the cover in front of an opened block stays where it is."""
    context = WorkingContext.cover(K**3 + 3, K)
    before = lay_out(context, 2, "cover-first", "context", K**3)
    opened = context.edited([Edit("expand", 0)])
    after = lay_out(opened, 2, "cover-first", "context", K**3)
    assert before.same_start(after) == 1 and (int(after.lod[0]), int(after.index[0])) == (3, 0)
    blocks = opened.edited([Edit("expand", 7)])
    assert after.same_start(lay_out(blocks, 2, "cover-first", "context", K**3)) == 1 + K
    timeline = [
        lay_out(one, 2, "timeline", "context", 0) for one in (opened, opened.edited([Edit("expand", 0)]))
    ]
    assert timeline[0].same_start(timeline[1]) == 0


def test_an_unknown_layout_is_answered_with_those_that_exist():
    with pytest.raises(UnknownVariantError, match="did you mean 'timeline'"):
        lay_out(WorkingContext.raw(3, K), 0, "timelin", "context", 0)
