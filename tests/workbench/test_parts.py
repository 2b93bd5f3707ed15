"""Which models can read a memory."""

from pathlib import Path

import pytest

from megacontext.errors import ConfigError
from megacontext.runtime.bundle import Bundle, model_folder
from megacontext.runtime.encoding import BundleEncoder
from megacontext.tree import Identity, Memory
from workbench.stores.parts import Parts


@pytest.fixture(scope="module")
def tiny_memory() -> Memory:
    encoder = BundleEncoder(Bundle.load(model_folder("tiny")))
    memory = Memory.create(None, encoder.identity(), encoder)
    memory.append(encoder.tokenizer.encode("It is a truth universally acknowledged. " * 12))
    return memory


def test_a_memory_is_read_by_the_model_that_made_it_and_that_is_opened_once(tiny_memory: Memory) -> None:
    parts = Parts()
    assert parts.fitting(tiny_memory) == ["tiny"]
    assert parts.for_memory(tiny_memory) is parts.named("tiny")


def test_names_that_are_no_model_are_passed_over(tiny_memory: Memory, tmp_path: Path) -> None:
    (tmp_path / "reader.json").write_text("{")
    assert Parts().fitting(tiny_memory, ["", "nowhere", str(tmp_path)]) == ["tiny"]


def test_a_memory_of_other_parts_says_what_to_do() -> None:
    stranger = Memory.create(
        None, Identity(tokenizer="other", embedding="other", encoder="other", block_size=32), None
    )
    with pytest.raises(ConfigError, match="--model"):
        Parts().for_memory(stranger)
