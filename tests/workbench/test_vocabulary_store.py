"""A memory's vocabulary is found by its fingerprint, wherever its model is."""

import subprocess
import sys
from pathlib import Path

import pytest

from megacontext.config import data_root
from megacontext.errors import ConfigError
from megacontext.tokenizer import Tokenizer
from workbench.stores.vocabulary import vocabulary_of

TINY = Tokenizer.load(data_root() / "tiny" / "tokenizer.json")


def test_a_vocabulary_that_ships_is_found_whatever_model_is_named() -> None:
    for model in ("", "tiny", "no-such-model"):
        assert vocabulary_of(TINY.fingerprint, model).fingerprint == TINY.fingerprint


def test_the_folder_that_a_recipe_names_is_looked_into(tmp_path: Path) -> None:
    own = Tokenizer({bytes([byte]): byte for byte in range(256)})
    own.save(tmp_path / "tokenizer.json")
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ConfigError, match=f"needs the vocabulary {own.fingerprint}"):
        vocabulary_of(own.fingerprint)
    assert vocabulary_of(own.fingerprint, str(tmp_path)).decode([104, 105]) == "hi"


def test_a_damaged_model_is_part_of_the_sentence(tmp_path: Path) -> None:
    (tmp_path / "reader.json").write_text("{")
    with pytest.raises(ConfigError, match="which decoder it reads with"):
        vocabulary_of("0" * 16, str(tmp_path))


def test_text_needs_no_torch() -> None:
    program = (
        f"import sys; from workbench.stores.vocabulary import vocabulary_of; vocabulary_of({TINY.fingerprint!r});"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
