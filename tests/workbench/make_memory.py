"""Makes small memories that cost nothing: words out of a list, gists and addresses by arithmetic.

Ids are those of the tiny model's vocabulary, so that pages show text.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from megacontext.config import data_root
from megacontext.tokenizer import Tokenizer
from megacontext.tree import Identity, Memory

K = 32
WORDS = (
    "the",
    "lantern",
    "in",
    "harbour",
    "stood",
    "over",
    "a",
    "ledger",
    "of",
    "seven",
    "orchards",
    "and",
    "nobody",
)


class Arithmetic:
    """A gist encoder: sines of the ids. An address sees its block alone."""

    def __init__(self, gist_width: int = 12, address_width: int = 8, fingerprint: str = "arithmetic"):
        self.gist_width, self.address_width, self.fingerprint = gist_width, address_width, fingerprint
        self.block_size, self.left_tokens = K, 0

    def encode_blocks(self, tokens: np.ndarray, left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        waves = np.sin(tokens.astype(np.float32))  # (n, K)
        addresses = np.resize(waves.T, (self.address_width, len(tokens))).T.astype(np.float32)
        if self.address_width:
            addresses /= np.linalg.norm(addresses, axis=1, keepdims=True) + 1e-6
        return np.resize(waves.T, (self.gist_width, len(tokens))).T.astype(np.float32), addresses

    def encode_parents(self, children: np.ndarray, lod: int) -> np.ndarray:
        return children.mean(axis=1)


def vocabulary() -> Tokenizer:
    return Tokenizer.load(data_root() / "tiny" / "tokenizer.json")


def identity(encoder: Arithmetic) -> Identity:
    return Identity(
        tokenizer=vocabulary().fingerprint, embedding="none", encoder=encoder.fingerprint, block_size=K
    )


def some_text(num_words: int, seed: int = 0) -> str:
    """Words in an order that depends on the seed alone."""
    chosen = np.random.default_rng(seed).integers(0, len(WORDS), num_words)
    return " ".join(WORDS[at] for at in chosen)


def create_memory(path: Path | None, encoder: Arithmetic | None = None) -> Memory:
    """An empty one, open for writing."""
    encoder = encoder or Arithmetic()
    return Memory.create(path, identity(encoder), encoder)


def make_memory(
    path: Path,
    num_tokens: int = 5_000,
    documents: tuple[str, ...] = ("first.txt", "second.txt", "third.txt"),
    encoder: Arithmetic | None = None,
) -> Path:
    """A finished one: its tokens in documents of equal length, in whose middle `needle 4711` stands, and some steps."""
    tokenizer = vocabulary()
    ids = tokenizer.encode(some_text(num_tokens))[:num_tokens]
    assert len(ids) == num_tokens, "give some_text more words"
    needle = tokenizer.encode(" needle 4711 ")
    ids[num_tokens // 2 : num_tokens // 2 + len(needle)] = needle
    path.parent.mkdir(parents=True, exist_ok=True)
    with create_memory(path, encoder) as memory:
        for name, part in zip(documents, np.array_split(ids, max(len(documents), 1)), strict=False):
            with memory.document(name):
                memory.append(part)
        if not documents:
            memory.append(ids)
        top = num_tokens // K**2
        if top:
            lod, index = np.array([2, 1, 0]), np.array([0, 3, 4])
            for step in range(4):
                memory.record_access(
                    lod, index, np.array([step == 1, False, False]), time_ms=60_000 * (step + 1)
                )
    return path


def append_elsewhere(
    path: Path, appends: int, pause_s: float = 0.0, num_tokens: int = 70
) -> subprocess.Popen:
    """Another process, already begun, that appends so many times so many tokens to a memory, or to a new one."""
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    arguments = [str(path), str(appends), str(pause_s), str(num_tokens)]
    return subprocess.Popen([sys.executable, __file__, *arguments], env=environment)


def _append(path: Path, appends: int, pause_s: float, num_tokens: int) -> None:
    encoder = Arithmetic()
    ids = vocabulary().encode(some_text(num_tokens))[:num_tokens]
    known = (path / "current").exists()
    memory = Memory.open(path, identity(encoder), encoder, True) if known else create_memory(path)
    with memory:
        for _ in range(appends):
            memory.append(ids)
            time.sleep(pause_s)


if __name__ == "__main__":
    _append(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
