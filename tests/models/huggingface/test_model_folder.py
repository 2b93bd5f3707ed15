"""A model's folder is read whole or refused in a sentence; nothing is fetched, nothing is made up."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from hf_toys import save_model
from safetensors.torch import load_file, save_file

from megacontext.errors import BackendUnavailableError, CheckpointError
from megacontext.models.huggingface.folder import load_model_folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("hub") / "tiny")


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def test_a_saved_model_says_the_same_again(saved):
    one, tokenizer = load_model_folder(saved)
    two, _ = load_model_folder(saved)
    ids = torch.tensor([tokenizer("to be or not", add_special_tokens=False)["input_ids"]])
    positions = torch.arange(ids.shape[1])[None]
    assert torch.equal(*(base.unembed(base(base.embed(ids), positions)) for base in (one, two)))
    assert one.model.dtype == torch.float32


def without_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def with_another_shape(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))


def of_another_kind(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-architecture"}))


def with_fewer_rows(folder):
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in weights:
            weights[name] = weights[name][:50].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 50}))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            without_a_weight,
            r"must hold all weights .* \(1 missing, model.layers.1.mlp.up_proj.weight among them\)",
        ),
        (cut, "cannot be read"),
        (pickled, "cannot be read"),
        (with_another_shape, "cannot be read|must hold all weights"),
        (of_another_kind, "cannot be read"),
        (with_fewer_rows, "must fit the model's embeddings"),
        (lambda folder: (folder / "config.json").unlink(), "must hold config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be read"),
        (shutil.rmtree, "must hold config.json"),
    ],
)
def test_a_damaged_folder_is_refused(folder, damage, sentence):
    damage(folder)
    with pytest.raises(CheckpointError, match=sentence) as refused:
        load_model_folder(folder)
    assert "\n" not in str(refused.value)


def test_without_the_extra_the_sentence_names_it(saved):
    program = f"""
import sys
sys.modules["transformers"] = None
from pathlib import Path
from megacontext.errors import BackendUnavailableError
from megacontext.models.huggingface.folder import load_model_folder
try:
    load_model_folder(Path({str(saved)!r}))
except BackendUnavailableError as problem:
    sys.exit(str(problem))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert "needs the package transformers, which is not installed" in ended.stderr
    assert 'pip install "megacontext[hf]"' in ended.stderr


def test_importing_the_adapter_does_not_import_transformers():
    program = "import sys, megacontext.runtime.bases; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=120).returncode == 0
    assert issubclass(BackendUnavailableError, Exception)
