"""Checkpoints that nanochat itself wrote give nanochat's own logits, at once and token by token."""

from pathlib import Path

import pytest
import torch

from megacontext.models.checkpoint import load_checkpoint

FIXTURES = Path(__file__).parent / "fixtures"
GENUINE = ("classic", "current-full", "current-windowed")
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=GENUINE)
def genuine(request):
    """Model, ids (3, 256) and the logits (3, 256, 150) of nanochat's own float32 forward."""
    loaded = load_checkpoint(FIXTURES / request.param)
    assert loaded.dialect == request.param.split("-")[0]
    expected = torch.load(FIXTURES / request.param / "expect.pt", weights_only=True)
    return loaded.model, expected["ids"], expected["logits"]


@torch.inference_mode()
def plain(model, ids, cache=None, past=0):
    """Logits of plain tokens."""
    positions = torch.arange(past, past + ids.shape[1]).expand_as(ids)
    return model.unembed(model(model.embed(ids), positions, ids=ids, cache=cache))


def test_prefill_gives_nanochats_logits(genuine):
    model, ids, expected = genuine
    torch.testing.assert_close(plain(model, ids), expected, atol=TOLERANCE, rtol=0)


def test_decoding_token_by_token_gives_nanochats_logits(genuine):
    model, ids, expected = genuine
    cache = model.reserve(*ids.shape)
    for at in range(ids.shape[1]):
        logits = plain(model, ids[:, at : at + 1], cache, past=at)
        torch.testing.assert_close(logits[:, 0], expected[:, at], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("pieces", [(1, 255), (255, 1), (127, 1, 128), (128, 128), (31, 97, 100, 28)])
def test_prefill_in_pieces_gives_the_same_logits(genuine, pieces):
    model, ids, expected = genuine
    cache, past, found = model.reserve(*ids.shape), 0, []
    for piece in pieces:
        found.append(plain(model, ids[:, past : past + piece], cache, past))
        past += piece
    torch.testing.assert_close(torch.cat(found, dim=1), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 127, 128, 129, 130])
def test_a_prefix_gives_the_logits_of_the_whole(genuine, length):
    model, ids, expected = genuine
    torch.testing.assert_close(plain(model, ids[:, :length]), expected[:, :length], atol=TOLERANCE, rtol=0)


def test_left_padding_does_not_change_the_answer(genuine):
    model, ids, expected = genuine
    padding = torch.zeros(3, 256, dtype=torch.bool)
    padding[1, :5], padding[2, :100] = True, True
    shifted = ids.clone()
    positions = torch.zeros(3, 256)
    for row, pad in enumerate((0, 5, 100)):
        shifted[row, pad:] = ids[row, : 256 - pad]
        positions[row, pad:] = torch.arange(256 - pad)
    known = torch.where(padding, -1, shifted)
    with torch.inference_mode():
        # What stands in the padding is noise: nobody may see it.
        embeddings = torch.where(padding[..., None], torch.randn(3, 256, 64), model.embed(shifted))
        logits = model.unembed(model(embeddings, positions, ids=known, padding=padding))
    for row, pad in enumerate((0, 5, 100)):
        torch.testing.assert_close(logits[row, pad:], expected[row, : 256 - pad], atol=TOLERANCE, rtol=0)


def test_padding_stays_unseen_when_decoding_goes_on(genuine):
    model, ids, expected = genuine
    pad, half = 7, 120
    cache = model.reserve(1, pad + 256)
    padding = torch.arange(pad + half)[None] < pad
    positions = (torch.arange(pad + half)[None] - pad).clamp_min(0)
    row = torch.cat((torch.full((1, pad), -1), ids[:1, :half]), dim=1)
    with torch.inference_mode():
        model(model.embed(row.clamp_min(0)), positions, ids=row, padding=padding, cache=cache)
    for at in range(half, half + 10):
        logits = plain(model, ids[:1, at : at + 1], cache, past=at)
        torch.testing.assert_close(logits[:, 0], expected[:1, at], atol=TOLERANCE, rtol=0)


def test_positions_on_another_origin_change_nothing_beyond_rounding(genuine):
    model, ids, expected = genuine
    with torch.inference_mode():
        shifted = model(model.embed(ids), torch.arange(256).expand_as(ids) + 1_000_000, ids=ids)
        torch.testing.assert_close(model.unembed(shifted), expected, atol=TOLERANCE, rtol=0)


def test_every_parameter_of_the_fixtures_matters(genuine):
    model, ids, expected = genuine
    for name, parameter in model.named_parameters():
        if "lm_head" in name or "wte" in name:
            continue  # rows of padding: the two that are read are covered by the logits themselves
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.add_(0.5)
        changed = plain(model, ids[:1, :64])
        with torch.no_grad():
            parameter.copy_(kept)
        assert not torch.allclose(changed, expected[:1, :64], atol=1e-3), name
