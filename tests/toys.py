"""Toy parts that the tests share: a vocabulary, random networks that do something, readings of them.

Blocks of 8 tokens, so that a few hundred tokens make four levels.
"""

from pathlib import Path

import numpy as np
import torch

from megacontext.config import data_root
from megacontext.gistnet.address import AddressNetConfig
from megacontext.gistnet.gist import GistNetConfig
from megacontext.lensnet.lens import LensNetConfig
from megacontext.models.gpt import GPT, GPTConfig
from megacontext.runtime.bundle import Bundle, BundleConfig
from megacontext.tokenizer import Tokenizer
from megacontext.train.contexts import vocabulary_texts

K = 8
VOCABULARY = 600


def prose(characters: int, start: int = 1000) -> str:
    """A stretch of a shipped book."""
    return (data_root() / "books" / "persuasion.txt").read_text(encoding="utf-8")[start : start + characters]


def train_tokenizer(vocab_size: int = VOCABULARY, start: int = 1000) -> Tokenizer:
    texts = vocabulary_texts([prose(30_000, start)], np.random.default_rng(0), sentences=200)
    return Tokenizer.train(texts, vocab_size)


def model_config(**changes: object) -> GPTConfig:
    shape = {
        "sequence_len": 256,
        "vocab_size": VOCABULARY,
        "n_layer": 2,
        "n_head": 2,
        "n_kv_head": 2,
        "n_embd": 32,
    }
    return GPTConfig(**(shape | changes))


def bundle_config(**changes: object) -> BundleConfig:
    parts = {
        "block_size": K,
        "model": model_config(),
        "gistnet": GistNetConfig(heads=2),
        "address": AddressNetConfig(address_width=16, width=32, heads=2, left_tokens=4),
        "lens": LensNetConfig(width=16, heads=2),
    }
    return BundleConfig(**(parts | changes))


def stir(network: torch.nn.Module, seed: int, scale: float = 0.1) -> None:
    """Add noise to every parameter: what starts at zero or one does something afterwards."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)


def random_base(**changes: object) -> GPT:
    """A model whose every weight has a say, the same for the same config, whatever was drawn before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT(model_config(**changes))
    stir(model, 0)
    return model.eval()


def random_bundle(tokenizer: Tokenizer, seed: int = 0, **changes: object) -> Bundle:
    """Networks with random weights in which every parameter matters, as float16 would store them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        bundle = Bundle(bundle_config(**changes), tokenizer)
    for _, part in bundle.parts():
        stir(part, seed)
        part.half().float().eval()
    return bundle


def write_book(path: Path, characters: int = 12_000, start: int = 1000) -> Path:
    path.write_text(prose(characters, start), encoding="utf-8")
    return path


def ids_of(count: int, seed: int = 0, vocabulary: int = VOCABULARY - 9) -> np.ndarray:
    """Random token ids, int32."""
    return np.random.default_rng(seed).integers(0, vocabulary, size=count, dtype=np.int32)
