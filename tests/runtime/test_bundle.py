"""A bundle comes back as it was saved, or is refused with a sentence that says what is wrong."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import K, bundle_config, model_config, random_bundle, train_tokenizer

from megacontext.errors import CheckpointError, ConfigError, TreeFormatError
from megacontext.gistnet.gist import GistNetConfig
from megacontext.runtime.bundle import Bundle, weights_checksum
from megacontext.runtime.encoding import BundleEncoder
from megacontext.tree import Memory

FILES = ("model.json", "model.safetensors", "tokenizer.json")


@pytest.fixture
def copy(bundle_folder, tmp_path):
    """A bundle's folder that may be damaged."""
    return shutil.copytree(bundle_folder, tmp_path / "copy")


def rewrite(folder, **changes):
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_loaded_bundle_is_the_saved_one(bundle, bundle_folder):
    loaded = Bundle.load(bundle_folder)
    assert loaded.config == bundle.config
    assert loaded.fingerprint() == bundle.fingerprint()
    assert loaded.embedding_fingerprint() == bundle.embedding_fingerprint()
    assert loaded.tokenizer.fingerprint == bundle.tokenizer.fingerprint
    for (_, one), (_, other) in zip(bundle.parts(), loaded.parts(), strict=True):
        assert not other.training
        for (name, weight), (other_name, other_weight) in zip(
            one.state_dict().items(), other.state_dict().items(), strict=True
        ):
            assert name == other_name and torch.equal(weight, other_weight), name


def test_saving_loading_and_saving_again_gives_the_same_bytes(bundle_folder, tmp_path):
    Bundle.load(bundle_folder).save(tmp_path / "again")
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == sorted(FILES)
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (bundle_folder / name).read_bytes(), name


def test_what_was_saved_is_what_goes_on_being_used(tokenizer, tmp_path):
    bundle = random_bundle(tokenizer)
    with torch.no_grad():
        bundle.base.lm_head.weight.add_(1e-4 * torch.randn(bundle.base.lm_head.weight.shape))
    before = bundle.fingerprint()
    bundle.save(tmp_path / "model")
    assert bundle.fingerprint() != before, "weights were rounded to float16"
    assert Bundle.load(tmp_path / "model").fingerprint() == bundle.fingerprint()


def test_the_fingerprint_is_of_the_weights_of_the_parts_named(tokenizer):
    one, same, other = (random_bundle(tokenizer, seed) for seed in (0, 0, 1))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    with torch.no_grad():
        same.lens.scalar.bias.add_(1)
    assert one.fingerprint("base", "gistnet", "address") == same.fingerprint("base", "gistnet", "address")
    assert one.fingerprint("lens") != same.fingerprint("lens")


@pytest.mark.parametrize("name", FILES)
def test_a_folder_without_one_of_its_files_is_refused(copy, name):
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        Bundle.load(copy)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "binary"])
def test_a_damaged_file_is_refused(copy, name, damage):
    path = copy / name
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        # A digit of the description or the vocabulary may mean another, so the flip breaks its structure.
        at = content.index(b"{") if name.endswith("json") else len(content) - 3
        content[at] ^= 0xFF
    path.write_bytes(
        {"empty": b"", "cut": content[: len(content) // 2], "binary": b"\x93\x00\xff"}.get(damage, content)
    )
    with pytest.raises(CheckpointError, match=r".*; (restore|train)|.*: restore"):
        Bundle.load(copy)


def test_a_path_that_is_no_model_says_how_to_make_one(tmp_path):
    (tmp_path / "file").write_text("no folder")
    for path in (tmp_path, tmp_path / "none", tmp_path / "file"):
        with pytest.raises(
            CheckpointError, match=r"must hold model.json, .* does not .*; make one with `megacontext"
        ):
            Bundle.load(path)


@pytest.mark.parametrize(
    "description",
    [
        "null",
        "[]",
        "3",
        '"text"',
        "{}",
        '{"format": 1}',
        '{"format": 1, "config": {}, "weights_blake2b": ""}',
    ],
)
def test_a_description_of_something_else_is_refused(copy, description):
    (copy / "model.json").write_text(description)
    with pytest.raises(CheckpointError, match="must be the JSON description of a model"):
        Bundle.load(copy)


def test_a_newer_format_is_refused(copy):
    rewrite(copy, format=2)
    with pytest.raises(CheckpointError, match=r"reads model format 1, .* has 2; update MegaContext"):
        Bundle.load(copy)


def test_weights_of_another_model_are_refused_by_their_checksum(copy, tokenizer, tmp_path):
    random_bundle(tokenizer, seed=5).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", copy)
    with pytest.raises(
        CheckpointError, match=r"must have the checksum .*; they are damaged or of another model"
    ):
        Bundle.load(copy)


def test_the_vocabulary_of_another_model_is_refused_even_when_it_is_as_large(copy):
    train_tokenizer(start=40_000).save(copy / "tokenizer.json")
    with pytest.raises(
        CheckpointError, match=r"must be the vocabulary .* that the model was trained with, got"
    ):
        Bundle.load(copy)


def test_a_vocabulary_of_another_size_is_refused(tokenizer):
    with pytest.raises(CheckpointError, match=r"model.vocab_size = 601 ids, got 600; use the tokenizer"):
        Bundle(bundle_config(model=model_config(vocab_size=601)), tokenizer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_layer": 3}, "the weights of base must fit model.json, .*Missing key"),
        ({"n_layer": 4}, "the weights of base must fit model.json, .*Missing key"),
        ({"n_embd": 64}, "the weights of base must fit model.json, .*size mismatch"),
        ({"n_embd": 30}, "must be whole, but model.n_embd must be"),
        ({"n_embd": "wide"}, "must be whole, but model.json: model.n_embd must be an integer"),
        ({"depth": 3}, "must be whole, but model.json: unknown key 'model.depth'"),
    ],
)
def test_a_description_that_was_tampered_with_is_refused_in_one_sentence(copy, change, message):
    config = json.loads((copy / "model.json").read_text())["config"]
    rewrite(copy, config=config | {"model": config["model"] | change})
    with pytest.raises(CheckpointError, match=message) as refused:
        Bundle.load(copy)
    assert "\n" not in str(refused.value)


def test_a_weight_that_is_missing_from_a_file_with_the_right_checksum_is_noticed(copy):
    weights = load_file(copy / "model.safetensors")
    del weights["lens.scalar.bias"]
    save_file(weights, copy / "model.safetensors")
    rewrite(copy, weights_blake2b=weights_checksum(copy / "model.safetensors"))
    with pytest.raises(CheckpointError, match=r"the weights of lens must fit model.json, .*lens|scalar.bias"):
        Bundle.load(copy)


def test_a_half_written_bundle_never_loads(tokenizer, copy, monkeypatch):
    bundle = random_bundle(tokenizer, seed=3)

    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle.tokenizer, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bundle.save(copy)
    with pytest.raises(CheckpointError, match=r"must hold model.json"):
        Bundle.load(copy)


def test_parts_that_cannot_fit_together_are_refused():
    with pytest.raises(ConfigError, match="block_size must be at least 2, got 1; the usual one is 32"):
        bundle_config(block_size=1)
    with pytest.raises(ConfigError, match=r"multiple of gistnet.heads, got 32 and 5; change one"):
        bundle_config(gistnet=GistNetConfig(heads=5))


# Memories are made with a bundle, and open with no other.


def test_a_memory_made_with_another_bundle_refuses_to_open(tokenizer, encoder, tmp_path):
    with Memory.create(tmp_path / "memory", encoder.identity(), encoder) as memory:
        memory.append(np.arange(3 * K, dtype=np.int32))
    other = BundleEncoder(random_bundle(tokenizer, seed=1))
    with pytest.raises(
        TreeFormatError, match=r"only with the parts .*embedding is .*encoder is .*ingest the text again"
    ):
        Memory.open(tmp_path / "memory", other.identity())
    with Memory.open(tmp_path / "memory", encoder.identity()) as memory:
        assert memory.num_tokens == 3 * K


def test_a_memory_made_with_another_vocabulary_refuses_to_open(encoder, tmp_path):
    Memory.create(tmp_path / "memory", encoder.identity(), encoder).close()
    other = BundleEncoder(random_bundle(train_tokenizer(start=40_000)))
    assert other.fingerprint == encoder.fingerprint
    with pytest.raises(TreeFormatError, match=r"tokenizer is '.*' there and '.*' here"):
        Memory.open(tmp_path / "memory", other.identity())


def test_lensnet_may_change_without_making_memories_stale(tokenizer, encoder):
    other = random_bundle(tokenizer)
    with torch.no_grad():
        other.lens.scalar.bias.add_(1)
        other.base.lm_head.weight.add_(1)
    assert BundleEncoder(other).identity() == encoder.identity()
    assert dataclasses.asdict(encoder.identity()).keys() == {
        "tokenizer",
        "embedding",
        "encoder",
        "block_size",
    }
