"""Keys and values kept across edits: what is read on top of them is what is read anew, in either layout."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import K, ids_of, model_config, random_bundle

from megacontext.errors import ShapeError
from megacontext.focus import Edit, WorkingContext
from megacontext.runtime.context_cache import ContextCache, NextToken
from megacontext.runtime.encoding import BundleEncoder
from megacontext.runtime.layout import context_room, lay_out, opened_gists
from megacontext.runtime.reading import read
from megacontext.tree import Memory

LAYOUTS = ("timeline", "cover-first")
POLICIES = ("context", "global")
ROOM = 400


@pytest.fixture(scope="module", params=["classic", "current"])
def parts(request, tokenizer):
    """A model of that dialect, and a memory made with it."""
    bundle = random_bundle(tokenizer, model=model_config(dialect=request.param))
    encoder = BundleEncoder(bundle)
    memory = Memory.create(None, encoder.identity(), encoder)
    memory.append(ids_of(700))
    return bundle, memory


def edited(context, draws):
    """The context after some random legal edits."""
    for place, opens in draws:
        slots = np.flatnonzero(context.lod) if opens else context.groups()
        if len(slots):
            slot = int(slots[int(place * (len(slots) - 1))])
            context = context.edited([Edit("expand" if opens else "collapse", slot)])
    return context


EDITS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=5)


@given(turns=st.lists(st.tuples(EDITS, st.integers(0, 30), st.integers(0, 3)), min_size=1, max_size=5),
       layout=st.sampled_from(LAYOUTS), policy=st.sampled_from(POLICIES))  # fmt: skip
@settings(max_examples=25)
def test_reading_on_top_of_what_is_kept_is_reading_anew(turns, layout, policy, parts):
    bundle, memory = parts
    cache, context = ContextCache(bundle.base, ROOM), WorkingContext.cover(500, K)
    for edits, grown, steps in turns:
        context = edited(context.extend(min(700, context.num_tokens + grown)), edits)
        prompt = ids_of(3, seed=grown)
        reading = read(context, memory, prompt, policy, layout=layout, covered=480)
        if reading.cost + steps > ROOM:
            break
        before, held = cache.rows, cache._ids
        report = cache.read(reading)
        same = before.same_start(reading.rows)
        while same and not np.array_equal(held[:same], reading.ids[:same]):
            same -= 1
        assert report.reused == min(same, reading.cost - 1)
        assert report.reused + report.computed == report.rows == reading.cost == len(cache)
        fresh = ContextCache(bundle.base, ROOM).read(reading)
        torch.testing.assert_close(report.hidden, fresh.hidden, atol=1e-5, rtol=0)
        for step in range(steps):
            cache.step(NextToken(step + 1, context.num_tokens + 3 + step, float(len(cache))))


def test_a_stale_row_would_be_noticed(parts):
    bundle, memory = parts
    cache = ContextCache(bundle.base, ROOM)
    reading = read(WorkingContext.cover(500, K), memory, ids_of(3), "context")
    honest = cache.read(reading).hidden
    cache._cache.values[0][:, 2] += 1
    assert not torch.allclose(cache.read(reading).hidden, honest, atol=1e-3)


@given(start=st.integers(0, 699), width=st.integers(1, 200), places=EDITS)
@settings(max_examples=25)
def test_a_change_of_tokens_costs_all_rows_from_the_first_node_that_knew_them(start, width, places, parts):
    bundle, memory = parts
    context = edited(WorkingContext.cover(700, K), [(place, True) for place, _ in places])
    cache = ContextCache(bundle.base, ROOM)
    reading = read(context, memory, ids_of(2), "context")
    if reading.cost > ROOM:
        return
    cache.read(reading)
    knew = [
        index * K**lod < start + width and (index + 1) * K**lod > start
        for lod, index in zip(reading.rows.lod.tolist(), reading.rows.index.tolist(), strict=True)
    ]
    kept = cache.invalidate(start, start + width, K)
    assert kept == (knew.index(True) if any(knew) else reading.cost) == len(cache)


@given(places=EDITS, layout=st.sampled_from(LAYOUTS), covered=st.integers(0, 87))
@settings(max_examples=40)
def test_rows_are_the_contexts_own_and_in_cover_first_the_opened_gists_too(places, layout, covered):
    context = edited(WorkingContext.cover(700, K), places)
    rows = lay_out(context, 4, layout, "context", covered * K)
    found = list(zip(rows.lod.tolist(), rows.index.tolist(), strict=True))
    expected = [
        (int(lod), int(index))
        for lod, start, stop, index in zip(
            context.lod, context.start, context.stop, context.index, strict=True
        )
        for index in (range(start, stop) if lod == 0 else [index])
    ] + [(0, token) for token in range(700, 704)]
    if layout == "cover-first" and context.lod.any():
        expected += [
            (int(lod), int(index)) for lod, index in zip(*opened_gists(context, covered * K), strict=True)
        ]
    assert sorted(found) == sorted(expected) and len(set(found)) == len(found)
    if layout == "timeline":
        assert found == expected
    room = len(rows) - 4
    assert context.cost <= context_room(room, context, layout) or layout == "cover-first"


@given(places=EDITS, room=st.integers(40, 400))
@settings(max_examples=60)
def test_a_context_that_costs_no_more_than_its_room_has_no_more_rows(places, room):
    context = edited(WorkingContext.cover(700, K), places)
    for layout in LAYOUTS:
        if context.cost <= context_room(room, context, layout):
            for covered in (0, 480, 696):
                assert len(lay_out(context, 0, layout, "context", covered)) <= room


def test_what_does_not_fit_is_refused_and_the_cache_stays_usable(parts):
    bundle, memory = parts
    cache = ContextCache(bundle.base, 40)
    small = read(WorkingContext.cover(700, K), memory, ids_of(2), "context")
    honest = cache.read(small).hidden
    with pytest.raises(ShapeError, match="a reading must have 1 to 40 positions to be cached, got 72"):
        cache.read(read(WorkingContext.raw(70, K), memory, ids_of(2), "context"))
    for _ in range(40 - len(cache)):
        cache.step(NextToken(1, 702, float(len(cache))))
    with pytest.raises(ShapeError, match="a cache of 40 positions is full"):
        cache.step(NextToken(1, 702, 40.0))
    torch.testing.assert_close(cache.read(small).hidden, honest, atol=1e-5, rtol=0)
