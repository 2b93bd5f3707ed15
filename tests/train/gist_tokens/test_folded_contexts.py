"""Contexts of continued pretraining say what their text says: every target, gist and answer is in its place."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import K
from training_toys import sampler_of

from megacontext.errors import ConfigError
from megacontext.models.base import NO_TOKEN
from megacontext.train.contexts import IGNORED
from megacontext.train.gist_tokens.contexts import FoldedContexts, FoldedSampler

SPEC = FoldedContexts(min_blocks=2, max_blocks=12, max_raw=4, tail=1, keys=4, questions=3, echoes=2, coarse=2)


@pytest.fixture(scope="module", params=["context", "global"])
def source(request, tokenizer):
    return sampler_of(tokenizer, positions=request.param)


def restored(batch, row, left):
    """Tokens that a row stands for, in order, its gists unfolded; and where the span of each entry ends in them."""
    places, count = batch.slots.tolist(), len(batch.blocks)
    folded = {
        tuple(place): tokens[..., left:].reshape(-1)
        for place, tokens in [
            *zip(places[:count], batch.blocks, strict=True),
            *zip(places[count:], batch.coarse, strict=True),
        ]
    }
    text, ends = [], []
    for column, token in enumerate(batch.ids[row].tolist()):
        if token < 0 and (row, column) not in folded:
            assert (batch.ids[row, column:] == NO_TOKEN).all(), "padding is on the right"
            break
        text.append(np.array([token]) if token >= 0 else folded[row, column])
        ends.append(sum(map(len, text)))
    return np.concatenate(text), ends


@given(seed=st.integers(0, 10_000), left=st.sampled_from([0, 1, 5]), raw=st.sampled_from([0.0, 0.5, 1.0]))
@settings(max_examples=30)
def test_a_row_is_its_text_and_a_target_is_the_token_behind_its_span(source, seed, left, raw):
    spec = dataclasses.replace(SPEC, evidence_raw=raw)
    batch = FoldedSampler(source, left).batch(np.random.default_rng(seed), 3, spec)
    assert len(batch.slots) == len(batch.blocks) + len(batch.coarse)
    assert (batch.ids[tuple(batch.slots.T)] == NO_TOKEN).all()
    assert (batch.targets[batch.ids < 0] == IGNORED).all() and not batch.is_answer[batch.ids < 0].any()
    newline = source.tokenizer.encode("\n")[-1]
    for row in range(3):
        text, ends = restored(batch, row, left)
        for column, end in enumerate(ends):
            if batch.ids[row, column] >= 0 and end < len(text):
                assert batch.targets[row, column] == text[end]
        positions = batch.positions[row, : len(ends)]
        assert (np.diff(positions) > 0).all()
        if source.positions == "context":
            assert positions.tolist() == list(range(len(ends)))
        answers = batch.targets[row][batch.is_answer[row]]
        assert not len(answers) or (len(answers) > 1 and newline in answers)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20)
def test_what_stands_before_a_folded_block_is_what_the_text_has_there(source, seed):
    left = 5
    batch = FoldedSampler(source, left).batch(np.random.default_rng(seed), 2, SPEC)
    for row in range(2):
        text, ends = restored(batch, row, left)
        before = np.concatenate((np.full(left, NO_TOKEN), text))
        for (owner, column), tokens in zip(batch.slots[: len(batch.blocks)], batch.blocks, strict=True):
            if owner == row:
                assert tokens.tolist() == before[ends[column] - K :][: left + K].tolist()


def test_evidence_is_raw_only_where_it_is_asked_to_be(source):
    """With a chance of 1 what answers the questions stands there in tokens, with 0 in gists alone."""
    shape = {"min_blocks": 3, "max_blocks": 6, "max_raw": 0, "keys": 2, "questions": 2}
    for seed in range(10):
        raw, folded = (
            FoldedSampler(source, 0).batch(
                np.random.default_rng(seed), 4, FoldedContexts(**shape, evidence_raw=one)
            )
            for one in (1.0, 0.0)
        )
        gists = np.bincount(folded.slots[:, 0], minlength=4)
        assert (gists == gists[0]).all() and 3 <= gists[0] <= 6, "every block of every row is folded"
        assert len(raw.blocks) < len(folded.blocks)


def test_an_echo_says_folded_blocks_again(source):
    spec = FoldedContexts(min_blocks=4, max_blocks=4, max_raw=1, echoes=3)
    said = set()
    for seed in range(20):
        batch = FoldedSampler(source, 0).batch(np.random.default_rng(seed), 1, spec)
        text, _ = restored(batch, 0, 0)
        echoes = len(text) // K - 4
        said.add(echoes)
        pieces = text[len(text) - echoes * K :].reshape(echoes, K)
        assert {tuple(one) for one in pieces.tolist()} <= {tuple(one) for one in batch.blocks.tolist()}
    assert said == {0, 1, 2, 3}


def test_plain_text_has_no_answers_and_a_tail_that_stays_raw(source):
    spec = FoldedContexts(min_blocks=5, max_blocks=9, max_raw=0, tail=2)
    for seed in range(10):
        batch = FoldedSampler(source, 0).batch(np.random.default_rng(seed), 2, spec)
        assert not batch.is_answer.any() and not len(batch.coarse)
        assert ((batch.ids >= 0).sum(axis=1) >= 2 * K).all()


def test_the_same_generator_gives_the_same_batch(source):
    one, two = (FoldedSampler(source, 3).batch(np.random.default_rng(4), 3, SPEC) for _ in range(2))
    for field in dataclasses.fields(one):
        assert np.array_equal(getattr(one, field.name), getattr(two, field.name)), field.name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_blocks": 0}, "1 <= min_blocks <= max_blocks, got 0 and 12"),
        ({"min_blocks": 13}, "1 <= min_blocks <= max_blocks, got 13 and 12"),
        ({"tail": -1}, "must not be negative; raise it"),
        ({"questions": 0}, "have keys and questions, or neither"),
        ({"keys": 0}, "have keys and questions, or neither"),
        ({"evidence_raw": 1.5}, r"evidence_raw in \[0, 1\], got 4, 3 and 1.5"),
    ],
)
def test_shapes_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(SPEC, **change)


def test_books_that_are_too_short_are_refused(source):
    spec = FoldedContexts(min_blocks=4000, max_blocks=4000, max_raw=0)
    with pytest.raises(ConfigError, match="no book is as long; give longer books or lower max_blocks"):
        FoldedSampler(source, 0).batch(np.random.default_rng(0), 1, spec)
