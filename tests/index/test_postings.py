"""BM25 by the index is BM25 by the formula, and by another implementation of it."""

import numpy as np
import pytest
from index_checks import SMALL, memory_of, naive_bm25, said
from rank_bm25 import BM25Okapi
from toys import K

from megacontext.index import WordIndex, words
from megacontext.index.texts import block_texts


@pytest.fixture(scope="module")
def planted_index(memory, tokenizer):
    index = WordIndex(memory, tokenizer, **SMALL)
    index.follow()
    return index


def test_scores_are_those_of_rank_bm25_with_our_idf(planted_index, memory, tokenizer, planted):
    texts = [words(t) for t in block_texts(memory, tokenizer, 0, memory.num_blocks, memory.left_tokens)]
    other = BM25Okapi(texts)
    for word in other.idf:
        having = sum(word in text for text in texts)
        other.idf[word] = np.log1p((len(texts) - having + 0.5) / (having + 0.5))
    for question in planted.questions:
        query = words(question.prompt)
        found, expected = planted_index.scores(query), other.get_scores(query)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        assert found.argmax() == expected.argmax() and found.dtype == np.float32


def test_scores_are_those_of_the_formula(planted_index, memory, tokenizer):
    for query in (["the"], ["the", "the", "of"], ["xyzzy"], ["xyzzy", "the"]):
        np.testing.assert_allclose(
            planted_index.scores(query), naive_bm25(memory, tokenizer, query), rtol=1e-5, atol=1e-6
        )
    assert not planted_index.scores([]).any()


def test_a_word_that_every_block_has_still_counts_for_something(encoder, tokenizer):
    memory = memory_of(encoder, np.tile(tokenizer.encode(" the"), 40 * K)[: 40 * K])
    assert (WordIndex.of(memory, tokenizer).scores(["the"]) > 0).all()


def test_a_block_of_no_words_scores_nothing(encoder, tokenizer):
    memory = memory_of(encoder, np.tile(tokenizer.encode("!"), 9 * K)[: 9 * K])
    index = WordIndex(memory, tokenizer, **SMALL)
    index.follow()
    assert index.num_blocks == 9 and index.scores(["the"]).tolist() == [0.0] * 9


def test_counts_stop_at_what_a_byte_holds(encoder, tokenizer, monkeypatch):
    memory = memory_of(encoder, said(tokenizer, 5 * K))
    monkeypatch.setattr("megacontext.index.postings.block_texts", lambda *_: ["a " * 254 + "b", "a " * 300])
    arrays = WordIndex(memory, tokenizer).make(0, 2)
    assert sorted(arrays["counts"].tolist()) == [1, 254, 255] and arrays["lengths"].tolist() == [255, 300]


def test_forgetting_hashes_changes_nothing(encoder, tokenizer, monkeypatch):
    memory = memory_of(encoder, said(tokenizer, 60 * K))
    expected = WordIndex(memory, tokenizer).make(0, 60)
    monkeypatch.setattr("megacontext.index.postings._HASHES_KEPT", 3)
    found = WordIndex(memory, tokenizer).make(0, 60)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
