"""Keys and values taken out of a frozen decoder's cache stand for what was read, wherever they are put."""

import pytest
import torch
from hf_toys import VOCABULARY, base_of

from megacontext.errors import ShapeError
from megacontext.models.entries import CacheEntries, entry_width, put_entries, take_entries

CLOSE = {"atol": 3e-5, "rtol": 0}
W = 12


@pytest.fixture(scope="module", params=["llama", "llama3-rope", "qwen2", "qwen3", "mistral", "gemma2"])
def base(request):
    return base_of(request.param)


def ids(count, rows=2, seed=0):
    return torch.randint(VOCABULARY, (rows, count), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def read(base, cache, tokens, first):
    where = first + torch.arange(tokens.shape[1])[None].double()
    return base(base.embed(tokens), where, ids=tokens, cache=cache)


@pytest.mark.parametrize("shift", [0, 37, -5])
def test_what_was_taken_and_put_is_read_as_if_it_had_been_read_there(shift, base):
    tokens, whole = ids(W), base.reserve(2, W)
    plain = read(base, whole, tokens, 50)
    taken = take_entries(base, whole, 0, 8, 50 + torch.arange(8)[None].double())
    packed = taken.packed()
    assert packed.shape == (2, 8, entry_width(base))
    cache = base.reserve(2, W)
    put_entries(base, cache, CacheEntries.unpacked(packed, base), 50 + shift + torch.arange(8)[None].double())
    assert cache.length == 8
    found = read(base, cache, tokens[:, 8:], 58 + shift)
    torch.testing.assert_close(found, plain[:, 8:], **CLOSE)


@torch.inference_mode()
def test_they_may_stand_behind_and_between_what_is_read(base):
    tokens, whole = ids(W), base.reserve(2, W)
    plain = read(base, whole, tokens, 0)
    middle = take_entries(base, whole, 4, 8, torch.arange(4, 8)[None].double())
    cache = base.reserve(2, W)
    read(base, cache, tokens[:, :4], 0)
    put_entries(base, cache, middle, torch.arange(4, 8)[None].double())
    torch.testing.assert_close(read(base, cache, tokens[:, 8:], 8), plain[:, 8:], **CLOSE)


def test_a_turn_forward_and_back_changes_nothing(base):
    layers, heads, width = base.entry_shape
    keys = torch.randn(layers, 2, 5, heads, width, generator=torch.Generator().manual_seed(1))
    places = torch.rand(layers, 2, 5, heads, generator=torch.Generator().manual_seed(2)) * 400
    turned = base.turn(keys, places)
    torch.testing.assert_close(turned.norm(dim=-1), keys.norm(dim=-1), **CLOSE)
    torch.testing.assert_close(base.turn(turned, -places), keys, atol=1e-4, rtol=0)
    assert (turned - keys).abs().max() > 0.1


def test_gradients_reach_what_was_put(base):
    layers, heads, width = base.entry_shape
    keys = torch.randn(layers, 2, 3, heads, width, requires_grad=True)
    values = torch.randn(layers, 2, 3, heads, width, requires_grad=True)
    cache, tokens = base.reserve(2, W), ids(5)
    put_entries(base, cache, CacheEntries(keys, values), torch.arange(3)[None].double())
    hidden = base(base.embed(tokens), 3 + torch.arange(5)[None].double(), ids=tokens, cache=cache)
    base.unembed(hidden).square().mean().backward()
    for grad in (keys.grad, values.grad):
        assert grad.isfinite().all() and (grad.abs().amax(dim=(1, 2, 3, 4)) > 0).all()


@pytest.mark.parametrize("name", ["gpt2", "gemma3", "ministral3", "dynamic-rope"])
def test_models_whose_positions_no_turn_can_change_refuse(name):
    base = base_of(name)
    with pytest.raises(ShapeError, match="need plain rotary positions, the same"):
        entry_width(base)
