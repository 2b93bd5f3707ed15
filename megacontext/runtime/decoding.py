"""Greedy decoding of many readings at once, with a key/value cache."""

from __future__ import annotations

import torch

from megacontext.models.base import BaseModel
from megacontext.runtime.reading import Reading, stack

_BATCH = 32
"""Readings decoded together: enough to keep two cores busy at the tiny model's size."""


@torch.inference_mode()
def decode_greedily(
    base: BaseModel, readings: list[Reading], *, max_tokens: int, stop_token: int
) -> list[list[int]]:
    """Token ids that follow each reading, at most `max_tokens`, without the `stop_token` that ended them.

    Readings of like length are decoded together; the answers come back in the order given.
    """
    answers: list[list[int]] = [[] for _ in readings]
    order = sorted(range(len(readings)), key=lambda number: readings[number].cost)
    for start in range(0, len(order), _BATCH):
        chosen = order[start : start + _BATCH]
        for number, answer in zip(
            chosen,
            _decode([readings[number] for number in chosen], base, max_tokens, stop_token),
            strict=True,
        ):
            answers[number] = answer
    return answers


def _decode(readings: list[Reading], base: BaseModel, max_tokens: int, stop_token: int) -> list[list[int]]:
    batch = stack(readings, base)
    rows, width = batch.ids.shape
    cache = base.reserve(rows, width + max_tokens)
    hidden = base(batch.embeddings, batch.positions, ids=batch.ids, padding=batch.padding, cache=cache)
    position = batch.positions[:, -1:]
    produced = []
    running = torch.ones(rows, dtype=torch.bool, device=base.device)
    for step in range(max_tokens):
        token = base.unembed(hidden[:, -1:]).argmax(dim=-1)  # (B, 1, V) -> (B, 1)
        produced.append(token[:, 0])
        running &= token[:, 0] != stop_token
        if step + 1 == max_tokens or not running.any():
            break
        position = position + 1
        hidden = base(base.embed(token), position, ids=token, cache=cache)
    answers = []
    for row in torch.stack(produced, dim=1).tolist():
        answers.append(row[: row.index(stop_token)] if stop_token in row else row)
    return answers
