"""The vocabulary out of its file is the one that the decoder's reader has, special tokens and all."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models.huggingface.hf_toys import byte_tokenizer

from megacontext.errors import CheckpointError
from megacontext.runtime.frozen.tokenizer_file import load_vocabulary
from megacontext.runtime.frozen.vocabulary import FrozenVocabulary

WITH_MODEL = FrozenVocabulary(byte_tokenizer())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("decoder")
    byte_tokenizer().save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def from_file(folder):
    return load_vocabulary(folder)


@given(text=st.text(st.characters(exclude_categories=["Cs"])) | st.just("<|im_start|>user"))
def test_it_reads_and_writes_as_the_decoder_s_own_does(from_file, text):
    ids = WITH_MODEL.encode(text)
    assert np.array_equal(from_file.encode(text), ids) and from_file.decode(ids) == text
    assert list(map(from_file.token_bytes, ids)) == list(map(WITH_MODEL.token_bytes, ids))


def test_it_has_the_same_fingerprint_and_special_tokens(from_file):
    assert (from_file.fingerprint, from_file.vocab_size) == (WITH_MODEL.fingerprint, WITH_MODEL.vocab_size)
    assert from_file.special_id("<|im_start|>") == WITH_MODEL.special_id("<|im_start|>")
    assert from_file.special_id("<|no such|>") is None


def test_it_needs_neither_the_library_nor_torch(folder):
    program = (
        "import sys; from pathlib import Path; from megacontext.runtime.frozen.tokenizer_file import load_vocabulary;"
        f"load_vocabulary(Path({str(folder)!r})); sys.exit(bool({{'torch', 'transformers'}} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_folder_without_one_or_with_a_damaged_one_is_a_sentence(tmp_path):
    with pytest.raises(CheckpointError, match=r"must hold tokenizer\.json"):
        load_vocabulary(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_vocabulary(tmp_path)
