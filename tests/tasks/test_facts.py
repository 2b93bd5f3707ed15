"""Facts stand where they say, the last statement counts, and the text around them is left as it was."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import prose

from megacontext.errors import ConfigError
from megacontext.tasks.facts import (
    ATTRIBUTES,
    FactsConfig,
    has_sentence_end,
    invent_keys,
    invent_surname,
    is_held_out,
    plant,
    random_values,
    sentence_gaps,
)


@pytest.fixture(scope="module")
def text(tokenizer):
    return tokenizer.encode(prose(6000))


def history(text, tokenizer, seed=0, held_out=True, **config):
    return plant(text, tokenizer, FactsConfig(**config), np.random.default_rng(seed), held_out=held_out)


def statements_of(planted):
    return [statement for question in planted.questions for statement in question.statements]


def without(planted):
    """The ids with every planted span taken out."""
    kept = np.ones(len(planted.ids), dtype=bool)
    for statement in statements_of(planted):
        assert kept[statement.start : statement.stop].all(), "spans do not overlap"
        kept[statement.start : statement.stop] = False
    return planted.ids[kept]


@given(seed=st.integers(0, 1000), keys=st.integers(1, 30), share=st.floats(0, 1), versions=st.integers(2, 5))
@settings(max_examples=30)
def test_a_history_is_its_text_with_sentences_that_stand_where_they_say(
    tokenizer, text, seed, keys, share, versions
):
    planted = history(text, tokenizer, seed, keys=keys, superseded_share=share, max_versions=versions)
    assert len(planted.questions) == keys
    for question in planted.questions:
        for statement in question.statements:
            said = tokenizer.decode(planted.ids[statement.start : statement.stop])
            assert question.person in said and question.attribute in said
            assert said.endswith(f" is {statement.value}.")
    assert np.array_equal(without(planted), text)


@given(seed=st.integers(0, 1000), share=st.floats(0, 1), versions=st.integers(2, 5))
@settings(max_examples=30)
def test_the_last_statement_holds_the_answer_and_every_version_another_value(
    tokenizer, text, seed, share, versions
):
    planted = history(text, tokenizer, seed, keys=12, superseded_share=share, max_versions=versions)
    for question in planted.questions:
        starts = [statement.start for statement in question.statements]
        assert starts == sorted(starts)
        assert question.needed is question.statements[-1]
        assert question.answer == " " + question.statements[-1].value
        values = {statement.value for statement in question.statements}
        assert len(values) == len(question.statements)
        assert len(values) in (range(2, versions + 1) if question.superseded else [1])
    assert sum(question.superseded for question in planted.questions) == round(share * 12)


def test_all_keys_and_all_values_of_a_history_differ(tokenizer, text):
    planted = history(text, tokenizer, keys=60, attributes_per_person=3)
    assert len({(question.person, question.attribute) for question in planted.questions}) == 60
    values = [statement.value for statement in statements_of(planted)]
    assert len(set(values)) == len(values)


def test_facts_share_persons_and_attributes_so_that_neither_alone_finds_them(tokenizer, text):
    planted = history(text, tokenizer, keys=24, attributes_per_person=3)
    assert len({question.person for question in planted.questions}) < 24
    assert len({question.attribute for question in planted.questions}) <= len(ATTRIBUTES) < 24


def test_facts_are_planted_at_all_depths(tokenizer, text):
    depths = [
        question.needed.start / len(text)
        for seed in range(5)
        for question in history(text, tokenizer, seed, keys=24, superseded_share=0.0).questions
    ]
    assert min(depths) < 0.2 and max(depths) > 0.8


def test_the_question_names_the_key_and_ends_where_the_answer_begins(tokenizer, text):
    for question in history(text, tokenizer, keys=24).questions:
        assert question.person in question.prompt and question.attribute in question.prompt
        assert question.prompt.startswith("\nQuestion:") and question.prompt.endswith("\nAnswer:")
        assert question.answer.strip() not in question.prompt
        # Prompt and answer are encoded apart, so a token across their border would never be seen in training.
        apart = [*tokenizer.encode(question.prompt), *tokenizer.encode(question.answer)]
        assert apart == tokenizer.encode(question.prompt + question.answer).tolist()


def test_the_same_seed_gives_the_same_history_and_another_another(tokenizer, text):
    one, same, other = (history(text, tokenizer, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.ids, same.ids) and one.questions == same.questions
    assert one.questions != other.questions


@given(seed=st.integers(0, 10_000))
def test_training_and_evaluation_names_are_disjoint(seed):
    rng = np.random.default_rng(seed)
    assert is_held_out(invent_surname(rng, held_out=True))
    assert not is_held_out(invent_surname(rng, held_out=False))


def test_planting_uses_the_names_that_it_was_told_to(tokenizer, text):
    for held_out in (True, False):
        planted = history(text, tokenizer, held_out=held_out)
        assert {is_held_out(question.person.split()[-1]) for question in planted.questions} == {held_out}


def test_no_shipped_book_contains_an_invented_name():
    rng = np.random.default_rng(0)
    text = prose(2_000_000, start=0)
    names = [invent_surname(rng, held_out=held_out) for held_out in (True, False) for _ in range(200)]
    assert not [name for name in names if name in text]


@pytest.mark.parametrize("keys", [1, 2, 3, 7])
def test_keys_are_as_many_as_asked_for(keys):
    pairs = invent_keys(
        np.random.default_rng(0), FactsConfig(keys=keys, attributes_per_person=3), held_out=True
    )
    assert len(set(pairs)) == keys


def test_a_sentence_gap_is_where_a_sentence_has_ended(tokenizer):
    text = 'He came. She "went!" Mr. 3.5 Who? (No.) end.'
    ids = tokenizer.encode(text)
    before = [tokenizer.decode(ids[:gap]) for gap in sentence_gaps(ids, tokenizer)]
    assert before == ["He came.", 'He came. She "went!"', 'He came. She "went!" Mr.'] + [
        text[: text.index(end) + len(end)] for end in ("Who?", "(No.)")
    ]


@pytest.mark.parametrize("text", ["", "no end", "ends here.", "3.5"])
def test_a_text_without_a_sentence_end_is_refused(tokenizer, text):
    assert not has_sentence_end(text)
    with pytest.raises(
        ConfigError, match=r"must have a sentence end .*, got none in \d+ tokens; give a longer text"
    ):
        plant(tokenizer.encode(text), tokenizer, FactsConfig(keys=1), np.random.default_rng(0))


def test_one_sentence_end_is_enough_for_any_number_of_facts(tokenizer):
    text = tokenizer.encode("He came. She")
    assert has_sentence_end("He came. She")
    planted = history(text, tokenizer, keys=5, superseded_share=1.0)
    assert np.array_equal(without(planted), text)


def test_values_run_out_with_a_sentence():
    rng = np.random.default_rng(0)
    assert len(set(random_values(rng, 4096))) == 4096
    with pytest.raises(ConfigError, match=r"at most 4,096 statements, .* got 4,097; lower facts.keys"):
        random_values(rng, 4097)


@pytest.mark.parametrize(
    "wrong",
    [
        {"keys": 0},
        {"superseded_share": 1.5},
        {"max_versions": 1},
        {"attributes_per_person": 0},
        {"attributes_per_person": 17},
    ],
)
def test_a_wrong_number_is_named(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ConfigError, match=rf"facts\.{name} must .*{value}"):
        dataclasses.replace(FactsConfig(), **wrong)
