"""Several live sessions on one model, speaking side by side: one step of the model for a token of each.

Each session keeps its own memory, focus, chances and kept keys and values; they share a room for the latter, and the
passes through the model. What one says is what it would say alone. A session whose block is full is refocused, and its
context read, by itself, while the others wait.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch

from megacontext.errors import ConfigError
from megacontext.models.cache_rows import CacheRows
from megacontext.models.gpt import GPT
from megacontext.runtime.context_cache import ContextCache, NextToken
from megacontext.runtime.live import LiveSession
from megacontext.runtime.speech import Manner, Speech


class LiveBatch:
    """`sessions` of one model, each with a memory of its own.

    What they kept of earlier readings is let go; from then on they keep it in the room that they share, here and by
    themselves. Raises ConfigError for sessions of several models or memories, or of a model that is not our GPT.
    """

    def __init__(self, sessions: Sequence[LiveSession]):
        self.sessions = list(sessions)
        bases = {id(live.base): live.base for live in self.sessions}
        if len(bases) != 1 or len({id(live.memory) for live in self.sessions}) < len(self.sessions):
            raise ConfigError(
                "sessions that speak side by side share one model and have a memory each, got "
                f"{len(self.sessions)} sessions with {len(bases)} models; open them so"
            )
        (base,) = bases.values()
        if not isinstance(base, GPT):
            raise ConfigError(
                f"speaking side by side needs our own GPT, got {type(base).__name__}; let them speak one by one"
            )
        self._base = base
        self._rows = CacheRows(base, len(self.sessions), max(live.budget for live in self.sessions))
        for live, row in zip(self.sessions, self._rows.rows, strict=True):
            live.share(ContextCache(base, live.budget, row))

    def generate(
        self, max_tokens: int, *, temperature: float = 0.0, top_k: int = 0, stop_ids: Collection[int] = ()
    ) -> Iterator[list[int | None]]:
        """The next token of each session, in their order, None for those that have ended; until all have.

        As `LiveSession.generate` for each: options, errors, and what becomes of the tokens.
        """
        manner = Manner(
            max_tokens=max_tokens, temperature=temperature, top_k=top_k, stop_ids=frozenset(stop_ids)
        )
        return self._generate([live.speak(manner) for live in self.sessions])

    def _generate(self, speeches: list[Speech]) -> Iterator[list[int | None]]:
        try:
            for speech in speeches:
                speech.begin()
            while True:
                said = self._draw(speeches)
                if all(token is None for token in said):
                    return
                yield said
                self._go_on(speeches)
        finally:
            for speech in speeches:
                speech.close()

    @torch.inference_mode()
    def _draw(self, speeches: list[Speech]) -> list[int | None]:
        said: list[int | None] = [None] * len(speeches)
        hidden = {row: one.hidden for row, one in enumerate(speeches) if one.hidden is not None}
        if hidden:
            logits = self._base.unembed(torch.cat(list(hidden.values()))).cpu()
            for row, own in zip(hidden, logits, strict=True):
                said[row] = speeches[row].draw(own)
        return said

    def _go_on(self, speeches: list[Speech]) -> None:
        steps = {row: step for row, one in enumerate(speeches) if (step := one.step) is not None}
        hidden = self._step(steps) if steps else None
        for row, speech in enumerate(speeches):
            speech.go_on(hidden[row : row + 1] if hidden is not None and row in steps else None)

    @torch.inference_mode()
    def _step(self, steps: dict[int, NextToken]) -> torch.Tensor:
        """One pass for all rows, of which those of `steps` go on: hidden states (B, E)."""
        base, caches = self._base, [live.cache for live in self.sessions]
        for row in steps:
            caches[row].check_room()
        ids, positions = np.zeros((len(caches), 1), dtype=np.int64), np.zeros((len(caches), 1))
        for row, step in steps.items():
            ids[row], positions[row] = step.token, step.position
        tokens, where = (torch.from_numpy(rows).to(base.device) for rows in (ids, positions))
        hidden = base(base.embed(tokens), where, ids=tokens, cache=self._rows.next_entry(steps))
        for row, step in steps.items():
            caches[row].note(step)
        return hidden[:, 0]
