"""Facts about working contexts: what they may be, and what an edit does to them."""

import numpy as np
import pytest
from focus_checks import check_invariants, contexts
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.errors import BudgetError, IllegalEditError, ShapeError
from megacontext.focus import Edit, WorkingContext, check_budget

AWKWARD_SIZES = [0, 1, 31, 32, 33, 97, 1023, 1024, 1025, 32767, 32768, 32769, 1_000_003]


@given(contexts())
@settings(max_examples=200, deadline=None)
def test_every_reachable_context_tiles_its_history(context):
    check_invariants(context)


@given(contexts(), st.data())
@settings(max_examples=200, deadline=None)
def test_expand_then_collapse_is_the_identity_and_costs_a_block_less_one(context, data):
    gists = np.flatnonzero(context.lod > 0)
    if len(gists) == 0:
        return
    slot = int(data.draw(st.sampled_from(list(gists))))
    opened = context.edited([Edit("expand", slot)])
    assert opened.cost == context.cost + context.block_size - 1
    assert opened != context
    assert opened.edited([Edit("collapse", slot)]) == context
    assert hash(opened.edited([Edit("collapse", slot)])) == hash(context)


@given(contexts(), st.data())
@settings(max_examples=200, deadline=None)
def test_collapse_then_expand_is_the_identity(context, data):
    groups = context.groups()
    if len(groups) == 0:
        return
    slot = int(data.draw(st.sampled_from(list(groups))))
    folded = context.edited([Edit("collapse", slot)])
    check_invariants(folded)
    assert folded.cost == context.cost - context.block_size + 1
    assert folded.edited([Edit("expand", slot)]) == context


@given(contexts(), st.data())
@settings(max_examples=200, deadline=None)
def test_many_edits_at_once_equal_one_after_another(context, data):
    groups = {int(slot): "collapse" for slot in context.groups()}
    inside = {
        member: slot
        for slot in groups
        for member in range(slot, slot + (context.block_size if context.lod[slot] else 1))
    }
    choices = [Edit("collapse", slot) for slot in groups]
    choices += [Edit("expand", int(slot)) for slot in np.flatnonzero(context.lod > 0)]
    if not choices:
        return
    wanted = data.draw(st.lists(st.sampled_from(choices), unique=True, max_size=6))
    folded = {edit.slot for edit in wanted if edit.kind == "collapse"}
    edits = [edit for edit in wanted if edit.kind == "collapse" or inside.get(edit.slot) not in folded]
    one_by_one = context
    for edit in sorted(edits, key=lambda edit: -edit.slot):  # from the back, so that earlier slots stay valid
        one_by_one = one_by_one.edited([edit])
    together = context.edited(edits)
    check_invariants(together)
    assert together == one_by_one


@given(contexts())
@settings(max_examples=100, deadline=None)
def test_groups_are_exactly_what_can_be_collapsed(context):
    legal = []
    for slot in range(len(context)):
        try:
            context.edited([Edit("collapse", slot)])
            legal.append(slot)
        except IllegalEditError:
            pass
    size, brute = context.block_size, []
    for slot in range(len(context)):
        members = range(slot, slot + size)
        if context.lod[slot] == 0 and context.costs[slot] == size:
            brute.append(slot)
        elif context.lod[slot] > 0 and members[-1] < len(context):
            family = {(int(context.lod[m]), int(context.index[m]) // size) for m in members}
            if len(family) == 1:
                brute.append(slot)
    assert legal == brute == context.groups().tolist()


@pytest.mark.parametrize("num_tokens", AWKWARD_SIZES)
def test_a_cover_is_logarithmic_and_its_tail_is_raw(num_tokens):
    cover = WorkingContext.cover(num_tokens, 32)
    check_invariants(cover)
    per_level = np.bincount(cover.lod, minlength=1)
    assert (per_level[1:] <= 31).all()
    assert per_level[0] == (num_tokens % 32 > 0)
    assert cover.cost == per_level[1:].sum() + num_tokens % 32


@pytest.mark.parametrize("num_tokens", AWKWARD_SIZES[:-1])
def test_a_raw_context_costs_its_history(num_tokens):
    raw = WorkingContext.raw(num_tokens, 32)
    check_invariants(raw)
    assert raw.cost == num_tokens
    assert (raw.lod == 0).all()


@given(contexts(), st.lists(st.integers(0, 70), max_size=4))
@settings(max_examples=100, deadline=None)
def test_a_history_that_grows_keeps_its_entries_and_adds_raw_ones(context, steps):
    grown = context
    for step in steps:
        grown = grown.extend(grown.num_tokens + step)
        check_invariants(grown)
    assert grown == context.extend(context.num_tokens + sum(steps))
    np.testing.assert_array_equal(grown.lod[: len(context)], context.lod)
    np.testing.assert_array_equal(grown.index[: len(context)], context.index)
    assert (grown.lod[len(context) :] == 0).all()
    assert grown.cost == context.cost + sum(steps)


def test_a_history_never_shrinks():
    with pytest.raises(ShapeError, match="only grows, it has 40 tokens, got 39"):
        WorkingContext.cover(40, 32).extend(39)


@pytest.mark.parametrize(
    ("lod", "index", "num_tokens", "says"),
    [
        ([1, 1], [0, 2], 96, "32 tokens are covered before slot 1, which begins at 64"),  # a gap
        ([1, 1], [0, 0], 64, "tile"),  # twice
        ([1, 1], [1, 0], 64, "tile"),  # out of order
        ([1], [0], 64, "tile"),  # too short
        ([], [], 1, "tile"),
        ([1], [0], 31, "levels below 1"),  # an incomplete block as a gist
        ([0, 1], [0, 1], 63, "LOD1 of 63 tokens has 1, slot 1"),
        ([2], [0], 1023, "levels below 2"),
        ([-1], [0], 32, "level"),
        ([1], [-1], 32, "index -1"),
        ([0], [0], 0, "has 0"),
    ],
)
def test_entries_that_do_not_tile_complete_nodes_are_no_context(lod, index, num_tokens, says):
    with pytest.raises(IllegalEditError, match=says):
        WorkingContext(np.array(lod, dtype=np.int64), np.array(index, dtype=np.int64), num_tokens, 32)


@pytest.mark.parametrize(("lod", "index"), [([0], [0, 1]), ([[0]], [[0]]), ([0.0], [0])])
def test_entries_that_are_no_rows_of_integers_are_no_context(lod, index):
    with pytest.raises(ShapeError):
        WorkingContext(np.array(lod), np.array(index), 32, 32)


def test_a_context_cannot_be_changed_in_place():
    lod = np.zeros(2, dtype=np.int64)
    context = WorkingContext(lod, np.arange(2), 64, 32)
    lod[0] = 7
    assert context.lod[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        context.lod[0] = 1
    with pytest.raises(AttributeError):
        context.num_tokens = 3


@pytest.fixture
def mixed():
    """LOD2, then 32 LOD1 of which the second is raw, then a tail of 5."""
    context = WorkingContext.cover(2048 + 5, 32).edited([Edit("expand", 1)])
    return context.edited([Edit("expand", 2)])


@pytest.mark.parametrize(
    ("edits", "says"),
    [
        ([Edit("expand", 2)], "slot 2 is raw"),
        ([Edit("expand", 33)], "slot 33 is raw"),
        ([Edit("expand", 34)], r"\[0, 34\), got 34"),
        ([Edit("expand", -1)], "got -1"),
        ([Edit("collapse", 1)], r"slot 1 \(LOD1, index 32\) is neither"),  # a raw block inside
        ([Edit("collapse", 0)], "neither"),
        ([Edit("collapse", 33)], "neither"),  # the tail
        ([Edit("expand", 3), Edit("expand", 3)], "touch"),
        ([Edit("collapse", 2), Edit("collapse", 2)], "touch"),
        ([Edit("collapse", 2), Edit("expand", 2)], "slot 2 is raw"),
        ([Edit("open", 2)], "'open'"),
        ([Edit("expand", 0.5)], r"a row of integers, got float64 \(1,\)"),
        ([Edit("expand", None)], "a row of integers, got object"),
        ([Edit("expand", 0), Edit("expand", 2)], "slot 2 is raw"),  # the legal one is not applied either
    ],
)
def test_illegal_edits_are_refused_whole(edits, says, mixed):
    before = hash(mixed)
    with pytest.raises(IllegalEditError, match=says):
        mixed.apply(edits, 10_000)
    assert hash(mixed) == before


def test_an_expansion_inside_a_collapsed_group_is_refused(mixed):
    restored = mixed.edited([Edit("collapse", 2)])
    with pytest.raises(IllegalEditError, match="touch"):
        restored.edited([Edit("collapse", 1), Edit("expand", 5)])


def test_a_refund_pays_for_an_expansion_of_the_same_step(mixed):
    assert mixed.cost == 1 + 31 + 32 + 5
    moved = mixed.apply([Edit("expand", 3), Edit("collapse", 2)], budget=mixed.cost)
    assert moved.is_raw(np.array([32, 33, 34])).tolist() == [False, False, True]
    with pytest.raises(BudgetError, match=f"budget of {mixed.cost} positions, .* costs {mixed.cost + 31}"):
        mixed.apply([Edit("expand", 3)], budget=mixed.cost)


@given(contexts())
@settings(max_examples=100, deadline=None)
def test_rows_of_slots_are_edited_like_lists_of_edits(context):
    gists, groups = np.flatnonzero(context.lod > 0), context.groups()
    raw = groups[context.lod[groups] == 0]
    edits = [*(Edit("expand", slot) for slot in gists), *(Edit("collapse", slot) for slot in raw)]
    assert context.edited_at(expand=gists, collapse=raw) == context.edited(edits)
    assert context.edited_at() == context


def test_a_budget_must_hold_one_block():
    check_budget(32, 32)
    with pytest.raises(BudgetError, match=r"one block of 32 tokens, got 31; raise focus\.budget"):
        check_budget(31, 32)


def test_slots_are_found_by_token(mixed):
    slots = mixed.slot_of(np.arange(mixed.num_tokens))
    np.testing.assert_array_equal(slots, np.repeat(np.arange(len(mixed)), mixed.stop - mixed.start))
    with pytest.raises(ShapeError, match="2053"):
        mixed.slot_of(np.array([2053]))
