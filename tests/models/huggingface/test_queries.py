"""Watched queries, held against the keys in the cache, give the attention that the decoder itself reports."""

import pytest
import torch
from hf_toys import CONFIGS, VOCABULARY, base_of, causal_lm

from megacontext.errors import CheckpointError
from megacontext.models.entries import take_entries
from megacontext.models.huggingface import HuggingFaceBase
from megacontext.models.huggingface.queries import QueryWatch

W = 9


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_they_are_what_attention_is_made_of(name):
    config_class, shape = CONFIGS[name]
    model = causal_lm(config_class, **shape)
    model.set_attn_implementation("eager")
    base, ids = (
        HuggingFaceBase(model),
        torch.randint(VOCABULARY, (1, W), generator=torch.Generator().manual_seed(3)),
    )
    places = torch.arange(W)[None].double()
    cache = base.reserve(1, W)
    with torch.inference_mode(), QueryWatch(base) as watch:
        base(base.embed(ids), places, ids=ids, cache=cache)
        keys = take_entries(base, cache, 0, W, places).keys  # (L, 1, W, Hkv, D)
        reported = model(ids, output_attentions=True, use_cache=False).attentions
        base(base.embed(ids), places, ids=ids, cache=base.reserve(1, W))
    layers, heads, _ = base.entry_shape
    for layer in range(layers):
        asked = watch.queries(layer)  # (W, H, D)
        groups = asked.shape[1] // heads
        turned = base.turn(asked, places[0][:, None].expand(W, asked.shape[1]))
        held = base.turn(keys[layer, 0], places[0][:, None].expand(W, heads)).repeat_interleave(groups, dim=1)
        logits = torch.einsum("qhd,shd->hqs", turned, held)
        mask = torch.ones(W, W, dtype=torch.bool).tril()
        found = logits.masked_fill(~mask, float("-inf")).softmax(dim=-1)
        torch.testing.assert_close(found, reported[layer][0], atol=1e-5, rtol=1e-4)


def test_a_decoder_without_query_maps_of_its_own_is_refused():
    with pytest.raises(CheckpointError, match="a map q_proj"):
        QueryWatch(base_of("gpt2"))
