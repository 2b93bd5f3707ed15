"""A background knows its sentence ends in any stretch; sentences stand where they say; labels are counted as sets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import prose

from megacontext.errors import ConfigError
from megacontext.spans import Span
from megacontext.tasks.asked import Asked, AskedHistory, Background
from megacontext.tasks.splicing import spliced


@pytest.fixture(scope="module")
def text(tokenizer):
    return Background.of(tokenizer.encode(prose(4000)), tokenizer)


@given(
    places=st.lists(st.integers(0, 20), max_size=6),
    lengths=st.lists(st.integers(0, 4), min_size=6, max_size=6),
)
def test_sentences_stand_where_the_spans_say_and_the_rest_is_the_text(places, lengths):
    ids = np.arange(20)
    sentences = [np.full(length, 100 + at) for at, length in enumerate(lengths[: len(places)])]
    longer, spans = spliced(ids, sorted(places), sentences)
    for span, sentence in zip(spans, sentences, strict=True):
        assert longer[span.start : span.stop].tolist() == sentence.tolist()
    assert longer[longer < 100].tolist() == ids.tolist()


@given(start=st.integers(0, 900), tokens=st.integers(0, 500))
def test_a_stretch_has_the_sentence_ends_that_it_would_have_alone(tokenizer, text, start, tokens):
    stretch = text.stretch(start, tokens)
    alone = Background.of(stretch.ids, tokenizer)
    # A cut may make or hide an end at the very edge, where the blank behind the full stop is cut off.
    inner = lambda gaps: gaps[(gaps > 2) & (gaps < tokens - 1)].tolist()  # noqa: E731
    assert inner(stretch.gaps) == inner(alone.gaps)
    assert len(stretch.ids) == len(text.ids[start : start + tokens])


def test_places_are_drawn_at_the_depth_that_was_asked_for(text):
    places = text.draw(np.random.default_rng(0), 50, 0.4, 0.6)
    assert places.tolist() == sorted(places.tolist()) and set(places) <= set(text.gaps)
    assert 0.4 * len(text.ids) <= places[0] and places[-1] < 0.6 * len(text.ids)


def test_a_depth_without_a_sentence_end_is_refused(tokenizer):
    text = Background.of(tokenizer.encode("word " * 50), tokenizer)
    with pytest.raises(
        ConfigError, match=r"must have a sentence end between 20% and 40% .* got none in .* longer text"
    ):
        text.draw(np.random.default_rng(0), 1, 0.2, 0.4)


def test_an_empty_text_takes_sentences_one_after_another(tokenizer):
    empty = Background(np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64))
    ids, spans = empty.with_sentences(empty.draw(np.random.default_rng(0), 2), [" One.", " Two."], tokenizer)
    assert tokenizer.decode(ids) == " One. Two." and spans[0].stop == spans[1].start


def asked(answer=" attic", labels=("attic", "cellar", "garden"), prompt="Where was it before the cellar?"):
    return Asked(prompt=prompt, answer=answer, needed=(Span(6, 8), Span(20, 22)), kind="a", labels=labels)


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("attic", True), ("the Attic", True), ("In the attic, not the cellar", True), ("attic. garden", True),
        ("the attic or the garden", False), ("garden", False), ("attics", False), ("", False), ("no. attic", False),
    ],
)  # fmt: skip
def test_an_answer_of_labels_names_the_right_one_and_no_other(said, right):
    assert asked().is_right(said) == right


def test_without_labels_only_the_exact_line_counts():
    question = asked(" silver otter", labels=())
    assert question.is_right("silver otter")
    assert not any(
        question.is_right(said) for said in ("Silver otter", "silver otter.", "a silver otter", "")
    )


def test_depth_is_that_of_the_oldest_evidence():
    assert AskedHistory(np.zeros(60), (asked(),)).depth(asked()) == pytest.approx(0.1)
