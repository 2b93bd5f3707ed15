"""Facts about searching a memory."""

import numpy as np
import pytest

from megacontext.errors import ConfigError
from megacontext.scoring import search
from megacontext.scoring.lexical import words
from megacontext.scoring.search import search_meaning, search_text, search_words


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    monkeypatch.setattr(search, "_BLOCKS_AT_ONCE", 3)


def text_of(memory, tokenizer, hit):
    return tokenizer.decode(memory.tokens(hit.start, hit.stop))


def test_exact_text_is_found_wherever_and_however_it_was_cut(memory, tokenizer):
    whole = b"".join(tokenizer.token_bytes(i) for i in memory.tokens(0, memory.num_tokens).tolist()).decode()
    for start in range(0, len(whole) - 30, 97):
        needle = whole[start : start + 25]
        hits = search_text(memory, tokenizer, needle, 10_000)
        assert len(hits) == sum(whole.startswith(needle, at) for at in range(len(whole)))
        for hit in hits:
            assert needle in text_of(memory, tokenizer, hit)
            # Not a token too many on either side.
            assert needle not in tokenizer.decode(memory.tokens(hit.start + 1, hit.stop))
            assert needle not in tokenizer.decode(memory.tokens(hit.start, hit.stop - 1))
    assert search_text(memory, tokenizer, "no such words there", 5) == []
    with pytest.raises(ConfigError, match="needs a text"):
        search_text(memory, tokenizer, "", 5)


def test_words_that_only_one_block_has_lead_to_it(memory, tokenizer, planted):
    read = []
    for question in planted.questions:
        name = question.prompt.split(" is ")[-1].split("?")[0]
        best = search_words(memory, tokenizer, name, 5, read.append)
        assert [hit.score for hit in best] == sorted((hit.score for hit in best), reverse=True)
        # A block is searched with the tokens in front of it, so that no word is cut.
        seen = tokenizer.decode(
            memory.tokens(max(0, best[0].start - memory.left_tokens), best[0].stop)
        ).lower()
        assert any(word.lower() in seen for word in words(name) if len(word) > 2)
    assert read[-1] == memory.num_tokens
    assert search_words(memory, tokenizer, "xyzzy", 5) == []
    with pytest.raises(ConfigError, match="needs a word"):
        search_words(memory, tokenizer, "?!", 5)


def test_meaning_is_the_best_of_all_dot_products(memory):
    question = np.random.default_rng(0).standard_normal(memory.address_width).astype(np.float32)
    matches = memory.addresses() @ question
    hits = search_meaning(memory, question, 7)
    assert [hit.start // memory.block_size for hit in hits] == np.argsort(-matches, kind="stable")[
        :7
    ].tolist()
    assert search_meaning(memory, question, 10**6)[-1].score == pytest.approx(matches.min(), abs=1e-6)
