"""The mass of a watched pass is what the layers' own softmax gives, and watching changes nothing."""

import pytest
import torch
from toys import model_config, stir

from megacontext.errors import ConfigError
from megacontext.models import windows
from megacontext.models.attention_mass import AttentionWatch
from megacontext.models.dialect import DIALECTS
from megacontext.models.gpt import GPT, NO_TOKEN

W, LONG = 23, 150


@pytest.fixture(scope="module", params=[*DIALECTS.names(), "current windowed"])
def model(request):
    windows = {"window_pattern": "SL", "sequence_len": 512} if "windowed" in request.param else {}
    model = GPT(model_config(dialect=request.param.split()[0], n_kv_head=1, **windows)).eval()
    stir(model, seed=1, scale=0.2)
    return model


def reading(model, entries, batch=2):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (batch, entries), generator=generator)
    embeddings = model.embed(ids).detach().clone()
    embeddings[:, -2], ids[:, -2] = 0.5, NO_TOKEN
    return embeddings, torch.arange(entries, dtype=torch.float64)[None], ids


@pytest.fixture
def probabilities(monkeypatch):
    """What attention spreads in each layer that runs, (B, H, W, S), by the operands that it is given."""
    seen = []
    real = windows.F.scaled_dot_product_attention

    def spying(q, k, v, attn_mask=None, is_causal=False, scale=None, enable_gqa=False):
        keys = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        logits = q @ keys.transpose(-1, -2) * scale
        allowed = torch.ones(logits.shape[-2:], dtype=torch.bool).tril() if is_causal else attn_mask
        if allowed is not None:
            logits = logits.masked_fill(~allowed, float("-inf"))
        seen.append(logits.softmax(dim=-1))
        return real(q, k, v, attn_mask=attn_mask, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa)

    monkeypatch.setattr(windows.F, "scaled_dot_product_attention", spying)
    return seen


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    ("entries", "queries", "watched"), [(W, 4, None), (W, 1, 1), (3, 8, None), (LONG, 5, None)]
)
@torch.inference_mode()
def test_the_mass_is_the_mean_of_what_the_layers_spread(
    model, entries, queries, watched, padded, probabilities
):
    embeddings, positions, ids = reading(model, entries)
    padding = None
    if padded:
        padding = torch.zeros(2, entries, dtype=torch.bool)
        padding[1, :2] = True
    cache = model.reserve(2, entries)
    with AttentionWatch(model, queries=queries, layers=watched) as watch:
        model(embeddings, positions, ids=ids, padding=padding, cache=cache)
    expected = torch.zeros(2, entries)
    chosen = probabilities[-(watched or len(probabilities)) :]
    for spread in chosen:
        expected[:, entries - spread.shape[-1] :] += spread[:, :, -queries:].mean(dim=(1, 2)) / len(chosen)
    mass = watch.mass(cache)
    torch.testing.assert_close(mass, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mass.sum(dim=1), torch.ones(2))


@torch.inference_mode()
def test_a_decoding_step_can_be_watched_too(model, probabilities):
    embeddings, positions, ids = reading(model, LONG, batch=1)
    cache = model.reserve(1, LONG)
    model(embeddings[:, :-1], positions[:, :-1], ids=ids[:, :-1], cache=cache)
    probabilities.clear()
    with AttentionWatch(model) as watch:
        model(embeddings[:, -1:], positions[:, -1:], ids=ids[:, -1:], cache=cache)
    expected = torch.zeros(1, LONG)
    for spread in probabilities:
        expected[:, LONG - spread.shape[-1] :] += spread.mean(dim=(1, 2)) / len(probabilities)
    torch.testing.assert_close(watch.mass(cache), expected, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_watching_changes_no_bit_and_ends_with_the_block(model):
    embeddings, positions, ids = reading(model, W)
    before = model(embeddings, positions, ids=ids)
    with AttentionWatch(model) as watch:
        during = model(embeddings, positions, ids=ids, cache=(cache := model.reserve(2, W)))
    assert torch.equal(during, model(embeddings, positions, ids=ids, cache=model.reserve(2, W)))
    assert torch.equal(before, model(embeddings, positions, ids=ids))
    mass = watch.mass(cache)
    model(embeddings + 1, positions, ids=ids)
    assert torch.equal(mass, watch.mass(cache)), "a pass after the block is not watched"
    assert not any(block.attn._forward_pre_hooks for block in model.transformer["h"])


@torch.inference_mode()
def test_a_mass_belongs_to_a_pass(model):
    embeddings, positions, ids = reading(model, W)
    cache = model.reserve(2, W + 1)
    with AttentionWatch(model) as watch:
        with pytest.raises(ConfigError, match="none was made inside it"):
            watch.mass(cache)
        model(embeddings, positions, ids=ids, cache=cache)
    model(embeddings[:, :1], positions[:, -1:] + 1, ids=ids[:, :1], cache=cache)
    with pytest.raises(ConfigError, match="ask before more is read"):
        watch.mass(cache)
    for wrong in ({"queries": 0}, {"layers": 0}, {"layers": 3}):
        with pytest.raises(ConfigError, match="queries >= 1 and 1 to 2 layers"):
            AttentionWatch(model, **wrong)
