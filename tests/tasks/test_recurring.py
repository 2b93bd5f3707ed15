"""A fact that recurs: always the same, never sooner than the gap, its values where they are said to be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import prose

from megacontext.errors import ConfigError
from megacontext.tasks.recurring import Recurring


@pytest.fixture(scope="module")
def text(tokenizer):
    return tokenizer.encode(prose(6000))


def planted(text, tokenizer, gap=80, seed=0, **changes):
    return Recurring(gap=gap).plant(text, tokenizer, np.random.default_rng(seed), **changes)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 300), st.integers(0, 1000))
def test_one_value_is_said_again_and_again_no_sooner_than_the_gap(text, tokenizer, gap, seed):
    found = planted(text, tokenizer, gap, seed)
    values = [found.ids[span.start : span.stop].tolist() for span in found.values]
    assert len(values) > 3 and values[0] and all(one == values[0] for one in values)
    between = [later.start - span.stop for span, later in zip(found.values, found.values[1:], strict=False)]
    assert min(between) > gap


def test_the_text_around_the_sentences_is_left_as_it_was(text, tokenizer):
    found = planted(text, tokenizer)
    said = tokenizer.decode(found.ids)
    value = tokenizer.decode(found.ids[slice(found.values[0].start, found.values[0].stop)])
    assert said.count(f"{value}.") + said.count(f"{value} ") >= len(found.values)
    assert len(found.ids) > len(text) and text.tolist() == _without(found.ids.tolist(), text.tolist())


def _without(longer, text):
    """What is left of `longer` when all that `text` has not is taken out, in order."""
    left, at = [], 0
    for token in longer:
        if at < len(text) and token == text[at]:
            left.append(token)
            at += 1
    return left


def test_the_seed_draws_the_fact_and_names_for_training_are_others(text, tokenizer):
    one, same, other = (planted(text, tokenizer, seed=seed).ids for seed in (3, 3, 4))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    assert not np.array_equal(one, planted(text, tokenizer, seed=3, held_out=False).ids)


def test_what_cannot_be_is_refused(tokenizer):
    with pytest.raises(ConfigError, match="at least 1 token, got 0"):
        Recurring(gap=0)
    with pytest.raises(ConfigError, match="got none in 2 tokens"):
        planted(tokenizer.encode("no end")[:2], tokenizer)
