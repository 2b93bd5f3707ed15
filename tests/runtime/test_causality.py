"""Nothing that is read for a token depends on a later one: through gists of any level, batches and cache, to the bit.

A history is changed in one token, its tree is built again, and all rows of the timeline that end before that token are
compared: what the model makes of them must be equal bit for bit.
"""

import numpy as np
import pytest
import torch
from toys import ids_of

from megacontext.config import data_root
from megacontext.focus import Edit, WorkingContext
from megacontext.runtime.bundle import Bundle
from megacontext.runtime.context_cache import ContextCache
from megacontext.runtime.encoding import BundleEncoder
from megacontext.runtime.reading import read, stack
from megacontext.tree import Memory

PROMPT = ids_of(3, seed=5)


@pytest.fixture(scope="module")
def shipped():
    """The tiny model, with blocks of 32."""
    return Bundle.load(data_root() / "tiny")


def contexts(num_tokens, size, changed):
    """The coarsest cover, one opened around the changed token, and, where that is small, all tokens."""
    cover = opened = WorkingContext.cover(num_tokens, size)
    while True:
        slot = int(opened.slot_of(np.array([changed]))[0])
        if opened.lod[slot] == 0:
            break
        opened = opened.edited([Edit("expand", slot)])
    return [cover, opened, *([WorkingContext.raw(num_tokens, size)] if num_tokens < 300 else [])]


def reading_of(bundle, ids, context):
    encoder = BundleEncoder(bundle)
    memory = Memory.create(None, encoder.identity(), encoder)
    memory.append(ids)
    return read(context, memory, PROMPT, bundle.config.positions)


@torch.inference_mode()
def at_once(bundle, reading):
    """Hidden states of a batch of two: the reading, and a longer one beside it."""
    other = reading_of(bundle, ids_of(bundle.config.block_size * 3 + 1, seed=8), WorkingContext.raw(
        bundle.config.block_size * 3 + 1, bundle.config.block_size))  # fmt: skip
    batch = stack([reading, other], bundle.base)
    hidden = bundle.base(batch.embeddings, batch.positions, ids=batch.ids, padding=batch.padding)
    return hidden[0, -reading.cost :]


@torch.inference_mode()
def from_the_cache(bundle, reading, pieces):
    """Keys and values of all rows, read in pieces on top of one another."""
    cache = bundle.base.reserve(1, reading.cost)
    batch = stack([reading], bundle.base)
    for start in range(0, reading.cost, pieces):
        span = slice(start, start + pieces)
        bundle.base(batch.embeddings[:, span], batch.positions[:, span], ids=batch.ids[:, span], cache=cache)
    return torch.stack([*cache.keys, *cache.values])[:, 0]  # (2 L, W, Hkv, D)


def assert_causal(bundle, num_tokens, changed, *, batched):
    ids = ids_of(num_tokens)
    other = ids.copy()
    other[changed] = (ids[changed] + 1) % 500
    for context in contexts(num_tokens, bundle.config.block_size, changed):
        readings = [reading_of(bundle, row, context) for row in (ids, other)]
        width = bundle.config.block_size ** readings[0].rows.lod
        before = int(((readings[0].rows.index + 1) * width <= changed).sum())
        ends = (readings[0].rows.index + 1) * width
        assert (ends[:before] <= changed).all(), "in the timeline they all come first"
        if batched:
            one, two = (at_once(bundle, reading) for reading in readings)
            assert torch.equal(one[:before], two[:before])
            assert not torch.equal(one[before:], two[before:]), "the change is seen where it may be"
        else:
            one, two = (from_the_cache(bundle, reading, 7) for reading in readings)
            assert torch.equal(one[:, :before], two[:, :before])
            assert not torch.equal(one[:, before:], two[:, before:])


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("num_tokens", [72, 77, 140])
def test_at_every_offset_of_a_block_and_around_the_second_level(num_tokens, batched, bundle):
    for changed in range(55, 72):
        assert_causal(bundle, num_tokens, changed, batched=batched)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("changed", [1022, 1023, 1024, 1025, 1056])
def test_around_a_thousand_tokens_with_blocks_of_32(changed, batched, shipped):
    assert_causal(shipped, 1061, changed, batched=batched)


def test_what_the_cache_holds_before_a_change_is_true_after_it(bundle):
    """An append that finishes a block adds ancestors; rows in front of them stay as they were, to the bit."""
    ids = ids_of(80)
    encoder = BundleEncoder(bundle)
    memory = Memory.create(None, encoder.identity(), encoder)
    memory.append(ids[:63])
    cache, size = ContextCache(bundle.base, 200), bundle.config.block_size
    cache.read(read(WorkingContext.cover(63, size), memory, PROMPT[:0], "context"))
    held = [keys[:, : len(cache)].clone() for keys in cache._cache.keys]
    rows = len(cache)
    memory.append(ids[63:])
    report = cache.read(read(WorkingContext.cover(63, size).extend(80), memory, PROMPT[:0], "context"))
    assert report.reused == rows
    assert all(
        torch.equal(keys[:, :rows], before) for keys, before in zip(cache._cache.keys, held, strict=True)
    )
