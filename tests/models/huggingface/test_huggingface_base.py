"""A frozen decoder says to a context of plain tokens what it says by itself, and gists are seen by what follows."""

import pytest
import torch
from hf_toys import SHAPE, VOCABULARY, WINDOW, base_of, causal_lm

from megacontext.errors import CheckpointError, ShapeError
from megacontext.models.base import NO_TOKEN
from megacontext.models.huggingface import HuggingFaceBase

W = 23
CLOSE = {"atol": 2e-5, "rtol": 0}
"""Logits reach 6: a few roundings of float32."""


def random_ids(rows=2, width=W, seed=0):
    return torch.randint(VOCABULARY, (rows, width), generator=torch.Generator().manual_seed(seed))


def counted(start, stop):
    return torch.arange(start, stop, dtype=torch.float64)[None]


@torch.inference_mode()
def own_logits(base, ids):
    """What the model says by itself, from token ids."""
    return base.model(input_ids=ids).logits.float()


@torch.inference_mode()
def in_pieces(base, embeddings, positions, cuts, padding=None):
    """Logits of a context that is read piece by piece with a cache."""
    batch, entries, _ = embeddings.shape
    cache = base.reserve(batch, entries)
    positions = positions.expand(batch, -1)
    hidden = []
    for start, stop in zip([0, *cuts], [*cuts, entries], strict=True):
        piece = slice(start, stop)
        hidden.append(
            base(
                embeddings[:, piece],
                positions[:, piece],
                padding=None if padding is None else padding[:, piece],
                cache=cache,
            )
        )
        assert cache.length == stop
    return base.unembed(torch.cat(hidden, dim=1))


@torch.inference_mode()
def read(base, embeddings, positions, padding=None):
    return base.unembed(base(embeddings, positions, padding=padding))


def with_gap(start=5, length=40):
    """Positions of a context whose entry `start` is a gist of `length` tokens, at their centre."""
    positions = torch.arange(W, dtype=torch.float64)
    positions[start + 1 :] += length - 1
    positions[start] += (length - 1) / 2
    return positions[None]


def only_windows(base):
    return getattr(base.config, "sliding_window", None) and "full_attention" not in (
        getattr(base.config, "layer_types", None) or ()
    )


# Plain tokens.


def test_plain_tokens_give_the_models_own_logits(base):
    ids = random_ids()
    with torch.inference_mode():
        hidden = base(base.embed(ids), counted(0, W), ids=ids)
    logits = base.unembed(hidden)
    assert logits.shape == (2, W, base.vocab_size) and logits.dtype == torch.float32
    assert hidden.shape == (2, W, base.width)
    torch.testing.assert_close(logits, own_logits(base, ids), **CLOSE)


@pytest.mark.parametrize("cuts", [(1,), (W - 1,), (5, 6, 14), tuple(range(1, W)), (WINDOW, 2 * WINDOW + 1)])
def test_reading_in_pieces_and_step_by_step_gives_the_same(base, cuts):
    ids = random_ids()
    torch.testing.assert_close(
        in_pieces(base, base.embed(ids), counted(0, W), cuts), own_logits(base, ids), **CLOSE
    )


@pytest.mark.parametrize("cuts", [(), (9,), (3, 12, 13)])
def test_rows_that_are_padded_on_the_left_are_each_read_as_alone(base, cuts):
    lengths = [W, 1, WINDOW, 11]
    ids = random_ids(rows=len(lengths))
    padding = torch.stack([torch.arange(W) < W - length for length in lengths])
    positions = torch.stack([(torch.arange(W) - (W - length)).clamp_min(0) for length in lengths]).double()
    together = in_pieces(base, base.embed(ids), positions, cuts, padding)
    for row, length in enumerate(lengths):
        alone = own_logits(base, ids[row : row + 1, W - length :])[0]
        torch.testing.assert_close(together[row, W - length :], alone, **CLOSE)


def test_one_token_can_be_read(base):
    ids = random_ids(width=1)
    torch.testing.assert_close(read(base, base.embed(ids), counted(0, 1)), own_logits(base, ids), **CLOSE)


# Gists.


def test_a_gist_changes_what_follows_it_across_gaps_in_positions_and_nothing_before(base):
    at = 5
    embeddings = base.embed(random_ids())
    other = embeddings.clone()
    other[:, at] = -other[:, at]
    one, two = (read(base, rows, with_gap(at)) for rows in (embeddings, other))
    changed = ((one - two).abs().amax(dim=-1) > 1e-4).all(dim=0)
    assert torch.equal(one[:, :at], two[:, :at])
    # Where every layer has a window, each carries the gist on by one window less one.
    last = at + base.config.num_hidden_layers * (WINDOW - 1) if only_windows(base) else W - 1
    assert changed.nonzero()[:, 0].tolist() == list(range(at, last + 1))


def test_nothing_depends_on_a_later_entry(base):
    ids = random_ids()
    later = ids.clone()
    later[:, 12:] = (later[:, 12:] + 1) % VOCABULARY
    one, two = (read(base, base.embed(row), with_gap()) for row in (ids, later))
    assert torch.equal(one[:, :12], two[:, :12]) and not torch.equal(one[:, 12:], two[:, 12:])


def test_a_mixed_context_read_in_pieces_is_the_context_read_at_once(base):
    embeddings = base.embed(random_ids()).clone()
    embeddings[:, [0, 5, 6]] *= 0.5
    at_once = read(base, embeddings, with_gap())
    for cuts in [(5,), (6, 7), tuple(range(1, W))]:
        torch.testing.assert_close(in_pieces(base, embeddings, with_gap(), cuts), at_once, **CLOSE)


def test_without_a_mask_the_library_itself_is_blind_across_a_gap(llama):
    """The trap that the adapter's mask is for; when this fails, the trap is gone."""
    embeddings = llama.embed(random_ids())
    other = embeddings.clone()
    other[:, 5] = -other[:, 5]
    with torch.inference_mode():
        one, two = (
            llama.decoder(
                inputs_embeds=rows, position_ids=with_gap().long().expand(2, -1), use_cache=False
            ).last_hidden_state
            for rows in (embeddings, other)
        )
    assert torch.equal(one[:, 7:], two[:, 7:])


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gemma3"])
def test_a_sliding_window_counts_entries_wherever_they_stand(name):
    """In one layer with a window of w entries, entry t - w + 1 is the last one that t sees, gaps or not."""
    config_class, changes = {
        "mistral": ("MistralConfig", {}),
        "gemma2": ("Gemma2Config", {"query_pre_attn_scalar": 8}),
        "gemma3": ("Gemma3TextConfig", {"query_pre_attn_scalar": 8}),
    }[name]
    one_layer = SHAPE | {"num_hidden_layers": 1, "sliding_window": WINDOW} | changes
    if name != "mistral":
        one_layer["layer_types"] = ["sliding_attention"]
    base = HuggingFaceBase(causal_lm(config_class, **one_layer))
    embeddings = base.embed(random_ids())
    other = embeddings.clone()
    other[:, 5] = -other[:, 5]
    for cuts in [(), (6,), tuple(range(1, W))]:
        one, two = (in_pieces(base, rows, with_gap(5), cuts) for rows in (embeddings, other))
        changed = (one != two).any(dim=-1).any(dim=0)
        assert changed.nonzero()[:, 0].tolist() == list(range(5, 5 + WINDOW))


# Positions.


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "mistral"])
def test_rotary_positions_are_real_numbers_and_relative(name):
    base = base_of(name)
    embeddings = base.embed(random_ids())
    positions = with_gap(length=41 + 1)
    assert positions[0, 5] != positions[0, 5].floor()
    found = read(base, embeddings, positions)
    assert not torch.allclose(found, read(base, embeddings, positions.floor()), atol=1e-4)
    # Far along a history of 10^12 tokens the angles are as exact as at its start.
    assert torch.equal(found, read(base, embeddings, positions + 2.0**40))
    far = in_pieces(base, embeddings, positions + 2.0**40, (4, 9, 10))
    torch.testing.assert_close(far, found, **CLOSE)


def test_a_position_between_two_rows_of_a_table_takes_the_lower_one():
    base = base_of("gpt2")
    embeddings = base.embed(random_ids())
    positions = with_gap(length=42)
    assert positions[0, 5] != positions[0, 5].floor()
    assert torch.equal(read(base, embeddings, positions), read(base, embeddings, positions.floor()))


@pytest.mark.parametrize(("first", "last"), [(128 - W + 1, 128), (-1, W - 2)])
def test_a_position_outside_a_table_is_refused_and_the_cache_stays_as_it_was(first, last):
    base = base_of("gpt2")
    embeddings = base.embed(random_ids())
    cache = base.reserve(2, W)
    with pytest.raises(
        ShapeError, match=rf"a table of 128 positions, 0 to 127, got positions {first} to {last};"
    ):
        base(embeddings, counted(first, first + W), cache=cache)
    assert cache.length == 0 and not cache.allowed.any() and cache.origin is None
    base(embeddings, counted(128 - W, 128), cache=cache)
    assert cache.length == W


# What does not belong together.


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"embeddings": (2, 3, 31)}, r"got embeddings \(2, 3, 31\)"),
        ({"embeddings": (3, 32)}, r"embeddings \(3, 32\)"),
        ({"embeddings": (2, 0, 32), "positions": (2, 0)}, r"W at least 1, got embeddings \(2, 0, 32\)"),
        ({"positions": (2, 4)}, r"positions \(2, 4\)"),
        ({"positions": (3, 3)}, r"positions \(3, 3\)"),
        ({"ids": (2, 4)}, r"ids \(2, 4\)"),
        ({"padding": (1, 3)}, r"padding \(1, 3\)"),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(llama, arguments, sentence):
    shapes = {"embeddings": (2, 3, 32), "positions": (2, 3)} | arguments
    made = {
        name: torch.zeros(shape, dtype=torch.bool if name == "padding" else None)
        for name, shape in shapes.items()
    }
    with pytest.raises(ShapeError, match=sentence):
        llama(made.pop("embeddings"), made.pop("positions"), **made)


def test_a_cache_takes_no_more_than_it_was_reserved_for(llama):
    cache = llama.reserve(2, 5)
    embeddings = llama.embed(random_ids())
    llama(embeddings[:, :3], counted(0, 3), cache=cache)
    for rows in (embeddings[:, :3], embeddings[:1, :1]):
        with pytest.raises(ShapeError, match=r"what it was reserved for, 5 entries in 2 rows, got . rows of"):
            llama(rows, counted(3, 3 + rows.shape[1]), cache=cache)
    assert cache.length == 3
    llama(embeddings[:, 3:5], counted(3, 5), cache=cache)


def test_the_model_is_frozen_and_stays_in_evaluation_mode(llama):
    llama.train()
    assert not any(module.training for module in llama.modules())
    assert not any(parameter.requires_grad for parameter in llama.parameters())
    embeddings = llama.embed(random_ids()).requires_grad_()
    llama.unembed(llama(embeddings, counted(0, W))).sum().backward()
    assert embeddings.grad.abs().sum(dim=(0, 2)).min() > 0


def test_ids_are_not_needed_and_a_gist_has_none(llama):
    embeddings = llama.embed(random_ids())
    ids = torch.full((2, W), NO_TOKEN)
    with torch.inference_mode():
        assert torch.equal(llama(embeddings, counted(0, W), ids=ids), llama(embeddings, counted(0, W)))


def test_half_precision_decoders_take_float32_gists():
    base = HuggingFaceBase(causal_lm("LlamaConfig", **SHAPE).to(torch.bfloat16))
    logits = read(base, base.embed(random_ids()).float(), with_gap())
    assert logits.dtype == torch.float32 and torch.isfinite(logits).all()


# Models that cannot serve.


@pytest.mark.parametrize(
    ("config_class", "shape", "reason"),
    [
        ("BloomConfig", {"hidden_size": 32, "n_head": 4, "n_layer": 1}, "its decoder takes no position_ids"),
        ("MambaConfig", {"hidden_size": 32, "num_hidden_layers": 1}, "its decoder takes no"),
        (
            "CohereConfig",
            SHAPE | {"logit_scale": 0.25, "pad_token_id": 0, "eos_token_id": 0, "bos_token_id": 0},
            "when it reads their embeddings piece by piece, CohereForCausalLM does not: they differ by",
        ),
        (
            "Gemma3TextConfig",
            SHAPE | {"query_pre_attn_scalar": 8, "use_bidirectional_attention": True},
            "Gemma3ForCausalLM does not: .* or looks ahead",
        ),
        (
            "Qwen3NextConfig",
            SHAPE | {"layer_types": ["linear_attention", "full_attention"], "num_experts": 2},
            "it has layers of linear_attention",
        ),
    ],
)
def test_a_model_that_cannot_read_a_context_is_refused(config_class, shape, reason):
    model = causal_lm(config_class, **({"vocab_size": VOCABULARY} | shape))
    with pytest.raises(CheckpointError, match=reason):
        HuggingFaceBase(model)
