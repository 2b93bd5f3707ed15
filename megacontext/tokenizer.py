"""Byte-pair vocabulary: trained with rustbpe, used through `tiktoken.Encoding`, kept as plain JSON.

The split pattern (GPT-4's with digit runs of at most two) and the nine special tokens, which take the last ids in
a fixed order, follow nanochat, so that a vocabulary trained here fits its checkpoints. Stored as JSON and never
as a pickle: reading a tokenizer must not be able to run code.

Deliberately knows nothing of blocks, trees or models.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import rustbpe
import tiktoken

from megacontext.errors import ConfigError

SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
SPECIAL_TOKENS = tuple(
    f"<|{name}|>"
    for name in (
        "bos",
        "user_start",
        "user_end",
        "assistant_start",
        "assistant_end",
        "python_start",
        "python_end",
        "output_start",
        "output_end",
    )
)
_FORMAT = "megacontext-bpe-1"
_SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)


def check_vocab_size(vocab_size: int) -> None:
    """Raises ConfigError for a vocabulary that cannot even hold the bytes and the specials."""
    if vocab_size < _SMALLEST_VOCABULARY:
        raise ConfigError(
            f"vocab_size must be at least {_SMALLEST_VOCABULARY} (256 bytes and {len(SPECIAL_TOKENS)} specials), "
            f"got {vocab_size}; raise it"
        )


class Tokenizer:
    """Text to ids and back. Ids [0, vocab_size): bytes and merges first, then the nine specials."""

    def __init__(self, mergeable_ranks: dict[bytes, int], pattern: str = SPLIT_PATTERN):
        first_special = len(mergeable_ranks)
        specials = {token: first_special + offset for offset, token in enumerate(SPECIAL_TOKENS)}
        self._ranks = mergeable_ranks
        self._pattern = pattern
        self._encoding = tiktoken.Encoding(
            name="megacontext", pat_str=pattern, mergeable_ranks=mergeable_ranks, special_tokens=specials
        )
        self.vocab_size: int = self._encoding.n_vocab
        self.bos_id: int = specials["<|bos|>"]
        digest = hashlib.blake2b(pattern.encode(), digest_size=8)
        for token, rank in sorted(mergeable_ranks.items(), key=lambda item: item[1]):
            digest.update(rank.to_bytes(4, "little") + len(token).to_bytes(4, "little") + token)
        self.fingerprint: str = digest.hexdigest()

    @property
    def pattern(self) -> str:
        """The split pattern: how a text is cut before its pieces are merged."""
        return self._pattern

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Learn a vocabulary of `vocab_size` ids, specials included. Deterministic for the same texts."""
        check_vocab_size(vocab_size)
        learner = rustbpe.Tokenizer()
        learner.train_from_iterator(
            iter(texts), vocab_size=vocab_size - len(SPECIAL_TOKENS), pattern=SPLIT_PATTERN
        )
        ranks = {bytes(token): rank for token, rank in learner.get_mergeable_ranks()}
        if len(ranks) + len(SPECIAL_TOKENS) < vocab_size:
            raise ConfigError(
                f"the texts must hold enough different pairs for vocab_size {vocab_size}, they give "
                f"{len(ranks) + len(SPECIAL_TOKENS)}; give longer texts or lower it"
            )
        return cls(ranks)

    def encode(self, text: str) -> np.ndarray:
        """Ids of `text` as int32 (T,). Text that looks like a special token is encoded as plain text."""
        return np.asarray(self._encoding.encode_ordinary(text), dtype=np.int32)

    def encode_many(self, texts: list[str]) -> list[np.ndarray]:
        """`encode` of each text, on as many threads as there are processors."""
        rows = self._encoding.encode_ordinary_batch(texts, num_threads=os.cpu_count() or 1)
        return [np.asarray(row, dtype=np.int32) for row in rows]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; bytes that are no UTF-8 (a cut inside a character) become U+FFFD."""
        return self._encoding.decode([int(token) for token in ids])

    def special_id(self, name: str) -> int:
        """Id of one of the nine specials, e.g. "<|user_start|>". Raises ConfigError for another name."""
        if name not in SPECIAL_TOKENS:
            raise ConfigError(f"a special token is one of {', '.join(SPECIAL_TOKENS)}, got {name!r}; use one")
        return self.vocab_size - len(SPECIAL_TOKENS) + SPECIAL_TOKENS.index(name)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for."""
        return self._encoding.decode_single_token_bytes(token)

    def byte_lengths(self) -> np.ndarray:
        """How many bytes each id stands for, int32 (vocab_size,): 0 for the specials."""
        lengths = np.zeros(self.vocab_size, dtype=np.int32)
        for token, rank in self._ranks.items():
            lengths[rank] = len(token)
        return lengths

    def save(self, path: Path) -> None:
        """Write the vocabulary as JSON, replacing `path` only when the whole file is on disk."""
        tokens = sorted(self._ranks, key=self._ranks.__getitem__)
        document = {
            "format": _FORMAT,
            "pattern": self._pattern,
            "special_tokens": list(SPECIAL_TOKENS),
            "mergeable": [base64.b64encode(token).decode("ascii") for token in tokens],
        }
        aside = path.with_name(path.name + ".tmp")
        aside.write_text(json.dumps(document), encoding="utf-8")
        os.replace(aside, path)

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read what `save` wrote. Raises ConfigError for anything else."""
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
            if document["format"] != _FORMAT or tuple(document["special_tokens"]) != SPECIAL_TOKENS:
                raise KeyError("format")
            tokens = [base64.b64decode(token, validate=True) for token in document["mergeable"]]
            ranks = {token: rank for rank, token in enumerate(tokens)}
            if len(ranks) < len(tokens) or not all(bytes([byte]) in ranks for byte in range(256)):
                raise ValueError("its tokens must differ and hold all 256 bytes")
            return cls(ranks, document["pattern"])
        except OSError as problem:
            raise ConfigError(
                f"a tokenizer file must be readable, {path} is not ({problem.strerror}); "
                "make one with `megacontext train tiny`"
            ) from None
        except (ValueError, KeyError, TypeError) as problem:
            raise ConfigError(
                f"a tokenizer file must be JSON of format {_FORMAT}, but {path} is not ({problem}); "
                "restore it or train it again with `megacontext train tiny`"
            ) from None
