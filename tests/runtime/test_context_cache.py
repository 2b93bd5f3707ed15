"""What a context cache holds is true: with both kinds of gists, with models of others, after anything that failed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.huggingface.hf_toys import VOCABULARY as OTHERS_VOCABULARY
from models.huggingface.hf_toys import base_of
from toys import K, ids_of, random_base

from megacontext.errors import ShapeError
from megacontext.focus import Edit, WorkingContext
from megacontext.models.base import NO_TOKEN
from megacontext.models.entries import CacheEntries, entry_width, put_entries
from megacontext.runtime.context_cache import ContextCache, NextToken
from megacontext.runtime.decoding import decode_greedily
from megacontext.runtime.layout import Rows
from megacontext.runtime.reading import Reading, read
from megacontext.tree import Identity, Memory

ROOM = 48
TOKEN, EMBEDDED, CACHED = range(3)


@pytest.fixture(scope="module", params=["classic", "current"])
def base(request):
    return random_base(dialect=request.param, n_kv_head=1)


def vectors(seed, count, width):
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def reading_of(base, kinds, contents, start=0):
    """A reading of rows of those kinds; what a row holds follows from its kind and its content's number."""
    count = len(kinds)
    kinds, contents = np.array(kinds), np.array(contents)
    ids = np.where(kinds == TOKEN, contents, NO_TOKEN).astype(np.int64)
    rows = Rows(
        (kinds != TOKEN).astype(np.int64), contents.astype(np.int64), start + np.arange(count, dtype=float)
    )

    def held(kind, width):
        made = [vectors(int(content), 1, width) for content in contents[kinds == kind]]
        return np.concatenate([np.zeros((0, width), dtype=np.float32), *made])

    return Reading(
        ids,
        np.flatnonzero(kinds == EMBEDDED),
        held(EMBEDDED, base.width),
        rows.position,
        rows,
        np.flatnonzero(kinds == CACHED),
        held(CACHED, entry_width(base)),
    )


@torch.inference_mode()
def row_by_row(base, reading):
    """Hidden state of the last row, each row read alone on top of the ones before."""
    cache, embedded, cached = base.reserve(1, len(reading.rows)), 0, 0
    for slot, token in enumerate(reading.ids):
        where = torch.tensor([[reading.positions[slot]]])
        if slot in reading.cached_slots:
            packed = torch.from_numpy(reading.cached[cached : cached + 1])[None]
            put_entries(base, cache, CacheEntries.unpacked(packed, base), where)
            cached += 1
            continue
        ids = torch.tensor([[int(token)]])
        embeddings = base.embed(ids.clamp_min(0))
        if token == NO_TOKEN:
            embeddings = torch.from_numpy(reading.gists[embedded : embedded + 1])[None]
            embedded += 1
        hidden = base(embeddings, where, ids=ids, cache=cache)
    return hidden[:, -1]


ROWS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), max_size=20)


@given(turns=st.lists(st.tuples(st.integers(0, 20), ROWS, st.integers(0, 2)), min_size=1, max_size=5))
@settings(max_examples=40)
def test_both_kinds_of_gists_in_any_order_read_on_top_of_anything_are_read_as_row_by_row(turns, base):
    cache, row = ContextCache(base, ROOM), []
    for kept, fresh, steps in turns:
        row = [*row[:kept], *fresh][: ROOM - 4]
        reading = reading_of(base, *zip(*row, (TOKEN, 7), strict=True))
        before = min(
            next((at for at, (one, two) in enumerate(zip(held_rows(cache), held(reading), strict=False)) if one != two),
                 min(len(cache), reading.cost)),
            reading.cost - 1,
        )  # fmt: skip
        report = cache.read(reading)
        assert report.reused == before
        put = int((reading.cached_slots >= before).sum())
        assert report.computed == reading.cost - before - put
        torch.testing.assert_close(report.hidden, row_by_row(base, reading), atol=1e-5, rtol=0)
        for step in range(steps):
            cache.step(NextToken(step, step, float(len(cache))))


def held(reading):
    """Rows as they must be told apart."""
    kinds = np.where(reading.ids >= 0, TOKEN, EMBEDDED)
    kinds[reading.cached_slots] = CACHED
    return list(
        zip(
            kinds.tolist(),
            reading.rows.index.tolist(),
            reading.positions.tolist(),
            reading.ids.tolist(),
            strict=True,
        )
    )


def held_rows(cache):
    kinds = np.select([cache._ids >= 0, cache._ids == NO_TOKEN], [TOKEN, EMBEDDED], CACHED)
    ids = np.maximum(cache._ids, NO_TOKEN)
    rows = cache.rows
    return list(zip(kinds.tolist(), rows.index.tolist(), rows.position.tolist(), ids.tolist(), strict=True))


def test_a_gist_that_is_a_vector_is_not_taken_for_the_same_node_as_keys_and_values(base):
    cache = ContextCache(base, ROOM)
    for kind in (EMBEDDED, CACHED, EMBEDDED):
        reading = reading_of(base, [TOKEN, kind, TOKEN, TOKEN], [3, 2, 4, 5])
        report = cache.read(reading)
        assert report.reused <= 1
        torch.testing.assert_close(report.hidden, row_by_row(base, reading), atol=1e-5, rtol=0)


def test_a_question_is_not_taken_for_another_as_long_nor_for_what_was_said_instead(base):
    """All of them stand at the same places behind the same history, under the same numbers."""
    cache = ContextCache(base, ROOM)
    history = ids_of(10).tolist()
    for seed in range(3):
        asked = ids_of(5, seed=seed + 1).tolist()
        reading = reading_of(base, [TOKEN] * 15, history + asked)
        rows = Rows(np.zeros(15, dtype=np.int64), np.arange(15), np.arange(15.0))
        report = cache.read(Reading(reading.ids, reading.gist_slots, reading.gists, rows.position, rows))
        assert report.reused == (10 if seed else 0)
        torch.testing.assert_close(report.hidden, row_by_row(base, reading), atol=1e-5, rtol=0)


@pytest.mark.parametrize("breaks_at", [1, 2])
def test_a_reading_that_broke_off_leaves_what_was_true(breaks_at, base, monkeypatch):
    cache = ContextCache(base, ROOM)
    cache.read(reading_of(base, [TOKEN] * 6, range(6)))
    other = reading_of(
        base, [TOKEN] * 4 + [EMBEDDED, CACHED, TOKEN, CACHED, TOKEN], [0, 1, 2, 3, 1, 1, 5, 2, 7]
    )
    forward, calls = cache._forward, []

    def breaking(*given):
        hidden = forward(*given)
        calls.append(1)
        if len(calls) == breaks_at:
            raise RuntimeError("power cut")  # after the keys and values were written
        return hidden

    monkeypatch.setattr(cache, "_forward", breaking)
    with pytest.raises(RuntimeError, match="power cut"):
        cache.read(other)
    assert len(cache) == 4
    calls.clear()
    if breaks_at == 1:
        with pytest.raises(RuntimeError, match="power cut"):
            cache.step(NextToken(9, 4, 4.0))
    monkeypatch.undo()
    # A step goes on from what is held, not from what was half read.
    on_top = reading_of(base, [TOKEN] * 5, [0, 1, 2, 3, 9])
    torch.testing.assert_close(cache.step(NextToken(9, 4, 4.0)), row_by_row(base, on_top), atol=1e-5, rtol=0)
    torch.testing.assert_close(cache.read(other).hidden, row_by_row(base, other), atol=1e-5, rtol=0)


def test_a_reading_that_ends_with_keys_and_values_is_refused_and_takes_nothing_away(base):
    cache = ContextCache(base, ROOM)
    cache.read(reading_of(base, [TOKEN] * 6, range(6)))
    with pytest.raises(ShapeError, match="must end with a token or an embedding gist"):
        cache.read(reading_of(base, [TOKEN, CACHED], [9, 1]))
    with pytest.raises(ShapeError, match="must have 1 to 48 positions to be cached, got 0"):
        cache.read(reading_of(base, [], []))
    assert len(cache) == 6
    assert cache.read(reading_of(base, [TOKEN] * 7, range(7))).reused == 6


def test_keys_and_values_of_another_model_are_refused_and_take_nothing_away(base):
    cache = ContextCache(base, ROOM)
    cache.read(reading_of(base, [TOKEN] * 6, range(6)))
    foreign = reading_of(base, [TOKEN, TOKEN, TOKEN, CACHED, TOKEN], [0, 1, 9, 1, 2])
    foreign = Reading(*list(vars(foreign).values())[:-1], foreign.cached[:, 1:])
    with pytest.raises(ShapeError, match=f"has {entry_width(base)} numbers"):
        cache.read(foreign)
    assert len(cache) == 2
    on_top = reading_of(base, [TOKEN] * 3, [0, 1, 8])
    torch.testing.assert_close(cache.step(NextToken(8, 2, 2.0)), row_by_row(base, on_top), atol=1e-5, rtol=0)


def test_forgetting_everything_leaves_an_empty_cache_that_reads_as_new(base):
    cache, reading = ContextCache(base, ROOM), reading_of(base, [TOKEN, CACHED, TOKEN], [1, 2, 3])
    cache.read(reading)
    cache.clear()
    assert len(cache) == 0 and cache.invalidate(0, 100, K) == 0
    report = cache.read(reading)
    assert (report.reused, report.computed, report.rows) == (0, 2, 3)


@pytest.mark.parametrize("heads", [1, 2])
def test_readings_with_keys_and_values_are_decoded_as_the_model_says_row_by_row(heads, base):
    shapes = [([TOKEN, CACHED, EMBEDDED, TOKEN], [1, 2, 3, 4]), ([TOKEN] * 3, [5, 6, 7])]
    shapes += [([CACHED, TOKEN], [9, 8]), ([CACHED, CACHED, TOKEN, TOKEN, TOKEN], [4, 5, 6, 7, 8])]
    readings = [reading_of(base, *shape) for shape in shapes]
    said = decode_greedily(base, readings, max_tokens=4, stop_tokens=[-1], heads=heads)
    for number, answer in enumerate(said):
        mine = readings[number * heads : (number + 1) * heads]
        for token in answer:
            hidden = torch.stack([row_by_row(base, one) for one in mine]).mean(dim=0)
            assert token == base.unembed(hidden).argmax()
            mine = [and_then(one, token) for one in mine]


def and_then(reading, token):
    rows, place = reading.rows, reading.positions[-1] + 1
    longer = Rows(
        np.append(rows.lod, 0), np.append(rows.index, rows.index[-1] + 1), np.append(rows.position, place)
    )
    return replace(reading, ids=np.append(reading.ids, token), positions=longer.position, rows=longer)


class KeyValueEncoder:
    """Gists of any numbers, as wide as keys and values of all layers."""

    fingerprint, block_size, address_width, left_tokens = "keys and values", K, 4, 0

    def __init__(self, base):
        self.gist_width = entry_width(base)

    def encode_blocks(self, tokens, left):
        gists = np.concatenate([np.zeros((0, self.gist_width), np.float32)] + [
            vectors(int(row.sum()), 1, self.gist_width) for row in tokens])  # fmt: skip
        return gists, np.zeros((len(tokens), 4), np.float32)

    def encode_parents(self, children, lod):
        return children.mean(axis=1)


EDITS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=3)


@given(turns=st.lists(EDITS, min_size=1, max_size=4), layout=st.sampled_from(["timeline", "cover-first"]))
@settings(max_examples=20)
def test_a_memory_of_keys_and_values_is_read_on_top_of_any_edit_as_anew(turns, layout, base):
    encoder = KeyValueEncoder(base)
    memory = Memory.create(
        None, Identity(tokenizer="t", embedding="e", encoder=encoder.fingerprint, block_size=K), encoder
    )
    memory.append(ids_of(K**3 + 5 * K + 3))
    cache, context = ContextCache(base, 200), WorkingContext.cover(memory.num_tokens, K)
    for edits in turns:
        for place, opens in edits:
            slots = np.flatnonzero(context.lod) if opens else context.groups()
            if len(slots):
                edit = Edit("expand" if opens else "collapse", int(slots[int(place * (len(slots) - 1))]))
                context = context.edited([edit])
        reading = read(
            context, memory, ids_of(2), "context", layout=layout, covered=K**3 + 4 * K, cached_gists=True
        )
        assert (reading.ids == NO_TOKEN).sum() == len(reading.cached_slots) == len(reading.cached)
        report = cache.read(reading)
        assert report.computed == (reading.ids[report.reused :] >= 0).sum()
        torch.testing.assert_close(report.hidden, row_by_row(base, reading), atol=1e-5, rtol=0)


# Models of others.


@pytest.mark.parametrize("name", ["llama", "gemma2", "ministral3"])
def test_a_model_of_others_reads_on_top_of_what_is_kept_as_anew(name):
    base = base_of(name)
    cache = ContextCache(base, 120)
    rng = np.random.default_rng(0)
    row = rng.integers(0, OTHERS_VOCABULARY, 90)
    kinds = np.where(rng.random(90) < 0.3, EMBEDDED, TOKEN)
    for kept, count in ((0, 60), (60, 90), (40, 70), (1, 30), (29, 80)):
        row[kept:], kinds[-1] = rng.integers(0, OTHERS_VOCABULARY, 90 - kept), TOKEN
        reading = embedded_reading(base, kinds[:count], row[:count])
        report = cache.read(reading)
        assert report.reused >= min(kept, count - 1)
        fresh = ContextCache(base, 120)
        torch.testing.assert_close(report.hidden, fresh.read(reading).hidden, atol=2e-5, rtol=0)
        torch.testing.assert_close(
            cache.step(NextToken(5, 0, float(count))),
            fresh.step(NextToken(5, 0, float(count))),
            atol=2e-5,
            rtol=0,
        )


def embedded_reading(base, kinds, contents):
    ids = np.where(kinds == TOKEN, contents, NO_TOKEN).astype(np.int64)
    slots = np.flatnonzero(kinds == EMBEDDED)
    gists = np.concatenate([np.zeros((0, base.width), np.float32)] + [
        vectors(int(one), 1, base.width) for one in contents[slots]])  # fmt: skip
    rows = Rows(
        (kinds != TOKEN).astype(np.int64), contents.astype(np.int64), np.arange(len(ids), dtype=float)
    )
    return Reading(ids, slots, gists, rows.position, rows)


def test_a_model_without_rotary_positions_takes_no_keys_and_values_and_says_so():
    base = base_of("gpt2")
    cache = ContextCache(base, 20)
    plain = embedded_reading(base, np.array([TOKEN] * 5), np.arange(5))
    honest = cache.read(plain).hidden
    mixed = Reading(
        np.array([7, 8, NO_TOKEN, 3]), np.zeros(0, np.int64), np.zeros((0, 0), np.float32), np.arange(4.0),
        Rows(np.array([0, 0, 1, 0]), np.array([7, 8, 0, 3]), np.arange(4.0)),
        np.array([2]), np.zeros((1, 8), np.float32),
    )  # fmt: skip
    with pytest.raises(
        ShapeError, match="need plain rotary positions, the same in every layer, GPT2LMHeadModel"
    ):
        cache.read(mixed)
    assert len(cache) == 0
    torch.testing.assert_close(cache.read(plain).hidden, honest, atol=1e-5, rtol=0)
