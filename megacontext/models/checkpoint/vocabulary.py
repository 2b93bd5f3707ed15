"""nanochat's `tokenizer.pkl`, read without running what it holds, and written so that nanochat reads it.

The file is a pickle of a `tiktoken.Encoding`, and unpickling runs code. So it is read in two steps. First its
opcodes are listed, which runs nothing, and all but those that put texts, bytes, numbers and dicts together are refused:
nothing can be called. Then it is unpickled with a reader that admits one name, tiktoken's class, and answers it with a
record that does nothing but keep what it is given: tiktoken's own class would fetch a vocabulary from the network when
a file names one. What comes out is held against nanochat's layout and becomes our Tokenizer.

The only module that may import pickle (tests/test_layers.py).
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import tiktoken
import torch

from megacontext.errors import CheckpointError
from megacontext.models.checkpoint.layout import write_whole
from megacontext.models.config import GPTConfig
from megacontext.tokenizer import SPECIAL_TOKENS, Tokenizer

_PICKLE, _BYTES = "tokenizer.pkl", "token_bytes.pt"
_LARGEST_BYTES = 64 * 2**20
"""A vocabulary of a million tokens stays below this; what is larger is none."""
_ADMITTED = ("tiktoken.core", "Encoding")
_HARMLESS = frozenset(
    {
        *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
        *(
            "NONE",
            "BININT",
            "BININT1",
            "BININT2",
            "LONG1",
            "EMPTY_DICT",
            "SETITEM",
            "SETITEMS",
            "EMPTY_TUPLE",
        ),
        *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        # The class of the one object, the object, and its state.
        *("GLOBAL", "STACK_GLOBAL", "NEWOBJ", "BUILD"),
    }
)


class _Kept:
    """Stands in for tiktoken.Encoding and only keeps its state."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Reader(pickle.Unpickler):
    """Admits tiktoken's class alone."""

    def find_class(self, module: str, name: str) -> type[_Kept]:
        if (module, name) != _ADMITTED:
            raise pickle.UnpicklingError(f"it names {module!r} {name!r}")
        return _Kept


def load_tokenizer(folder: Path) -> Tokenizer:
    """The vocabulary in `folder`/tokenizer.pkl. Nothing in the file is executed.

    Raises CheckpointError for a file that is absent, too large, cut off, hostile or no vocabulary of nanochat's.
    """
    path = Path(folder) / _PICKLE
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
    except OSError as problem:
        raise CheckpointError(
            f"a vocabulary of nanochat's is a readable file, {path} is not ({problem.strerror}); check the path"
        ) from None
    if len(content) > _LARGEST_BYTES:
        raise CheckpointError(
            f"a vocabulary of nanochat's has at most {_LARGEST_BYTES:,} bytes, {path} has more; it is foreign"
        )
    ranks, pattern = _checked(_unpickled(content, path), path)
    try:
        return Tokenizer(ranks, pattern)
    except Exception as problem:
        # tiktoken refuses a split pattern or ranks that it cannot use with exceptions of several kinds.
        raise CheckpointError(f"tiktoken must accept the vocabulary, of {path} it says: {problem}") from None


def check_vocabulary(tokenizer: Tokenizer, config: GPTConfig) -> None:
    """Raises CheckpointError unless the vocabulary is as large as the model's."""
    if tokenizer.vocab_size != config.vocab_size:
        raise CheckpointError(
            f"the vocabulary must have the model's vocab_size of {config.vocab_size:,} ids, got "
            f"{tokenizer.vocab_size:,}; use the tokenizer that the model was trained with"
        )


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.pkl and token_bytes.pt into `folder`, made if need be, as nanochat has them.

    token_bytes.pt is int32 (V,): 0 for specials, otherwise the bytes of the id's text. Like nanochat's, that counts an
    id which is no UTF-8 by itself as the replacement characters that it decodes to. Raises CheckpointError.
    """
    folder = Path(folder)
    first_special = tokenizer.vocab_size - len(SPECIAL_TOKENS)
    encoding = tiktoken.Encoding(
        name="rustbpe",
        pat_str=tokenizer.pattern,
        mergeable_ranks={tokenizer.token_bytes(token): token for token in range(first_special)},
        special_tokens={name: first_special + offset for offset, name in enumerate(SPECIAL_TOKENS)},
    )
    lengths = [len(tokenizer.decode([token]).encode()) for token in range(first_special)]
    counted = torch.tensor(lengths + [0] * len(SPECIAL_TOKENS), dtype=torch.int32)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise CheckpointError(
            f"a vocabulary needs a folder, {folder} cannot be one ({problem.strerror})"
        ) from None
    write_whole(folder / _BYTES, lambda file: torch.save(counted, file))
    write_whole(folder / _PICKLE, lambda file: pickle.dump(encoding, file))


def _unpickled(content: bytes, path: Path) -> object:
    """The state of the one object that the file may hold."""
    try:
        for opcode, _, _ in pickletools.genops(content):
            if opcode.name not in _HARMLESS:
                raise pickle.UnpicklingError(f"it uses {opcode.name}")
        kept = _Reader(io.BytesIO(content)).load()
    except Exception as problem:
        # Bytes that are no pickle fail in either reader, with any exception.
        raise CheckpointError(
            f"tokenizer.pkl must hold a tiktoken.Encoding and nothing else, {path} was refused unread ({problem}); "
            "take it from where nanochat wrote it"
        ) from None
    return kept.state if isinstance(kept, _Kept) else None


def _checked(state: object, path: Path) -> tuple[dict[bytes, int], str]:
    """Ranks and split pattern, if they are laid out as nanochat does it: merges first, then its nine specials."""
    fields = {"name", "pat_str", "mergeable_ranks", "special_tokens"}
    known: dict[str, Any] = state if isinstance(state, dict) and set(state) == fields else {}
    ranks, pattern, specials = (known.get(name) for name in ("mergeable_ranks", "pat_str", "special_tokens"))
    if not (isinstance(ranks, dict) and isinstance(pattern, str) and isinstance(specials, dict)):
        raise CheckpointError(
            f"a vocabulary must spell out its ranks, its pattern and its specials, {path} does not; it is foreign"
        )
    whole = (
        all(type(token) is bytes and token for token in ranks)
        and all(type(rank) is int for rank in ranks.values())
        and sorted(ranks.values()) == list(range(len(ranks)))
        and all(bytes([byte]) in ranks for byte in range(256))
    )
    if not whole:
        raise CheckpointError(
            f"a vocabulary must rank all 256 bytes and its merges from 0 on without a gap, {path} does not; "
            "it is damaged or foreign"
        )
    wanted = {name: len(ranks) + offset for offset, name in enumerate(SPECIAL_TOKENS)}
    if specials != wanted:
        raise CheckpointError(
            f"a vocabulary must end in nanochat's nine specials, {SPECIAL_TOKENS[0]} to {SPECIAL_TOKENS[-1]}, "
            f"{path} does not; it is of another make"
        )
    return ranks, pattern
