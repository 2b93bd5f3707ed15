"""Entries that are keys and values: put where they were taken from they change nothing, and no edit changes them."""

import pytest
import torch
from toys import ids_of, model_config, stir

from megacontext.errors import ShapeError
from megacontext.models.entries import CacheEntries, entry_width, put_entries, take_entries
from megacontext.models.gpt import GPT, NO_TOKEN

W = 24


@pytest.fixture(scope="module", params=["classic", "2026-01-11", "current"])
def model(request):
    model = GPT(model_config(dialect=request.param, n_kv_head=1)).eval()
    stir(model, seed=2)
    return model


@torch.inference_mode()
def run(model, cache, ids, start):
    positions = torch.arange(start, start + ids.shape[1])[None]
    return model.unembed(model(model.embed(ids), positions, ids=ids, cache=cache))


@torch.inference_mode()
def with_entries(model, ids, start, stop, *, shift=0, at=None):
    """Logits behind entries [start, stop), which are put as keys and values taken from a plain reading."""
    whole = model.reserve(1, W)
    run(model, whole, ids, 0)
    entries = take_entries(model, whole, start, stop, torch.arange(start, stop)[None])
    cache = model.reserve(1, W)
    if start:
        run(model, cache, ids[:, :start], shift)
    put_entries(model, cache, entries, torch.arange(start, stop)[None] + shift)
    return run(model, cache, ids[:, stop:], stop + shift), entries


@pytest.mark.parametrize(("start", "stop"), [(0, 8), (5, 6), (8, 16)])
@pytest.mark.parametrize("shift", [0, 1000])
def test_a_tokens_own_keys_and_values_stand_for_it(start, stop, shift, model):
    ids = torch.from_numpy(ids_of(W).astype("int64"))[None]
    plain = run(model, model.reserve(1, W), ids, 0)
    found, _ = with_entries(model, ids, start, stop, shift=shift)
    if model.dialect.smear:
        # The token behind an entry takes nothing from it: smear goes from token to token. Without smear it is exact.
        assert not torch.allclose(found[:, 0], plain[:, stop], atol=1e-4)
        quiet = GPT(model.config).eval()
        quiet.load_state_dict(model.state_dict())
        with torch.no_grad():
            quiet.smear_lambda.zero_()
        plain = run(quiet, quiet.reserve(1, W), ids, 0)
        found, _ = with_entries(quiet, ids, start, stop, shift=shift)
    torch.testing.assert_close(found, plain[:, stop:], atol=1e-5, rtol=0)


def test_packed_and_unpacked_they_are_the_same(model):
    ids = torch.from_numpy(ids_of(W).astype("int64"))[None]
    _, entries = with_entries(model, ids, 3, 9)
    packed = entries.packed()
    assert packed.shape == (1, 6, entry_width(model))
    again = CacheEntries.unpacked(packed, model)
    assert torch.equal(again.keys, entries.keys) and torch.equal(again.values, entries.values)
    with pytest.raises(ShapeError, match=f"has {entry_width(model)} numbers"):
        CacheEntries.unpacked(packed[..., 1:], model)


def test_an_edit_in_front_changes_no_entry_and_an_entry_changes_what_follows(model):
    ids = torch.from_numpy(ids_of(W).astype("int64"))[None]
    whole = model.reserve(1, W)
    run(model, whole, ids, 0)
    entries = take_entries(model, whole, 8, 12, torch.arange(8, 12)[None])
    caches, logits = [], []
    for first, scale in ((ids[:, :8], 1.0), ((ids[:, :8] + 1) % 500, 1.0), (ids[:, :8], -1.0)):
        cache = model.reserve(1, W)
        with torch.inference_mode():
            before = run(model, cache, first, 0)
            put_entries(
                model, cache, CacheEntries(entries.keys, entries.values * scale), torch.arange(8, 12)[None]
            )
            logits.append((before, run(model, cache, ids[:, 12:], 12)))
        caches.append(cache)
    for layer in range(model.config.n_layer):
        assert torch.equal(caches[0].keys[layer][:, 8:12], caches[1].keys[layer][:, 8:12])
        assert torch.equal(caches[0].values[layer][:, 8:12], caches[1].values[layer][:, 8:12])
    assert torch.equal(logits[0][0], logits[2][0]) and not torch.allclose(
        logits[0][1], logits[2][1], atol=1e-3
    )


def test_both_kinds_of_gists_mix_with_tokens_in_one_context(model):
    ids = torch.from_numpy(ids_of(W).astype("int64"))[None]
    _, entries = with_entries(model, ids, 4, 6)
    gist = torch.randn(1, 1, model.config.n_embd, generator=torch.Generator().manual_seed(0))
    row = torch.cat((ids[:, :3], torch.tensor([[NO_TOKEN]]), ids[:, 6:10]), dim=1)
    with torch.inference_mode():
        embeddings = torch.cat((model.embed(ids[:, :3]), gist, model.embed(ids[:, 6:10])), dim=1)
        found = []
        for pieces in ((4, 4), (2, 2, 1, 3)):
            cache, at, told = model.reserve(1, W), 0, []
            for size in pieces:
                if at == 4:
                    put_entries(model, cache, entries, torch.tensor([[4, 5]]))
                where = torch.arange(at, at + size)[None] + (2 if at >= 4 else 0)
                told.append(
                    model(embeddings[:, at : at + size], where, ids=row[:, at : at + size], cache=cache)
                )
                at += size
            found.append(torch.cat(told, dim=1))
    torch.testing.assert_close(*found, atol=1e-5, rtol=0)


def test_what_has_no_room_or_is_not_there_is_refused(model):
    ids = torch.from_numpy(ids_of(W).astype("int64"))[None]
    _, entries = with_entries(model, ids, 3, 9)
    small = model.reserve(1, 5)
    with pytest.raises(ShapeError, match="5 entries in 1 rows, got 6 for 1 rows on top of 0"):
        put_entries(model, small, entries, torch.arange(6)[None])
    with pytest.raises(ShapeError, match=r"a cache of 0 entries has no entries \[0, 2\)"):
        take_entries(model, small, 0, 2, torch.arange(2)[None])


@pytest.mark.parametrize("kept", [0, 1, 7, 23])
def test_a_cache_that_was_cut_goes_on_as_if_it_had_never_read_further(kept, model):
    ids = torch.from_numpy(ids_of(W).astype("int64"))[None]
    plain = run(model, model.reserve(1, W), ids, 0)
    cache = model.reserve(1, W)
    run(model, cache, (ids + 3) % 500, 0)
    cache.truncate(0)
    if kept:
        run(model, cache, ids[:, :kept], 0)
        run(model, cache, (ids[:, kept:] + 1) % 500, kept)
    cache.truncate(kept)
    torch.testing.assert_close(run(model, cache, ids[:, kept:], kept), plain[:, kept:], atol=1e-5, rtol=0)
    with pytest.raises(
        ShapeError, match=f"a cache of {W} entries is cut to no more than it holds, got {W + 1}"
    ):
        cache.truncate(W + 1)
