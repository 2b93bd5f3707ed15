"""Attention over pyramids of awkward sizes, for every backend."""

from __future__ import annotations

from functools import partial

import torch
from agreement import check

from megakernels.pyramid_attention import Pyramid, pyramid_attention

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


def check_backend(
    backend: str, rule: Pyramid, tokens: int, dtype: torch.dtype = torch.float32, lengths: list[int] | None = None,
    **sizes: object,
) -> None:  # fmt: skip
    """A backend against the float64 reference."""
    inputs, weigh = draw(rule, tokens, **sizes)
    attend = partial(
        pyramid_attention,
        rule=rule,
        num_tokens=tokens,
        lengths=None if lengths is None else torch.tensor(lengths),
    )
    check(partial(attend, backend=backend), partial(attend, backend="reference"), inputs, weigh, dtype)
