"""The vocabulary loses nothing, keeps its specials apart, and is known by its fingerprint."""

import base64
import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from toys import VOCABULARY, train_tokenizer

from megacontext.errors import ConfigError
from megacontext.tokenizer import SPECIAL_TOKENS, Tokenizer


@given(text=st.text(max_size=200))
@example(text="")
@example(text="\x00\r\n\t  1234567 été 中文 🜁 don't we'LL ...\n\n  ")
def test_any_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32 and ids.ndim == 1
    assert tokenizer.decode(ids) == text


@given(text=st.text(max_size=50))
def test_the_bytes_of_the_ids_are_the_bytes_of_the_text(tokenizer, text):
    assert b"".join(tokenizer.token_bytes(token) for token in tokenizer.encode(text)) == text.encode()


def test_the_nine_specials_are_the_last_ids_in_nanochats_order(tokenizer):
    names = "bos user_start user_end assistant_start assistant_end python_start python_end output_start output_end"
    assert tuple(f"<|{name}|>" for name in names.split()) == SPECIAL_TOKENS
    assert tokenizer.vocab_size == VOCABULARY
    assert [tokenizer.decode([VOCABULARY - 9 + offset]) for offset in range(9)] == list(SPECIAL_TOKENS)
    assert tokenizer.bos_id == VOCABULARY - 9


@pytest.mark.parametrize("special", SPECIAL_TOKENS)
def test_text_that_looks_like_a_special_token_is_plain_text(tokenizer, special):
    ids = tokenizer.encode(f"a{special}b")
    assert ids.max() < tokenizer.bos_id
    assert tokenizer.decode(ids) == f"a{special}b"


def test_a_character_that_was_cut_becomes_the_replacement_character(tokenizer):
    ids = tokenizer.encode("🜁")
    assert len(ids) > 1 and tokenizer.decode(ids[:-1]) == "�"


def test_a_newline_is_one_token_so_that_a_line_can_end(tokenizer):
    assert len(tokenizer.encode("\n")) == 1
    newline = tokenizer.encode("\n")[0]
    assert tokenizer.encode(" silver otter\nQuestion: What").tolist().count(newline) == 1


def test_the_same_texts_give_the_same_vocabulary_and_others_another(tokenizer):
    assert train_tokenizer().fingerprint == tokenizer.fingerprint
    assert train_tokenizer(vocab_size=VOCABULARY - 1).fingerprint != tokenizer.fingerprint
    assert train_tokenizer(start=40_000).fingerprint != tokenizer.fingerprint


def test_a_saved_vocabulary_loads_as_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert (loaded.fingerprint, loaded.vocab_size, loaded.bos_id) == (
        tokenizer.fingerprint,
        tokenizer.vocab_size,
        tokenizer.bos_id,
    )
    text = "Sir Walter Elliot, of Kellynch Hall"
    assert np.array_equal(loaded.encode(text), tokenizer.encode(text))
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_a_vocabulary_needs_room_for_bytes_and_specials_and_texts_to_fill_it():
    assert Tokenizer.train([""], 265).vocab_size == 265
    with pytest.raises(ConfigError, match=r"vocab_size must be at least 265 .*, got 264; raise it"):
        Tokenizer.train(["text"], 264)
    with pytest.raises(
        ConfigError, match=r"different pairs for vocab_size 600, they give 267; give longer texts"
    ):
        Tokenizer.train(["abc"], 600)


def damaged(document, name):
    tokens = document["mergeable"]
    changes = {
        "another format": {"format": "megacontext-bpe-2"},
        "other specials": {"special_tokens": ["<|bos|>"]},
        "no tokens": {"mergeable": []},
        "tokens cut off": {"mergeable": tokens[:200]},
        "a token twice": {"mergeable": [*tokens[:-1], tokens[300]]},
        "a byte lost": {"mergeable": [base64.b64encode(b"zzzz").decode(), *tokens[1:]]},
        "no base64": {"mergeable": ["!!!!", *tokens[1:]]},
        "tokens that are numbers": {"mergeable": [1, 2, 3]},
        "a broken pattern": {"pattern": "((("},
        "a pattern that is no text": {"pattern": 4},
    }
    return document | changes[name]


@pytest.mark.parametrize(
    "name",
    [
        "another format",
        "other specials",
        "no tokens",
        "tokens cut off",
        "a token twice",
        "a byte lost",
        "no base64",
        "tokens that are numbers",
        "a broken pattern",
        "a pattern that is no text",
    ],
)
def test_a_damaged_vocabulary_is_refused_in_a_sentence(tokenizer, tmp_path, name):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    path.write_text(json.dumps(damaged(json.loads(path.read_text()), name)))
    with pytest.raises(
        ConfigError, match=r"must be JSON of format megacontext-bpe-1, but .* is not .*; restore it"
    ):
        Tokenizer.load(path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'"text"', b"{}", b"\xff\xfe\x00", b"PK\x03\x04"]
)
def test_a_foreign_file_is_no_vocabulary(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="must be JSON of format"):
        Tokenizer.load(path)


def test_a_vocabulary_that_is_not_there_says_how_to_make_one(tmp_path):
    with pytest.raises(
        ConfigError, match=r"must be readable, .*none.json is not .*; make one with `megacontext train"
    ):
        Tokenizer.load(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="must be readable"):
        Tokenizer.load(tmp_path)
