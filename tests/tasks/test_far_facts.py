"""Facts that are asked about from afar: said once, never nearer than the gap, answers where they are said to be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import prose

from megacontext.errors import ConfigError
from megacontext.tasks.far_facts import FarFacts


@pytest.fixture(scope="module")
def text(tokenizer):
    return tokenizer.encode(prose(6000))


def planted(text, tokenizer, seed=0, held_out=True, **sizes):
    rng = np.random.default_rng(seed)
    return FarFacts(**{"tokens": 400, **sizes}).plant(text, tokenizer, rng, held_out=held_out)


@given(st.integers(1, 3), st.integers(1, 200), st.integers(0, 1000))
def test_every_answer_was_said_once_further_away_than_the_gap(text, tokenizer, facts, gap, seed):
    found = planted(text, tokenizer, seed, facts=facts, gap=gap)
    assert len(found.ids) == 400 and len(found.answers) == facts
    assert found.answers[-1].stop == 400
    for answer in found.answers:
        value = tokenizer.decode(found.ids[answer.start : answer.stop])
        before = tokenizer.decode(found.ids[: answer.start])
        assert before.count(value) == 1 and before.endswith("Answer:")
        nearest = tokenizer.encode(before[before.index(value) + len(value) : before.index("\nQuestion:")])
        assert len(nearest) >= gap - 1


def test_the_rest_is_the_beginning_of_the_text(text, tokenizer):
    found = planted(text, tokenizer, facts=1, gap=150)
    said = tokenizer.decode(found.ids)
    body = said[: said.index("\nQuestion:")]
    assert body[-300:] in tokenizer.decode(text)


def test_the_seed_draws_the_facts_and_names_for_training_are_others(text, tokenizer):
    one, same, other = (planted(text, tokenizer, seed).ids for seed in (3, 3, 4))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    assert not np.array_equal(one, planted(text, tokenizer, 3, held_out=False).ids)


def test_what_has_no_room_is_refused(text, tokenizer):
    with pytest.raises(ConfigError, match="at least 1 token, 1 fact and a gap of 1, got 0"):
        FarFacts(tokens=0)
    with pytest.raises(ConfigError, match="at least the gap of 390"):
        planted(text, tokenizer, gap=390)
    with pytest.raises(ConfigError, match="at most the 40 that were given"):
        planted(text[:40], tokenizer)
