"""What a block says in words: its text with the few tokens before it that its address has seen.

So a sentence that a block's border cuts is found by its subject here as it is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from megacontext.tokenizer import Tokenizer
from megacontext.tree.memory import Memory

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Lower-case words of a text."""
    return _WORD.findall(text.lower())


def block_texts(
    memory: Memory, tokenizer: Tokenizer, first: int, stop: int, left_tokens: int
) -> Iterator[str]:
    """The text of each of the blocks [first, stop); the last one may be unfinished."""
    size = memory.block_size
    begin = max(0, first * size - left_tokens)
    ids = memory.tokens(begin, min(stop * size, memory.num_tokens)).tolist()
    for start in range(first * size - begin, len(ids), size):
        yield tokenizer.decode(ids[max(0, start - left_tokens) : start + size])
