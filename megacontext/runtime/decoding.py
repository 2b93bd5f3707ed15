"""Greedy decoding of many readings at once, with a key/value cache.

Several readings may be one reader's: then they are heads of one focus, contexts that different scorers chose of the
same history. Their last hidden states are averaged, and each goes on with the token that the average says.
"""

from __future__ import annotations

import torch

from megacontext.errors import ShapeError
from megacontext.models.base import BaseModel
from megacontext.runtime.reading import Reading, stack

_BATCH = 32
"""Readings decoded together: enough to keep two cores busy at the tiny model's size."""


@torch.inference_mode()
def decode_greedily(
    base: BaseModel, readings: list[Reading], *, max_tokens: int, stop_token: int, heads: int = 1
) -> list[list[int]]:
    """Token ids that follow each reading, at most `max_tokens`, without the `stop_token` that ended them.

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
        said = _decode(together, base, max_tokens, stop_token, heads)
        for number, answer in zip(chosen, said, strict=True):
            answers[number] = answer
    return answers


def _decode(
    readings: list[Reading], base: BaseModel, max_tokens: int, stop_token: int, heads: int
) -> list[list[int]]:
    batch = stack(readings, base)
    rows, width = batch.ids.shape
    cache = base.reserve(rows, width + max_tokens)
    hidden = base(batch.embeddings, batch.positions, ids=batch.ids, padding=batch.padding, cache=cache)
    position = batch.positions[:, -1:]
    produced = []
    running = torch.ones(rows // heads, dtype=torch.bool, device=base.device)
    for step in range(max_tokens):
        merged = hidden[:, -1:].unflatten(0, (-1, heads)).mean(dim=1)  # (B, 1, E) -> (B / heads, 1, E)
        token = base.unembed(merged).argmax(dim=-1)  # (B / heads, 1)
        produced.append(token[:, 0])
        running &= token[:, 0] != stop_token
        if step + 1 == max_tokens or not running.any():
            break
        position, token = position + 1, token.repeat_interleave(heads, dim=0)
        hidden = base(base.embed(token), position, ids=token, cache=cache)
    answers = []
    for row in torch.stack(produced, dim=1).tolist():
        answers.append(row[: row.index(stop_token)] if stop_token in row else row)
    return answers
