"""Mixed contexts of tokens and gists: causal to the last bit, and refused when their shapes do not fit."""

import numpy as np
import pytest
import torch
from toys import model_config, stir

from megacontext.errors import ConfigError, ShapeError, UnknownVariantError
from megacontext.models.gpt import GPT, NO_TOKEN, GPTConfig, KVCache
from megacontext.models.positions import entry_positions

W = 40
GISTS = [0, 3, 4, 17, 38]


@pytest.fixture(scope="module", params=["classic", "current", "current-windowed"])
def model(request):
    dialect = request.param.split("-")[0]
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


def test_a_window_hides_what_lies_further_back_in_its_layers_and_the_last_layer_sees_all():
    config = model_config(window_pattern="S", sequence_len=512, n_layer=3)
    model = GPT(config)
    assert [model._window(layer) for layer in range(3)] == [128, 128, None]
    for pattern, windows in (("SL", [128, None, None]), ("L", [None] * 3), ("LSS", [None, 128, None])):
        model = GPT(model_config(window_pattern=pattern, sequence_len=512, n_layer=3))
        assert [model._window(layer) for layer in range(3)] == windows
    assert GPT(model_config(window_pattern="S", sequence_len=513))._window(0) == 256


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
    ],
)
def test_a_shape_that_cannot_be_is_named(wrong, message):
    with pytest.raises(ConfigError, match=message):
        model_config(**wrong)


def test_an_unknown_dialect_is_answered_with_those_that_exist():
    with pytest.raises(
        UnknownVariantError, match=r"'curent'; did you mean 'current'. known are classic, current"
    ):
        GPTConfig(dialect="curent")


def test_positions_count_places_or_the_centres_of_spans():
    start, stop = np.array([0, 1024, 1056, 1057]), np.array([1024, 1056, 1057, 1058])
    assert entry_positions(start, stop, "context").tolist() == [0, 1, 2, 3]
    assert entry_positions(start, stop, "global").tolist() == [511.5, 1039.5, 1056, 1057]
