"""Losses of embedding gists against their formulas, and what each of them may move."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from toys import K, ids_of, random_bundle

from megacontext.errors import ShapeError
from megacontext.gistnet.gist import GistNetConfig
from megacontext.runtime.embedding_windows import EmbeddingWindow, hidden_behind, make_gists
from megacontext.train.gist_losses import (
    Decoding,
    GistPrediction,
    horizon_loss,
    next_gist_error,
    pooling_loss,
    separation_loss,
    teacher_divergence,
)


def window(**changes):
    return EmbeddingWindow(
        **({"block_size": K, "blocks": 3, "raw_tokens": 2 * K, "scored_tokens": 5} | changes)
    )


def rows(shape, count=2, seed=0):
    return torch.from_numpy(ids_of(count * shape.tokens, seed).reshape(count, -1)).long()


def grad_norms(network):
    return {
        name: 0.0 if one.grad is None else one.grad.norm().item() for name, one in network.named_parameters()
    }


def test_a_teacher_that_says_the_same_costs_nothing_and_any_other_costs_more():
    said = torch.randn(2, 3, 7)
    assert teacher_divergence(said, said + 4.0).item() == pytest.approx(0, abs=1e-6)
    other = torch.randn(2, 3, 7)
    p, q = other.softmax(-1), said.softmax(-1)
    wanted = (p * (p / q).log()).sum(-1).mean()
    assert teacher_divergence(said, other).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_nothing_flows_into_the_teacher_or_into_a_foretold_gist():
    said, taught = torch.randn(1, 2, 5, requires_grad=True), torch.randn(1, 2, 5, requires_grad=True)
    teacher_divergence(said, taught).backward()
    assert said.grad is not None and taught.grad is None
    predicted, target = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    next_gist_error(predicted, target).backward()
    assert predicted.grad is not None and target.grad is None


@given(st.integers(0, 6), st.floats(0.01, 1.0))
def test_separation_is_nothing_for_gists_apart_and_the_squared_margin_for_copies(count, margin):
    apart = torch.eye(8)[:count]
    assert separation_loss(apart, margin).item() == pytest.approx(max(0.0, margin - 1) ** 2, abs=1e-6)
    copies = torch.ones(count, 8)
    wanted = margin**2 if count > 1 else 0.0
    assert separation_loss(copies, margin).item() == pytest.approx(wanted, abs=1e-4)


def test_separation_pushes_close_gists_apart():
    gists = torch.ones(2, 8) + 0.01 * torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    gists.requires_grad_(True)
    for _ in range(50):
        (grad,) = torch.autograd.grad(separation_loss(gists), gists)
        gists = (gists - 2.0 * grad).detach().requires_grad_(True)
    assert 1 - F.cosine_similarity(gists[0], gists[1], dim=0).item() > 0.15


def test_foretelling_the_mean_scores_one_and_the_truth_nothing():
    target = torch.randn(50, 6) + 3
    assert next_gist_error(target.mean(0).expand(50, -1), target).item() == pytest.approx(1)
    assert next_gist_error(target, target).item() == 0
    assert pooling_loss(target, target).item() == 0


def test_reconstruction_reads_gists_and_earlier_tokens_of_the_block_and_nothing_else(bundle):
    """The loss of token i must not move when token j > i does: teacher forcing without a look ahead."""
    torch.manual_seed(0)
    shape, decoding = window(blocks=2), Decoding(bundle.base.width)
    ids = rows(shape)
    gists = make_gists(bundle.gistnet, bundle.base, shape, ids).detach()
    first = decoding(bundle.base, shape, "context", gists, ids)
    behind = ids.clone()
    behind[:, shape.distant_tokens :] = 1
    assert torch.equal(decoding(bundle.base, shape, "context", gists, behind), first)
    ids_grad = torch.autograd.grad(decoding(bundle.base, shape, "context", gists, ids), decoding.ask)[0]
    assert ids_grad.norm() > 0

    def lost(tokens):
        """Each token's loss, by hand from the same pieces."""
        said = tokens[:, : shape.distant_tokens]
        ask = decoding.ask.expand(2, 1, -1)
        embeddings = torch.cat((gists, ask, bundle.base.embed(said[:, :-1])), dim=1)
        known = torch.cat((said.new_full((2, 3), -1), said[:, :-1]), dim=1)
        hidden = bundle.base(embeddings, torch.arange(embeddings.shape[1])[None].double(), ids=known)
        nats = F.cross_entropy(
            bundle.base.unembed(hidden[:, 2:]).flatten(0, 1), said.flatten(), reduction="none"
        )
        return nats.view(said.shape)

    torch.testing.assert_close(lost(ids).mean(), first)
    later = ids.clone()
    later[:, 9] = (later[:, 9] + 1) % 500
    torch.testing.assert_close(lost(later)[:, :9], lost(ids)[:, :9])


@pytest.mark.parametrize(
    ("blocks", "coarse", "raw"), [(3, 0, 2 * K), (2, 2, 2 * K), (0, 2, 2 * K), (3, 0, 3), (1, 0, K)]
)
def test_next_gists_are_foretold_from_what_came_before_them(bundle, blocks, coarse, raw):
    torch.manual_seed(0)
    shape = window(blocks=blocks, coarse=coarse, raw_tokens=raw, scored_tokens=1)
    prediction = GistPrediction(bundle.base.width)
    with torch.no_grad():
        for head in prediction.heads:
            head.weight.normal_()
    ids = rows(shape)
    gists = make_gists(bundle.gistnet, bundle.base, shape, ids)
    hidden = hidden_behind(bundle.base, shape, "context", gists, ids)
    seen = []
    prediction._error = lambda lod, states, target: seen.append((lod, states, target)) or states.sum()
    errors = prediction(bundle.base, bundle.gistnet, shape, gists, hidden, ids)
    assert {lod: error.item() for lod, error in errors.items()} == {
        lod: states.sum().item() for lod, states, _ in seen
    }
    for lod, states, target in seen:
        assert states.shape == target.shape
        if lod == 2:
            assert torch.equal(target, gists[:, 1:coarse]) and torch.equal(states, hidden[:, : coarse - 1])
        else:
            # The last target is the gist of the last whole raw block, and its state stands right before that block.
            whole = (raw + 1) // K
            if whole:
                at = shape.distant_tokens + (whole - 1) * K
                last = bundle.gistnet(bundle.base.embed(ids[:, at : at + K]), 1)
                torch.testing.assert_close(target[:, -1], last)
                assert torch.equal(states[:, -1], hidden[:, shape.gists + (whole - 1) * K - 1])
    assert {lod for lod, *_ in seen} == ({2} if coarse > 1 else set()) | (
        {1} if blocks or raw >= 2 * K else set()
    )


def test_a_window_in_which_nothing_follows_and_gists_of_two_vectors_are_refused(bundle, tokenizer):
    shape = window(blocks=1, raw_tokens=3, scored_tokens=1)
    ids = rows(shape)
    gists = make_gists(bundle.gistnet, bundle.base, shape, ids)
    prediction = GistPrediction(bundle.base.width)
    with pytest.raises(ShapeError, match="this window has neither"):
        prediction(bundle.base, bundle.gistnet, shape, gists, torch.zeros(2, 5, 32), ids)
    double = random_bundle(tokenizer, gistnet=GistNetConfig(heads=2, slots=2))
    two = make_gists(double.gistnet, double.base, shape, ids)
    with pytest.raises(ShapeError, match="got 2 for 1 spans"):
        prediction(double.base, double.gistnet, shape, two, torch.zeros(2, 6, 32), ids)


def test_the_loss_of_a_uniform_guess_is_the_logarithm_of_the_vocabulary():
    assert horizon_loss(torch.zeros(2, 3, 50), torch.ones(2, 3, dtype=torch.long)).item() == pytest.approx(
        math.log(50)
    )
