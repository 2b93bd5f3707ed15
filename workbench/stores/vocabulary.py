"""From token ids to text and back: the vocabulary that a memory was written with, found by its fingerprint.

A memory names its vocabulary and does not hold it. It stands in the folder of the model that wrote the memory: the one
that the run's recipe names, or one that ships. Only vocabularies are read, never weights, so that a page about text
opens at once. Deliberately ignorant of memories and pages.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from megacontext.config import converted_folder, data_root
from megacontext.errors import ConfigError, MegaContextError
from megacontext.runtime.frozen.tokenizer_file import load_vocabulary
from megacontext.tokenizer import Tokenizer

_OWN, _READER = "tokenizer.json", "reader.json"
_MODEL = "model.json"


class Vocabulary(Protocol):
    """What pages need of a tokenizer."""

    fingerprint: str
    vocab_size: int

    def encode(self, text: str) -> np.ndarray: ...

    def decode(self, ids: Iterable[int]) -> str: ...

    def token_bytes(self, token: int) -> bytes: ...


_known: dict[str, Vocabulary] = {}


def vocabulary_of(fingerprint: str, model: str = "") -> Vocabulary:
    """The vocabulary of that fingerprint, looked for in the folder of `model` and then in those that ship.

    `model` is a name in data/ or the path of a folder, as a recipe has it. Found once in a process. Raises ConfigError
    where none of them has it.
    """
    if fingerprint not in _known:
        reasons = []
        for folder in _folders(model):
            try:
                found = _in_folder(folder)
            except MegaContextError as problem:
                reasons.append(str(problem))
                continue
            if found is not None:
                _known.setdefault(found.fingerprint, found)
            if fingerprint in _known:
                break
        else:
            also = f" ({reasons[0]})" if reasons else ""
            raise ConfigError(
                f"text needs the vocabulary {fingerprint} that its memory was written with; neither "
                f"{f'the model {model!r}' if model else 'a model'} nor one that ships has it{also}; put the model's "
                "folder back"
            )
    return _known[fingerprint]


def _folders(model: str) -> Iterator[Path]:
    root = data_root()
    if model:
        yield root / model
        yield Path(model)
    yield from sorted(path for path in root.iterdir() if path.is_dir())


def _in_folder(folder: Path) -> Vocabulary | None:
    """The vocabulary of a model's folder, None where it is none. Raises MegaContextError for one that is damaged."""
    if (folder / _READER).is_file():
        try:
            decoder = json.loads((folder / _READER).read_text(encoding="utf-8"))["config"]["decoder"]
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise ConfigError(
                f"{folder / _READER} must say which decoder it reads with ({problem}); restore it"
            ) from None
        return load_vocabulary(converted_folder(decoder) if decoder == "smollm2" else Path(decoder))
    if (folder / _MODEL).is_file():
        return Tokenizer.load(folder / _OWN)
    return None
