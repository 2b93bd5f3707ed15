"""The vocabulary of a decoder's folder, read without the decoder: for whoever wants its text and not its thoughts.

`tokenizer.json` is what the library transformers itself reads, through the package `tokenizers`, which opens in a tenth
of a second where transformers and torch take many. The vocabulary has the fingerprint that the decoder's reader gives
it. Deliberately ignorant of chat templates.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from megacontext.errors import BackendUnavailableError, CheckpointError
from megacontext.runtime.frozen.vocabulary import FrozenVocabulary

NAME = "tokenizer.json"


def load_vocabulary(folder: Path) -> FrozenVocabulary:
    """The vocabulary in `folder`, of a model in Hugging Face's format.

    Raises CheckpointError where there is none that can be read, BackendUnavailableError without the extra `hf`.
    """
    try:
        import tokenizers
    except ModuleNotFoundError:
        raise BackendUnavailableError(
            "the vocabulary of a frozen decoder needs the package tokenizers, which is not installed; "
            'install it with `pip install "megacontext[hf]"`'
        ) from None
    if not (folder / NAME).is_file():
        raise CheckpointError(
            f"a model folder must hold {NAME}, {folder} does not; give the folder of a model in Hugging Face's format"
        )
    try:
        return FrozenVocabulary(_Plain(tokenizers.Tokenizer.from_file(str(folder / NAME))))
    except CheckpointError:
        raise
    except Exception as problem:  # the package raises Exception itself
        reason = " ".join(str(problem).split())[:200]
        raise CheckpointError(
            f"{folder / NAME} must describe a tokenizer, it cannot be read ({reason}); restore it"
        ) from None


class _Plain:
    """A tokenizer of the package `tokenizers` with as much of transformers' manners as `FrozenVocabulary` asks for."""

    unk_token: str | None = None
    unk_token_id: int | None = None

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        # Special tokens in a text are text.
        tokenizer.encode_special_tokens = True

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    def __call__(self, text: str, **how: object) -> dict[str, list[int]]:
        return {"input_ids": self._tokenizer.encode(text, add_special_tokens=False).ids}

    def get_vocab(self) -> dict[str, int]:
        return self._tokenizer.get_vocab()

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        # A row that was left free has no name: it stands for no bytes.
        return [self._tokenizer.id_to_token(number) or "" for number in ids]

    def convert_tokens_to_ids(self, name: str) -> int | None:
        return self._tokenizer.token_to_id(name)

    def decode(self, ids: list[int], **how: object) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)
