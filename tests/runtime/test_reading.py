"""A reading is its context to the position and to the bit: tokens and gists as they are stored, nothing later."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import K, ids_of

from megacontext.errors import ShapeError
from megacontext.focus import Edit, WorkingContext
from megacontext.models.gpt import NO_TOKEN
from megacontext.runtime.reading import read, stack
from megacontext.tree import Memory

PROMPT = ids_of(11, seed=9)


def opened(num_tokens, places):
    context = WorkingContext.cover(num_tokens, K)
    for place in places:
        if len(gists := np.flatnonzero(context.lod)):
            context = context.edited([Edit("expand", int(gists[int(place * (len(gists) - 1))]))])
    return context


@torch.inference_mode()
def logits(bundle, *readings):
    batch = stack(list(readings), bundle.base)
    hidden = bundle.base(batch.embeddings, batch.positions, ids=batch.ids, padding=batch.padding)
    return bundle.base.unembed(hidden)


@torch.inference_mode()
def vanilla(bundle, ids):
    """What the model says to plain tokens, with no part of ours in between."""
    ids = torch.from_numpy(ids.astype(np.int64))[None]
    return bundle.base.unembed(bundle.base(bundle.base.embed(ids), torch.arange(ids.shape[1])[None], ids=ids))


@given(places=st.lists(st.floats(0, 1), max_size=12))
@settings(max_examples=30)
@pytest.mark.parametrize("which", ["memory", "disk_memory"])
def test_a_reading_is_its_context_position_by_position(which, request, places):
    memory = request.getfixturevalue(which)
    context = opened(memory.num_tokens, places)
    reading = read(context, memory, PROMPT, "context")
    assert reading.cost == context.cost + len(PROMPT)
    at = gist = 0
    for lod, index, start, stop in zip(context.lod, context.index, context.start, context.stop, strict=True):
        if lod == 0:
            width = stop - start
            assert np.array_equal(reading.ids[at : at + width], memory.tokens(int(start), int(stop)))
        else:
            width = 1
            assert reading.ids[at] == NO_TOKEN and reading.gist_slots[gist] == at
            assert np.array_equal(reading.gists[gist], memory.gists(int(lod), [int(index)])[0])
            gist += 1
        at += width
    assert gist == len(reading.gists) == len(reading.gist_slots)
    assert np.array_equal(reading.ids[at:], PROMPT)
    assert np.array_equal(reading.positions, np.arange(reading.cost))


@pytest.mark.parametrize("tokens", [0, 1, K - 1, K, K + 1, K * K - 1, K * K, K * K + 1, 97])
@pytest.mark.parametrize("cover", [True, False])
def test_histories_of_awkward_lengths_can_be_read(encoder, bundle, tokens, cover):
    memory = Memory.create(None, encoder.identity(), encoder)
    ids = ids_of(tokens)
    memory.append(ids)
    make = WorkingContext.cover if cover else WorkingContext.raw
    context = make(tokens, K)
    reading = read(context, memory, PROMPT, "context")
    assert reading.cost == context.cost + len(PROMPT)
    found = logits(bundle, reading)
    assert torch.isfinite(found).all()
    if not cover:
        assert torch.equal(found, vanilla(bundle, np.concatenate((ids, PROMPT))))


def test_no_context_reads_the_prompt_alone(memory, bundle):
    reading = read(None, memory, PROMPT, "context")
    assert reading.cost == len(PROMPT) and not len(reading.gists)
    assert torch.equal(logits(bundle, reading), vanilla(bundle, PROMPT))


def test_global_positions_are_the_centres_of_the_spans(memory):
    context = opened(memory.num_tokens, [0.3, 0.5])
    reading = read(context, memory, PROMPT, "global")
    centres = []
    for start, stop, cost in zip(context.start, context.stop, context.costs, strict=True):
        centres += [(start + stop - 1) / 2] if cost == 1 and stop - start > 1 else list(range(start, stop))
    assert reading.positions.tolist() == [
        *centres,
        *range(memory.num_tokens, memory.num_tokens + len(PROMPT)),
    ]


def test_detail_that_was_folded_away_comes_back_exactly(memory):
    num_tokens = memory.num_tokens
    raw = WorkingContext.raw(num_tokens, K)
    folded = raw.edited([Edit("collapse", slot) for slot in range(num_tokens // K)])
    assert folded.cost < raw.cost / 4
    unfolded = folded.edited([Edit("expand", slot) for slot in range(num_tokens // K)])
    before, after = (read(context, memory, PROMPT, "context") for context in (raw, unfolded))
    for field in dataclasses.fields(before):
        assert np.array_equal(getattr(before, field.name), getattr(after, field.name))


def test_readings_of_different_lengths_side_by_side_are_each_read_as_alone(memory, bundle):
    contexts = [opened(memory.num_tokens, [0.9] * count) for count in (0, 1, 4)]
    readings = [read(context, memory, PROMPT, "context") for context in contexts]
    readings.append(read(None, memory, PROMPT, "context"))
    together = logits(bundle, *readings)
    for row, reading in zip(together, readings, strict=True):
        torch.testing.assert_close(row[-reading.cost :], logits(bundle, reading)[0], atol=1e-5, rtol=0)


def test_an_empty_reading_is_refused(encoder, bundle):
    memory = Memory.create(None, encoder.identity(), encoder)
    nothing = read(WorkingContext.raw(0, K), memory, PROMPT[:0], "context")
    with pytest.raises(ShapeError, match="at least one position, got none"):
        stack([nothing], bundle.base)


@pytest.mark.parametrize("prefix", [K, 3 * K, K * K, K * K + 2 * K])
@pytest.mark.parametrize("policy", ["context", "global"])
def test_nothing_computed_for_a_prefix_depends_on_a_token_after_it(encoder, bundle, prefix, policy):
    """Causality from the text to the logits: through gists, addresses, tree, reading and attention."""
    ids = ids_of(K * K + 5 * K)
    later = ids.copy()
    later[prefix:] = (later[prefix:] + 1) % 500
    context = opened(prefix, [0.5])
    found = []
    for history in (ids, later):
        memory = Memory.create(None, encoder.identity(), encoder)
        memory.append(history)
        reading = read(context, memory, history[:0], policy)
        found.append((logits(bundle, reading), memory.addresses()[: prefix // K]))
        # Whatever lies in front of the change is the same in a longer reading, too.
        whole = read(WorkingContext.raw(len(history), K), memory, history[:0], policy)
        found[-1] += (logits(bundle, whole)[:, :prefix],)
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one, other)


def test_changing_one_token_changes_its_block_its_ancestors_and_nothing_before(encoder):
    ids = ids_of(3 * K * K)
    changed_at = K * K + 3 * K + 2
    other = ids.copy()
    other[changed_at] += 1
    one, two = (Memory.create(None, encoder.identity(), encoder) for _ in range(2))
    one.append(ids)
    two.append(other)
    for lod in (1, 2):
        nodes = np.arange(one.count(lod))
        differ = (one.gists(lod, nodes) != two.gists(lod, nodes)).any(axis=1)
        assert np.flatnonzero(differ).tolist() == [changed_at // K**lod]
    differ = np.flatnonzero((one.addresses() != two.addresses()).any(axis=1))
    assert differ.min() == changed_at // K and differ.max() <= changed_at // K + 1
