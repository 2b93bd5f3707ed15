"""What a session is saying: one token after the other, each becoming part of its history.

A speech goes on in two halves, so that several may be spoken side by side: `draw` says the next token from a hidden
state, `go_on` makes the hidden state after it. Mostly that is one step of the model behind what is already read, which
whoever speaks for several sessions may make for all of them at once (`batch`); where a block has been filled, or the
memory has changed, the context is read anew.

Deliberately knows nothing of focusing: the session brings its context up to the history.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from megacontext.focus import WorkingContext
from megacontext.runtime.context_cache import ContextCache, NextToken
from megacontext.runtime.generation import check_drawing, draw
from megacontext.tree import Memory


class Speaker(Protocol):
    """Whose history it is, and who reads it: a live session."""

    memory: Memory
    context: WorkingContext
    cache: ContextCache
    chance: torch.Generator

    @property
    def is_as_read(self) -> bool:
        """Whether what was read is still what the memory holds."""
        ...

    def catch_up(self) -> None:
        """Take what has come into the context, and refocus where that is due."""
        ...

    def read(self) -> torch.Tensor:
        """Bring the cache to the context; the last hidden state (1, E)."""
        ...

    def next_token(self, token: int, number: int) -> NextToken:
        """`token` as the `number`-th of the history, behind what the cache holds."""
        ...


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How tokens are drawn, and what ends a speech. Options as for `generation.generate`."""

    max_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    stop_ids: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        check_drawing(self.max_tokens, self.temperature, self.top_k, 0)


class Speech:
    """Tokens that a session says, from the first `draw` on until it returns None or somebody closes it."""

    def __init__(self, live: Speaker, manner: Manner):
        self._live, self._manner = live, manner
        self._left = manner.max_tokens
        self._unsaved: list[int] = []
        self._last = 0
        self._number = 0
        """How long the history is, what is not in the memory yet included."""
        self._ended = False
        self.hidden: torch.Tensor | None = None
        """(1, E): what the next token is drawn from; None before the first and at the end."""

    def begin(self) -> None:
        """Bring the context up to the history and read it, once."""
        if self.hidden is None and not self._ended:
            self._live.catch_up()
            self.hidden = self._live.read()
            self._number = self._live.context.num_tokens

    def draw(self, logits: torch.Tensor) -> int | None:
        """The next token, by logits (V,) of `hidden`; None where the speech has ended."""
        if self._ended:
            return None
        manner = self._manner
        token = draw(logits, manner.temperature, manner.top_k, self._live.chance)
        if token in manner.stop_ids:
            self.close()
            return None
        self._unsaved.append(token)
        self._last = token
        self._number += 1
        self._left -= 1
        return token

    @property
    def step(self) -> NextToken | None:
        """The step of the model that comes next; None where there is none, or the context is to be read anew."""
        live = self._live
        whole = self._number % live.memory.block_size == 0 or not live.is_as_read
        if self._ended or not self._left or whole:
            return None
        return live.next_token(self._last, self._number - 1)

    def go_on(self, hidden: torch.Tensor | None = None) -> None:
        """Make what the next token is drawn from. `hidden` (1, E) is the outcome of `step` where that was made."""
        if self._ended:
            return
        step = self.step
        if not self._left:
            self.close()
        elif step is not None:
            self.hidden = self._live.cache.step(step) if hidden is None else hidden
        else:
            self.save()
            self._live.catch_up()
            self.hidden = self._live.read()

    def save(self) -> None:
        """What was said goes into the memory."""
        if self._unsaved:
            self._live.memory.append(np.array(self._unsaved, dtype=np.int32))
            self._unsaved.clear()

    def close(self) -> None:
        """End it, whoever listens: what was said is remembered, and the context holds it."""
        if not self._ended:
            self._ended, self.hidden = True, None
            self.save()
            live = self._live
            live.context = live.context.extend(live.memory.num_tokens)
