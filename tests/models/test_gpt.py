"""Mixed contexts of tokens and gists: causal to the last bit, and refused when their shapes do not fit."""

import numpy as np
import pytest
import torch
from toys import model_config, stir

from megacontext.errors import ConfigError, ShapeError, UnknownVariantError
from megacontext.models.base import BaseModel
from megacontext.models.dialect import DIALECTS
from megacontext.models.gpt import GPT, NO_TOKEN, GPTConfig, KVCache
from megacontext.models.positions import entry_positions

W = 40
GISTS = [0, 3, 4, 17, 38]


@pytest.fixture(scope="module", params=[*DIALECTS.names(), "current windowed"])
def model(request):
    dialect = request.param.split()[0]
    # 128 is the shortest window that nanochat has; W must reach beyond it to see it at work.
    windows = {"window_pattern": "SL", "sequence_len": 512} if "windowed" in request.param else {}
    model = GPT(model_config(dialect=dialect, n_kv_head=1, **windows)).eval()
    stir(model, seed=1, scale=0.2)
    return model


@pytest.fixture(scope="module")
def width(model):
    return W if model.config.window_pattern == "L" else 128 + W


def mixed(model, width, gists=GISTS, seed=0):
    """Embeddings (1, W, E), ids and positions with gists at some places."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(model.config.vocab_size, (1, width), generator=generator)
    embeddings = model.embed(ids).detach()
    vectors = torch.randn(len(gists), model.config.n_embd, generator=generator)
    embeddings[0, gists], ids[0, gists] = vectors, NO_TOKEN
    return embeddings, ids


@torch.inference_mode()
def logits(model, embeddings, ids, positions=None):
    if positions is None:
        positions = torch.arange(ids.shape[1])[None]
    return model.unembed(model(embeddings, positions, ids=ids))


def test_no_later_entry_changes_an_earlier_logit_by_a_bit(model, width):
    embeddings, ids = mixed(model, width)
    before = logits(model, embeddings, ids)
    for changed in range(width):
        other, other_ids = embeddings.clone(), ids.clone()
        if ids[0, changed] == NO_TOKEN:
            other[0, changed] += 1
        else:
            other_ids[0, changed] = (ids[0, changed] + 1) % model.config.vocab_size
            other[0, changed] = model.embed(other_ids[0, changed]).detach()
        after = logits(model, other, other_ids)
        assert torch.equal(after[:, :changed], before[:, :changed]), changed
        assert not torch.equal(after[:, changed:], before[:, changed:]), changed


def test_a_gist_changes_the_logits_from_its_place_on_and_none_before(model, width):
    embeddings, ids = mixed(model, width, gists=[])
    plain = logits(model, embeddings, ids)
    gist = embeddings.clone(), ids.clone()
    gist[0][0, 17], gist[1][0, 17] = torch.randn(model.config.n_embd), NO_TOKEN
    read = logits(model, *gist)
    assert torch.equal(read[:, :17], plain[:, :17])
    assert (read[:, 17:] != plain[:, 17:]).any(dim=-1)[:, : W - 17].all()


def test_what_a_gist_holds_reaches_what_comes_after_it(model, width):
    embeddings, ids = mixed(model, width)
    other = embeddings.clone()
    other[0, 3] *= -1
    assert not torch.allclose(logits(model, embeddings, ids)[:, 5:20], logits(model, other, ids)[:, 5:20])


def test_smear_goes_from_token_to_token_and_neither_into_nor_out_of_a_gist():
    model = GPT(model_config(n_kv_head=1)).eval()
    stir(model, seed=1, scale=0.2)
    with torch.no_grad():
        for block in model.transformer["h"]:
            block.attn.c_proj.weight.zero_()  # so that nothing but smear carries anything from place to place
    embeddings, ids = mixed(model, W)
    before = logits(model, embeddings, ids)
    for changed in range(W - 1):
        other = embeddings.clone()
        other[0, changed] *= -1
        moved = (logits(model, other, ids) != before).any(dim=-1)[0].nonzero().flatten().tolist()
        both_tokens = changed not in GISTS and changed + 1 not in GISTS
        assert moved == ([changed, changed + 1] if both_tokens else [changed])


def test_a_gist_has_no_value_embedding():
    model = GPT(model_config(n_kv_head=1)).eval()
    stir(model, seed=1, scale=0.2)
    embeddings, ids = mixed(model, W)
    ids[ids == 0] = 1
    before = logits(model, embeddings, ids)
    with torch.no_grad():
        for table in model.value_embeds.values():
            table.weight[0] += 10  # the row of id 0, which stands for gists inside
            table.weight[-1] += 10
    assert torch.equal(logits(model, embeddings, ids), before)


def test_entries_without_ids_are_all_gists(model, width):
    embeddings, ids = mixed(model, width)
    everything = torch.full_like(ids, NO_TOKEN)
    with torch.inference_mode():
        anonymous = model.unembed(model(embeddings, torch.arange(width)[None]))
    assert torch.equal(anonymous, logits(model, embeddings, everything))


def test_a_mixed_context_decodes_from_the_cache_as_it_is_read_at_once(model, width):
    embeddings, ids = mixed(model, width)
    expected = logits(model, embeddings, ids)
    for pieces in ([1] * width, [17, 1, width - 18], [4, width - 4]):
        cache, past, found = KVCache.reserve(model.config, 1, width, embeddings), 0, []
        with torch.inference_mode():
            for piece in pieces:
                span = slice(past, past + piece)
                positions = torch.arange(past, past + piece)[None]
                found.append(
                    model.unembed(model(embeddings[:, span], positions, ids=ids[:, span], cache=cache))
                )
                past += piece
        torch.testing.assert_close(torch.cat(found, dim=1), expected, atol=1e-5, rtol=0)


def test_only_distances_between_positions_count(model, width):
    embeddings, ids = mixed(model, width)
    positions = torch.sort(torch.rand(1, width, dtype=torch.float64) * 100).values
    torch.testing.assert_close(
        logits(model, embeddings, ids, positions),
        logits(model, embeddings, ids, positions + 12_345.5),
        atol=1e-5,
        rtol=0,
    )
    assert not torch.allclose(
        logits(model, embeddings, ids, positions), logits(model, embeddings, ids, positions * 3), atol=1e-4
    )


@pytest.mark.parametrize(
    ("dialect", "pattern", "sequence_len", "windows"),
    [
        ("current", "S", 512, (128, 128, 512)),
        ("current", "SL", 512, (128, 512, 512)),
        ("current", "LSS", 512, (512, 128, 512)),
        ("current", "L", 512, (512, 512, 512)),
        ("current", "S", 513, (256, 256, 513)),
        ("2026-03-09", "S", 384, (128, 128, 384)),
        ("2026-03-09", "S", 385, (256, 256, 385)),
        ("2026-03-02", "S", 301, (150, 150, 301)),
        ("2026-01-16", "SSSL", 2048, (1024, 1024, 2048)),
        ("2026-01-11", "S", 1, (0, 0, 1)),
        ("2025-12-09", "L", 512, (None, None, None)),
        ("classic", "L", 512, (None, None, None)),
    ],
)
def test_windows_follow_the_pattern_and_the_last_layer_is_long(dialect, pattern, sequence_len, windows):
    config = model_config(dialect=dialect, window_pattern=pattern, sequence_len=sequence_len, n_layer=3)
    assert GPT(config).windows == windows


def test_logits_are_capped_and_float32_and_one_for_each_id_of_the_vocabulary(model):
    found = model.unembed(torch.randn(2, 3, model.config.n_embd, dtype=torch.float32) * 1e4)
    assert found.dtype == torch.float32 and found.shape == (2, 3, model.config.vocab_size)
    assert found.abs().max() <= model.dialect.softcap


@pytest.mark.parametrize(
    ("changed", "shape"),
    [
        ("embeddings", (1, W, 31)),
        ("embeddings", (W, 32)),
        ("positions", (1, W - 1)),
        ("positions", (W,)),
        ("ids", (1, W + 1)),
        ("padding", (2, W)),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(model, changed, shape):
    given = {
        "embeddings": torch.zeros(1, W, 32),
        "positions": torch.zeros(1, W),
        "ids": torch.zeros(1, W, dtype=torch.long),
        "padding": torch.zeros(1, W, dtype=torch.bool),
    }
    given[changed] = torch.zeros(shape, dtype=given[changed].dtype)
    with pytest.raises(
        ShapeError, match=r"needs embeddings \(B, W, 32\) and positions, ids and padding \(B, W\)"
    ):
        model(given["embeddings"], given["positions"], ids=given["ids"], padding=given["padding"])


def test_it_offers_what_a_base_model_must(model):
    def decode(base: BaseModel) -> torch.Tensor:
        ids, cache = torch.zeros(2, 3, dtype=torch.long), base.reserve(2, 3)
        assert cache.length == 0 and base.embed(ids).shape == (2, 3, base.width)
        logits = base.unembed(base(base.embed(ids), torch.arange(3)[None], ids=ids, cache=cache))
        assert cache.length == 3 and logits.shape == (2, 3, base.vocab_size)
        return logits

    assert (model.width, model.vocab_size) == (32, model.config.vocab_size)
    assert torch.isfinite(decode(model)).all()


def test_padding_that_comes_late_hides_itself_and_nothing_before_it(model):
    embeddings, ids = mixed(model, W, gists=[])
    padding = torch.zeros(1, W, dtype=torch.bool)
    padding[0, 20:25] = True
    cache, found = model.reserve(1, W), []
    with torch.inference_mode():
        # Smear would carry padding over; nobody may read it, so it is given as what it is: no token.
        known = ids.masked_fill(padding, NO_TOKEN)
        whole = model(embeddings, torch.arange(W)[None], ids=known, padding=padding)
        for span, hidden in ((slice(0, 20), None), (slice(20, 30), padding[:, 20:30]), (slice(30, W), None)):
            positions = torch.arange(span.start, span.stop)[None]
            found.append(
                model(embeddings[:, span], positions, ids=known[:, span], padding=hidden, cache=cache)
            )
        unpadded = model(embeddings, torch.arange(W)[None], ids=known)
    torch.testing.assert_close(torch.cat(found, dim=1), whole, atol=1e-5, rtol=0)
    assert not torch.allclose(whole[:, 30:], unpadded[:, 30:], atol=1e-3)


def test_a_full_cache_and_one_of_another_batch_are_refused(model):
    embeddings, positions = torch.zeros(1, 5, 32), torch.zeros(1, 5)
    cache = KVCache.reserve(model.config, 1, 7, embeddings)
    model(embeddings, positions, cache=cache)
    with pytest.raises(
        ShapeError, match="7 entries in 1 rows, got 1 rows of 5 entries on top of 5; reserve a larger"
    ):
        model(embeddings, positions, cache=cache)
    with pytest.raises(ShapeError, match="7 entries in 1 rows, got 2 rows of 1 entries"):
        model(torch.zeros(2, 1, 32), torch.zeros(2, 1), cache=cache)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_layer": 0}, "at least 1"),
        ({"n_embd": 33}, "even multiple of n_head, got 33 and 2; change one"),
        ({"n_embd": 34, "n_head": 2}, "even multiple"),
        ({"n_head": 4, "n_kv_head": 3}, "multiple of n_kv_head, got 4 and 3; change one"),
        ({"window_pattern": ""}, "must be letters L .* and S .*, got ''; use L"),
        ({"window_pattern": "SLX"}, "got 'SLX'"),
        ({"n_embd": 16}, "at least 24 in dialect 'current', .* got 16; raise it"),
        ({"n_embd": 24, "dialect": "2026-03-02"}, "at least 32 in dialect '2026-03-02', .* got 24; raise it"),
        (
            {"window_pattern": "SL", "dialect": "classic"},
            "must be L in dialect 'classic', .* got 'SL'; leave it",
        ),
    ],
)
def test_a_shape_that_cannot_be_is_named(wrong, message):
    with pytest.raises(ConfigError, match=message):
        model_config(**wrong)


def test_an_unknown_dialect_is_answered_with_those_that_exist():
    with pytest.raises(
        UnknownVariantError,
        match=r"'curent'; did you mean 'current'. known are classic, 2025-12-09, .*, current",
    ):
        GPTConfig(dialect="curent")


def test_positions_count_places_or_the_centres_of_spans():
    start, stop = np.array([0, 1024, 1056, 1057]), np.array([1024, 1056, 1057, 1058])
    assert entry_positions(start, stop, "context").tolist() == [0, 1, 2, 3]
    # Tokens stand one apart whatever stands before them; gists take a block's places, and stand in the middle.
    assert entry_positions(start, stop, "spread", 32).tolist() == [15.5, 47.5, 64, 65]
    assert entry_positions(start[2:], stop[2:], "spread").tolist() == [0, 1]
    assert entry_positions(start, stop, "global").tolist() == [511.5, 1039.5, 1056, 1057]
