"""A Hugging Face tokenizer in the shape of our own: text to ids and back, and the bytes of one id.

Deliberately knows nothing of chat templates or models.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from megacontext.errors import CheckpointError


class FrozenVocabulary:
    """Ids [0, vocab_size) of a tokenizer that cuts bytes (GPT-2's kind). Special tokens in a text stay text."""

    def __init__(self, tokenizer: Any):
        """Raises CheckpointError for a tokenizer that does not give every text back."""
        self._tokenizer = tokenizer
        self.vocab_size = len(tokenizer)
        digest = hashlib.blake2b(digest_size=8)
        for token, number in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
            digest.update(number.to_bytes(4, "little") + token.encode() + b"\0")
        self.fingerprint = digest.hexdigest()
        self._bytes = [_bytes_of(name) for name in tokenizer.convert_ids_to_tokens(range(self.vocab_size))]
        probe = "Là, \t“naïve”\n 1,234 words."
        if b"".join(map(self.token_bytes, self.encode(probe).tolist())) != probe.encode():
            raise CheckpointError(
                f"a vocabulary must give back the bytes of a text, {type(tokenizer).__name__} does not; use a decoder "
                "whose tokenizer cuts bytes, as GPT-2's does"
            )

    def encode(self, text: str) -> np.ndarray:
        """Ids of `text` as int32 (T,), without any special token."""
        # The length that a tokenizer warns about is that of the decoder's own window: no limit here.
        ids = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return np.asarray(ids["input_ids"], dtype=np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; bytes that are no UTF-8 (a cut inside a character) become U+FFFD."""
        return self._tokenizer.decode(
            [int(token) for token in ids], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def special_id(self, name: str) -> int | None:
        """Id of a special token, None where there is no such one."""
        found = self._tokenizer.convert_tokens_to_ids(name)
        unknown = found is None or (
            found == self._tokenizer.unk_token_id and name != self._tokenizer.unk_token
        )
        return None if unknown else int(found)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for; a special token's own name."""
        return self._bytes[int(token)]


def _bytes_of(name: str) -> bytes:
    letters = _letters()
    if all(letter in letters for letter in name):
        return bytes(letters[letter] for letter in name)
    return name.encode()


@functools.cache
def _letters() -> dict[str, int]:
    """The visible letter for each byte in the names of tokens: itself where it prints, else one from 256 on."""
    prints = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in prints]
    table = {chr(byte): byte for byte in prints}
    return table | {chr(256 + number): byte for number, byte in enumerate(hidden)}
