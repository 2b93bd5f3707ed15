"""A tiny random Llama in a folder, a decoder that opens it, and texts of its own."""

import random

import pytest
from models.huggingface.hf_toys import TEXT, save_model

from megacontext.runtime.pooled_gists import open_decoder

SINK = "<|im_start|>"


def words(seed, count=1500):
    chosen = random.Random(seed)
    return " ".join(chosen.choice(TEXT.split()) for _ in range(count))


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory):
    """The model in `model`, texts in a.txt to d.txt."""
    folder = tmp_path_factory.mktemp("pooled")
    save_model(folder / "model", initializer_range=0.3)
    for seed, name in enumerate("abcd"):
        (folder / f"{name}.txt").write_text(words(seed), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def decoder(toy_folder):
    return open_decoder(str(toy_folder / "model"), "cpu", "float32", SINK)


@pytest.fixture(scope="session")
def recipe(toy_folder):
    """A recipe of a few steps over toy texts."""
    return {
        "base": str(toy_folder / "model"),
        "documents": [str(toy_folder / "a.txt"), str(toy_folder / "b.txt")],
        "sink": SINK,
        "precision": "float32",
        "block_size": 8,
        "segment_blocks": 12,
        "matching.steps": 12,
        "matching.queries": 24,
        "distill.steps": 6,
        "distill.distant_blocks": 4,
        "distill.raw_tokens": 8,
        "distill.scored_tokens": 16,
    }
