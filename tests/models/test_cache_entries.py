"""A cache that is cut, in rows side by side, with padding and entries of both kinds; entries that do not belong."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from toys import ids_of, model_config, stir

from megacontext.errors import ShapeError
from megacontext.models.entries import CacheEntries, entry_width, put_entries, take_entries
from megacontext.models.gpt import GPT, NO_TOKEN

B, ROOM = 3, 40


def made(dialect, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT(model_config(dialect=dialect, **changes))
    stir(model, 0)
    return model.eval()


@pytest.fixture(scope="module", params=["classic", "2026-01-16", "current"])
def model(request):
    return made(request.param, n_kv_head=1)


def rows(seed, count):
    """Ids (B, count) of tokens and gists, embeddings for both."""
    ids = torch.from_numpy(ids_of(B * count, seed=seed).astype("int64")).view(B, count)
    return torch.where(torch.arange(B * count).view(B, count) * 7 % 5 == seed % 5, NO_TOKEN, ids)


@torch.inference_mode()
def run(model, cache, ids, padding=None):
    """Hidden states of rows that follow what the cache holds; a gist is a vector of its place and row."""
    where = torch.arange(cache.length, cache.length + ids.shape[1])[None]
    gists = torch.sin(torch.arange(1.0, model.width + 1) * (where[0, :, None] + 1))
    embeddings = torch.where((ids >= 0)[..., None], model.embed(ids.clamp_min(0)), gists)
    return model(embeddings, where, ids=ids, padding=padding, cache=cache)


@torch.inference_mode()
def random_entries(model, count, seed):
    packed = torch.randn(B, count, entry_width(model), generator=torch.Generator().manual_seed(seed))
    return CacheEntries.unpacked(packed, model)


TURNS = st.lists(
    st.tuples(
        st.sampled_from(["read", "words", "padded", "put", "cut"]), st.integers(0, 6), st.integers(0, 3)
    ),
    min_size=1,
    max_size=10,
)


@given(turns=TURNS, padded=st.integers(0, 2))
@example(turns=[("put", 1, 0), ("cut", 1, 0), ("words", 1, 0)], padded=0)
@example(turns=[("padded", 1, 0), ("cut", 1, 0), ("put", 1, 0)], padded=0)
@settings(max_examples=40)
def test_a_cache_that_was_cut_and_written_again_holds_what_a_new_one_would(turns, padded, model):
    """Rows side by side, one of them padded in front; then any order of reading, putting and cutting.

    Read are gists and tokens, tokens alone, or padding in one of the rows: what a cut took away was often another.
    """
    cache, kept = model.reserve(B, ROOM), []
    padding = torch.zeros(B, 3, dtype=torch.bool)
    padding[1, :padded] = True
    run(model, cache, rows(1, 3), padding)
    for what, count, seed in turns:
        if what == "cut":
            length = max(3, cache.length - count)
            cache.truncate(length)
            while sum(size for _, size, _ in kept) + 3 > length:
                kind, size, at = kept.pop()
                left = length - 3 - sum(one for _, one, _ in kept)
                if 0 < left < size:
                    kept.append((kind, left, at))
        elif cache.length + count < ROOM - 1 and count:
            write(model, cache, what, count, seed)
            kept.append((what, count, seed))
    # The last reading attends to everything, whatever was written and cut before it.
    fresh = model.reserve(B, ROOM)
    run(model, fresh, rows(1, 3), padding)
    for what, count, seed in kept:
        write(model, fresh, what, count, seed)
    assert fresh.length == cache.length
    last = rows(2, 1)
    torch.testing.assert_close(run(model, cache, last), run(model, fresh, last), atol=1e-5, rtol=0)


@torch.inference_mode()
def write(model, cache, what, count, seed):
    """The first `count` of a stretch that depends on its seed alone, so that a part of it is its beginning."""
    mixed = rows(seed, 6)[:, :count]
    if what == "read":
        run(model, cache, mixed)
    elif what == "words":
        run(model, cache, mixed.clamp_min(0))
    elif what == "padded":
        run(model, cache, mixed, torch.tensor([[False], [False], [True]]).expand(B, count))
    else:
        entries = random_entries(model, 6, seed)
        cut = CacheEntries(entries.keys[:, :, :count], entries.values[:, :, :count])
        put_entries(model, cache, cut, torch.arange(cache.length, cache.length + count)[None])


def test_rows_side_by_side_take_and_put_their_own_entries_at_their_own_positions():
    model = made("classic")
    ids = rows(3, 12).clamp_min(0)
    apart = torch.tensor([[0.0], [100.0], [7.5]]) + torch.arange(12.0)
    with torch.inference_mode():
        whole, cache = model.reserve(B, ROOM), model.reserve(B, ROOM)
        plain = model(model.embed(ids), apart, ids=ids, cache=whole)
        entries = take_entries(model, whole, 2, 9, apart[:, 2:9])
        moved = apart + 1000
        model(model.embed(ids[:, :2]), moved[:, :2], ids=ids[:, :2], cache=cache)
        put_entries(model, cache, entries, moved[:, 2:9])
        found = model(model.embed(ids[:, 9:]), moved[:, 9:], ids=ids[:, 9:], cache=cache)
    torch.testing.assert_close(found, plain[:, 9:], atol=1e-5, rtol=0)


def test_no_entries_are_put_as_no_entries(model):
    cache = model.reserve(B, 4)
    put_entries(model, cache, random_entries(model, 0, 1), torch.zeros(1, 0))
    assert cache.length == 0
    ids = rows(1, 4)
    torch.testing.assert_close(
        run(model, cache, ids), run(model, model.reserve(B, 4), ids), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda entries: CacheEntries(entries.keys[:1], entries.values[:1]),
        lambda entries: CacheEntries(entries.keys[..., :1], entries.values[..., :1]),
        lambda entries: CacheEntries(entries.keys[:, :, :, :1], entries.values[:, :, :, :1]),
        lambda entries: CacheEntries(entries.keys, entries.values[:, :, :1]),
        lambda entries: CacheEntries(entries.keys[0], entries.values[0]),
    ],
    ids=["a layer less", "narrower heads", "a head less", "fewer values", "one layer"],
)
def test_entries_that_would_only_fit_by_being_repeated_are_refused(change):
    model = made("classic")
    cache = model.reserve(B, ROOM)
    run(model, cache, rows(1, 3))
    with pytest.raises(ShapeError, match="use those that were made with this base model"):
        put_entries(model, cache, change(random_entries(model, 2, 1)), torch.arange(2.0)[None])
    assert cache.length == 3


@pytest.mark.parametrize("shape", [(1, 3), (2, 2), (2,), (1, 1), (1, 2, 1)])
def test_positions_that_are_not_the_entries_own_are_refused(shape, model):
    cache = model.reserve(B, ROOM)
    run(model, cache, rows(1, 3))
    with pytest.raises(ShapeError, match=r"positions \(B or 1, n\)"):
        put_entries(model, cache, random_entries(model, 2, 1), torch.zeros(shape))
    with pytest.raises(ShapeError, match=r"positions \(B or 1, n\)"):
        take_entries(model, cache, 0, 2, torch.zeros(shape))
    assert cache.length == 3


@pytest.mark.parametrize("span", [(-1, 2), (2, 1), (0, 4)])
def test_entries_that_are_not_there_cannot_be_taken(span, model):
    cache = model.reserve(B, ROOM)
    run(model, cache, rows(1, 3))
    with pytest.raises(ShapeError, match="a cache of 3 entries has no entries"):
        take_entries(model, cache, *span, torch.zeros(1, 2))
    with pytest.raises(ShapeError, match="is cut to no more than it holds, got -1"):
        cache.truncate(-1)
