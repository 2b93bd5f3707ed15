"""An answer in a sentence counts when it names the value and no other one of the history."""

import numpy as np
import pytest
from models.huggingface.hf_toys import byte_tokenizer

from megacontext.runtime.frozen.vocabulary import FrozenVocabulary
from megacontext.tasks.facts import FactsConfig, plant
from megacontext.tasks.spoken import as_spoken

TEXT = "It rained. They went home! Who knows? " * 40


@pytest.fixture(scope="module")
def asked():
    vocabulary = FrozenVocabulary(byte_tokenizer())
    planted = plant(
        vocabulary.encode(TEXT),
        vocabulary,
        FactsConfig(keys=6, superseded_share=1.0),
        np.random.default_rng(0),
    )
    return planted, as_spoken(planted)


def test_the_value_may_stand_in_a_sentence_of_any_case(asked):
    for question in asked[1].questions:
        value = question.answer.strip()
        assert question.is_right(value) and question.is_right(f"The {value.upper()}, I believe.")
        assert not question.is_right("") and not question.is_right(value.split()[0])
        assert not question.is_right(value.replace(" ", "")) and not question.is_right(f"un{value}s")


def test_a_superseded_value_or_one_of_another_question_spoils_it(asked):
    planted, spoken = asked
    for question, one in zip(planted.questions, spoken.questions, strict=True):
        value = one.answer.strip()
        assert not one.is_right(f"{value}, formerly {question.statements[0].value}")
        assert not one.is_right(question.statements[0].value)
    first, second = spoken.questions[:2]
    assert not first.is_right(f"{first.answer} or {second.answer}")


def test_nothing_else_of_a_question_changes(asked):
    planted, spoken = asked
    np.testing.assert_array_equal(planted.ids, spoken.ids)
    for question, one in zip(planted.questions, spoken.questions, strict=True):
        assert (one.prompt, one.answer, one.versions) == (
            question.prompt,
            question.answer,
            len(question.statements),
        )
