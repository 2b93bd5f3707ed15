"""Bits per byte: a unit that does not depend on the vocabulary, and a trigram model to be measured against."""

import math

import numpy as np
import pytest
import torch
from toys import VOCABULARY, model_config, prose, stir

from megacontext.errors import ShapeError
from megacontext.evals.bits_per_byte import TextLoss, text_loss
from megacontext.evals.trigram import Trigram
from megacontext.models.gpt import GPT


@pytest.fixture(scope="module")
def model():
    model = GPT(model_config()).eval()
    stir(model, seed=0)
    return model


@pytest.fixture(scope="module")
def rows(tokenizer):
    ids = tokenizer.encode(prose(3000))[: 4 * 33]
    rows = ids.reshape(4, 33).astype(np.int64)
    rows[:, 7] = tokenizer.bos_id
    return rows


def test_it_is_the_sum_over_tokens_one_by_one_and_specials_count_for_nothing(model, rows, tokenizer):
    nats = text_bytes = tokens = 0
    for row in rows:
        ids = torch.from_numpy(row[:-1])[None]
        with torch.inference_mode():
            logits = model.unembed(model(model.embed(ids), torch.arange(32)[None], ids=ids))[0].double()
        shares = torch.softmax(logits, dim=-1)
        for place, target in enumerate(row[1:].tolist()):
            if target < VOCABULARY - 9:
                nats -= math.log(shares[place, target])
                text_bytes += len(tokenizer.token_bytes(target))
                tokens += 1
    for batch in (1, 3, 4):
        found = text_loss(model, rows, tokenizer.byte_lengths(), batch=batch)
        assert found.nats == pytest.approx(nats, rel=1e-5) and found[1:] == (text_bytes, tokens)
    rates = found.rates()
    assert rates.bits_per_byte == pytest.approx(nats / math.log(2) / text_bytes, rel=1e-5)
    assert rates.nats_per_token == pytest.approx(nats / tokens, rel=1e-5)


def test_no_text_has_no_loss(model, tokenizer):
    nothing = text_loss(model, np.zeros((0, 9), dtype=np.int64), tokenizer.byte_lengths(), batch=2)
    assert nothing == TextLoss(0, 0, 0) and math.isnan(nothing.rates().bits_per_byte)


def test_a_trigrams_probabilities_are_above_zero_and_sum_to_one(tokenizer):
    ids = tokenizer.encode(prose(20_000))
    model = Trigram(ids, VOCABULARY)
    rng = np.random.default_rng(0)
    seen = list(zip(ids[10:200:19], ids[11:201:19], strict=False))
    strange = rng.integers(0, VOCABULARY, size=(8, 2)).tolist()
    for before, last in [*seen, *strange]:
        shares = model.probabilities(
            np.full(VOCABULARY, before), np.full(VOCABULARY, last), np.arange(VOCABULARY)
        )
        assert shares.min() > 0 and shares.sum() == pytest.approx(1)


def test_a_trigram_model_knows_what_follows_two_tokens_and_one_alone():
    # After (0, 1) comes 2, after (3, 1) comes 4; after 1 alone both are as likely.
    ids = np.array([0, 1, 2, 3, 1, 4] * 50)
    model = Trigram(ids, 10)

    def ask(*tokens):
        return float(model.probabilities(*(np.array([token]) for token in tokens))[0])

    assert ask(0, 1, 2) > 0.9 and ask(3, 1, 4) > 0.9 and ask(0, 1, 4) < 0.05
    assert ask(9, 1, 2) == pytest.approx(ask(9, 1, 4), abs=0.02)


def test_a_trigram_model_beats_knowing_nothing_on_text_it_has_not_seen(tokenizer):
    model = Trigram(tokenizer.encode(prose(60_000)), VOCABULARY)
    found = model.text_loss(tokenizer.encode(prose(8000, start=120_000)), tokenizer.byte_lengths()).rates()
    assert found.nats_per_token < math.log(VOCABULARY) - 2


@pytest.mark.parametrize("ids", [np.zeros(2, dtype=np.int32), np.zeros((3, 3), dtype=np.int32)])
def test_a_trigram_model_of_too_little_is_refused(ids):
    with pytest.raises(ShapeError, match="a row of at least 3 tokens"):
        Trigram(ids, 10)
