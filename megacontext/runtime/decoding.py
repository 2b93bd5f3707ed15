"""Greedy decoding of many readings at once, with a key/value cache.

Several readings may be one reader's: then they are heads of one focus, contexts that different scorers chose of the
same history. Their last hidden states are averaged, and each goes on with the token that the average says.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from megacontext.errors import ShapeError
from megacontext.models.base import BaseModel
from megacontext.runtime.context_cache import ContextCache, NextToken
from megacontext.runtime.reading import Reading, stack

_BATCH = 32
"""Readings decoded together: enough to keep two cores busy at the tiny model's size."""


@torch.inference_mode()
def decode_greedily(
    base: BaseModel, readings: list[Reading], *, max_tokens: int, stop_tokens: Collection[int], heads: int = 1
) -> list[list[int]]:
    """Token ids that follow each reading, at most `max_tokens`, without that of `stop_tokens` which ended them.

    Every `heads` readings in a row are those of one reader and get one answer. Readers of like length are decoded
    together; the answers come back in the order given. Raises ShapeError for readings that are no whole readers.
    """
    if heads < 1 or len(readings) % heads:
        raise ShapeError(
            f"every reader has {heads} readings, got {len(readings)} in all; give them reader by reader"
        )
    readers = [readings[start : start + heads] for start in range(0, len(readings), heads)]
    answers: list[list[int]] = [[] for _ in readers]
    order = sorted(range(len(readers)), key=lambda number: max(one.cost for one in readers[number]))
    at_once = max(1, _BATCH // heads)
    for start in range(0, len(order), at_once):
        chosen = order[start : start + at_once]
        together = [reading for number in chosen for reading in readers[number]]
        said = _decode(together, base, max_tokens, frozenset(stop_tokens), heads)
        for number, answer in zip(chosen, said, strict=True):
            answers[number] = answer
    return answers


def _decode(
    readings: list[Reading], base: BaseModel, max_tokens: int, stops: frozenset[int], heads: int
) -> list[list[int]]:
    with_entries = any(len(reading.cached_slots) for reading in readings)
    rows = (_OneByOne if with_entries else _SideBySide)(readings, base, max_tokens)
    produced = []
    ends = torch.tensor(sorted(stops), dtype=torch.long, device=base.device)
    running = torch.ones(len(readings) // heads, dtype=torch.bool, device=base.device)
    for step in range(max_tokens):
        merged = rows.hidden.unflatten(0, (-1, heads)).mean(dim=1)  # (B, 1, E) -> (B / heads, 1, E)
        token = base.unembed(merged).argmax(dim=-1)  # (B / heads, 1)
        produced.append(token[:, 0])
        running &= ~torch.isin(token[:, 0], ends)
        if step + 1 == max_tokens or not running.any():
            break
        rows.go_on(token.repeat_interleave(heads, dim=0))
    rows_said = torch.stack(produced, dim=1).tolist()
    return [list(itertools.takewhile(lambda token: token not in stops, row)) for row in rows_said]


def decoding(
    base: BaseModel, reading: Reading, *, max_tokens: int, stop_tokens: Collection[int]
) -> Iterator[int]:
    """Token ids that follow one reading, each as it is drawn, at most `max_tokens` and none of `stop_tokens`."""
    rows = _OneByOne([reading], base, max_tokens)
    for number in range(max_tokens):
        with torch.inference_mode():
            token = base.unembed(rows.hidden).argmax(dim=-1)  # (1, 1)
        if (drawn := int(token)) in stop_tokens:
            return
        yield drawn
        if number + 1 < max_tokens:
            with torch.inference_mode():
                rows.go_on(token)


class _SideBySide:
    """Readings of tokens and embedding gists in one batch; `hidden` (B, 1, E) is what each says next."""

    def __init__(self, readings: list[Reading], base: BaseModel, max_tokens: int):
        batch = stack(readings, base)
        count, width = batch.ids.shape
        self._base, self._cache = base, base.reserve(count, width + max_tokens)
        self._position = batch.positions[:, -1:]
        hidden = base(
            batch.embeddings, batch.positions, ids=batch.ids, padding=batch.padding, cache=self._cache
        )
        self.hidden = hidden[:, -1:]

    def go_on(self, token: Tensor) -> None:
        """Read one more token (B, 1) in each row."""
        self._position = self._position + 1
        self.hidden = self._base(self._base.embed(token), self._position, ids=token, cache=self._cache)


class _OneByOne:
    """The same with a cache of each reading's own, where gists that are keys and values have a place too."""

    def __init__(self, readings: list[Reading], base: BaseModel, max_tokens: int):
        self._caches = [ContextCache(base, reading.cost + max_tokens) for reading in readings]
        self._last = [(int(one.rows.index[-1]), float(one.rows.position[-1])) for one in readings]
        reports = [cache.read(one) for cache, one in zip(self._caches, readings, strict=True)]
        self.hidden = torch.stack([report.hidden for report in reports])

    def go_on(self, token: Tensor) -> None:
        """Read one more token (B, 1) in each row."""
        self._last = [(number + 1, position + 1) for number, position in self._last]
        self.hidden = torch.stack(
            [
                cache.step(NextToken(one, *place))
                for cache, one, place in zip(self._caches, token[:, 0].tolist(), self._last, strict=True)
            ]
        )
