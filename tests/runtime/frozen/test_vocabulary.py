"""A tokenizer of somebody else as a vocabulary: every text comes back, byte for byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models.huggingface.hf_toys import byte_tokenizer

from megacontext.errors import CheckpointError
from megacontext.runtime.frozen.vocabulary import FrozenVocabulary

VOCABULARY = FrozenVocabulary(byte_tokenizer())


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_the_bytes_of_the_ids_are_those_of_the_text(text):
    ids = VOCABULARY.encode(text)
    assert ids.dtype == "int32"
    assert b"".join(map(VOCABULARY.token_bytes, ids.tolist())) == text.encode()
    assert VOCABULARY.decode(ids) == text


def test_what_looks_like_a_special_token_is_text():
    ids = VOCABULARY.encode("<|im_start|>user")
    assert VOCABULARY.special_id("<|im_start|>") not in ids
    assert VOCABULARY.decode(ids) == "<|im_start|>user"
    assert VOCABULARY.special_id("<|no such|>") is None


def test_other_tokens_make_another_fingerprint():
    other = byte_tokenizer()
    other.add_tokens(["<|new|>"])
    assert FrozenVocabulary(other).fingerprint != VOCABULARY.fingerprint
    assert FrozenVocabulary(byte_tokenizer()).fingerprint == VOCABULARY.fingerprint


def test_a_vocabulary_that_loses_text_is_refused():
    lossy = byte_tokenizer()
    plain = lossy.backend_tokenizer
    from tokenizers import normalizers

    plain.normalizer = normalizers.Lowercase()
    with pytest.raises(CheckpointError, match="must give back the bytes of a text"):
        FrozenVocabulary(lossy)
