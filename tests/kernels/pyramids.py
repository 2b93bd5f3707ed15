"""Attention over pyramids of awkward sizes, for every backend."""

from __future__ import annotations

from functools import partial

import torch
from agreement import check

from megakernels.pyramid_attention import Distance, Pyramid, Queries, pyramid_attention
from megakernels.pyramid_attention.rule import read_by

SMALL = Pyramid(window=20, block=4, spans=(24,))
USUAL = Pyramid(window=64, block=32, spans=(256,))


def draw(
    rule: Pyramid,
    tokens: int,
    *,
    batch: int = 1,
    heads: int = 2,
    shared: int = 1,
    width: int = 32,
    scale: float = 1.0,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Queries, keys and values (B, M, H, D), and what the output is weighed by."""
    chance = torch.Generator().manual_seed(tokens)
    asked, rows = sum(rule.count(tokens)), sum(rule.rows(tokens))
    shapes = [(batch, asked, heads, width), (batch, rows, shared, width), (batch, rows, shared, width)]
    inputs = [scale * torch.randn(shape, dtype=torch.float64, generator=chance) for shape in shapes]
    return inputs, torch.randn(shapes[0], dtype=torch.float64, generator=chance)


def distances(rule: Pyramid, tokens: int, *, heads: int, logarithmic: bool, batch: int = 1) -> Distance:
    """Of all tokens and summaries, which stand in the middle of their spans, row by row from another origin."""
    places = [
        (torch.arange(count) + 0.5) * rule.block**level - 0.5
        for level, count in enumerate(rule.count(tokens))
    ]
    asked = [Queries(level, 0, count) for level, count in enumerate(rule.count(tokens))]
    origin = 1e6 * torch.arange(batch, dtype=torch.float64)[:, None]
    return Distance(
        slopes=0.5 ** torch.arange(1, heads + 1, dtype=torch.float64),
        queries=read_by(asked, rule)[None] - 1 + origin,
        keys=torch.cat((*places, torch.full((rule.slots,), torch.inf)))[None].double() + origin,
        logarithmic=logarithmic,
    )


def check_backend(
    backend: str, rule: Pyramid, tokens: int, dtype: torch.dtype = torch.float32, lengths: list[int] | None = None,
    fall: str = "", **sizes: object,
) -> None:  # fmt: skip
    """A backend against the float64 reference. `fall`: "linear" or "log" where scores fall with distance."""
    inputs, weigh = draw(rule, tokens, **sizes)
    far = None
    if fall:
        heads, batch = inputs[0].shape[2], inputs[0].shape[0]
        far = distances(rule, tokens, heads=heads, logarithmic=fall == "log", batch=batch)
    attend = partial(
        pyramid_attention,
        rule=rule,
        num_tokens=tokens,
        lengths=None if lengths is None else torch.tensor(lengths),
        distance=far,
    )
    check(partial(attend, backend=backend), partial(attend, backend="reference"), inputs, weigh, dtype)
