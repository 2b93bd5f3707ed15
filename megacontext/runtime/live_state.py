"""What the next token of a live session depends on besides its memory and its model, as a file that can be checked.

A state is JSON: levels and indices of the context, the allocator's cooldowns, the state of the random generator. It
names the memory that it belongs to by its parts and by its first and last tokens, so that it is not taken for that of
another one.

Deliberately knows nothing of how a session uses it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megacontext.errors import CheckpointError, MegaContextError
from megacontext.focus import AllocatorState, WorkingContext
from megacontext.runtime.run import write_json
from megacontext.spans import Node, complete_counts
from megacontext.tree import Memory

_FORMAT = 1
_MOST = 1 << 48
"""No history has so many tokens, and no session so many steps."""
EDITS = ("expand", "collapse", "fold")
"""What may have been done to a node; "fold" where it only made room."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveState:
    """A session at rest."""

    context: WorkingContext
    allocator: AllocatorState
    edits: dict[Node, list[tuple[int, str]]]
    """Number of the refocus, and one of EDITS, by node."""
    chance: torch.Generator
    covered: int
    """Tokens that the stable part of a cover-first layout stands for."""
    focused_at: int
    """Length of the history at the last refocus."""
    refocuses: int
    """How many there were."""


def write_state(path: Path, state: LiveState, memory: Memory) -> None:
    """Write `state` of a session over `memory`, whole or not at all."""
    context = state.context
    write_json(
        path,
        {
            "format": _FORMAT,
            "memory": _fingerprint(memory, context.num_tokens),
            "tokens": context.num_tokens,
            "focused_at": state.focused_at,
            "covered": state.covered,
            "revision": memory.revision,
            "lod": context.lod.tolist(),
            "index": context.index.tolist(),
            "allocator": state.allocator.to_plain(),
            "refocuses": state.refocuses,
            "edits": [[*node, said] for node, said in sorted(state.edits.items())],
            "chance": base64.b64encode(state.chance.get_state().numpy().tobytes()).decode("ascii"),
        },
    )


def read_state(path: Path, memory: Memory) -> LiveState:
    """What `write_state` wrote. Raises CheckpointError for anything else, and for another memory's."""
    try:
        return _checked(json.loads(Path(path).read_text(encoding="utf-8")), memory)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RuntimeError,
        MegaContextError,
    ) as problem:
        first = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise CheckpointError(
            f"a session's state must be whole and of this memory, {path} is not ({first}); begin a new session"
        ) from None


def _checked(saved: dict[str, Any], memory: Memory) -> LiveState:
    """Raises almost anything for what is no state of a session over this memory."""
    if saved["format"] != _FORMAT:
        raise ValueError(f"format {saved['format']}, this version reads {_FORMAT}")
    tokens, covered, focused_at, refocuses = (
        _whole(saved[name]) for name in ("tokens", "covered", "focused_at", "refocuses")
    )
    if tokens > memory.num_tokens or saved["revision"] != memory.revision:
        raise ValueError("the memory is shorter than it was, or something was forgotten since")
    if saved["memory"] != _fingerprint(memory, tokens):
        raise ValueError("it was saved with another memory")
    if max(covered, focused_at) > tokens:
        raise ValueError(f"{max(covered, focused_at)} tokens are more than all {tokens}")
    lod, index = (np.array([_whole(one) for one in saved[name]], dtype=np.int64) for name in ("lod", "index"))
    edits: dict[Node, list[tuple[int, str]]] = {}
    for level, place, said in saved["edits"]:
        node = Node(_whole(level), _whole(place))
        edits[node] = [(_whole(number), EDITS[EDITS.index(kind)]) for number, kind in said]
    allocator = AllocatorState.from_plain(saved["allocator"])
    counts = complete_counts(tokens, memory.block_size)
    for node in (*allocator.expanded_at, *allocator.collapsed_at, *allocator.closed, *edits):
        _whole(node.lod), _whole(node.index)
        if not (1 <= node.lod < len(counts) and node.index < counts[node.lod]):
            raise ValueError(f"{tokens} tokens have no {node}")
    chance = torch.Generator()
    chance.set_state(torch.frombuffer(bytearray(base64.b64decode(saved["chance"])), dtype=torch.uint8))
    return LiveState(
        context=WorkingContext(lod, index, tokens, memory.block_size),
        allocator=allocator,
        edits=edits,
        chance=chance,
        covered=covered,
        focused_at=focused_at,
        refocuses=refocuses,
    )


def _fingerprint(memory: Memory, num_tokens: int) -> str:
    """16 hex digits over the parts of the memory and the first and last tokens of its first `num_tokens`."""
    size = memory.block_size
    digest = hashlib.blake2b(repr(memory.identity).encode(), digest_size=8)
    for start in (0, max(0, num_tokens - size)):
        digest.update(memory.tokens(start, min(start + size, num_tokens)).tobytes())
    return digest.hexdigest()


def _whole(number: Any) -> int:
    if type(number) is not int or not 0 <= number < _MOST:
        raise ValueError(f"{number!r} is no whole number from 0 up to {_MOST:,}")
    return number
