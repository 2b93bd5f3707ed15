"""What distance takes off a score: a slope a head times how far back a row stands, or times the logarithm of that.

The first is ALiBi (Press et al. 2021), the second weighs a row by a power of its distance, (1 + d)^-slope, as KERPLE
does (Chi et al. 2022). A rotation can do neither: turned queries and keys know the difference of their two angles
alone, and of all functions of a place only a linear one has differences that depend on the distance alone. A score can
be told any distance, for it knows both who asks and who is asked.

What stands behind a query, as the later half of a summary's own span does, is at distance 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megakernels.errors import KernelShapeError


@dataclass(frozen=True, kw_only=True)
class Distance:
    """Slopes, and where queries and keys stand. Nothing here is differentiated."""

    slopes: Tensor
    """(H,), what a token of distance, or the logarithm of one more than the distance, takes off a score, in nats."""
    queries: Tensor
    """(B or 1, T), in tokens, on the same origin as `keys`."""
    keys: Tensor
    """(B or 1, M), in tokens; infinite for a row that is at no distance, as slots are."""
    logarithmic: bool = False

    def counted(self, heads: int, asked: int, rows: int, batch: int, kind: torch.dtype) -> Distance:
        """The same in `kind`, on an origin near by, so that what is far from 0 keeps its distances.

        Raises KernelShapeError where it does not belong to so many heads, queries and rows.
        """
        fits = (
            self.slopes.shape == (heads,)
            and self.queries.shape in ((batch, asked), (1, asked))
            and self.keys.shape in ((batch, rows), (1, rows))
        )
        if not fits:
            raise KernelShapeError(
                f"distances need slopes ({heads},), and places of queries ({batch} or 1, {asked}) and keys "
                f"({batch} or 1, {rows}), got {tuple(self.slopes.shape)}, {tuple(self.queries.shape)} and "
                f"{tuple(self.keys.shape)}"
            )
        if self.slopes.requires_grad or self.queries.requires_grad or self.keys.requires_grad:
            raise KernelShapeError(
                "distances are not learnt, got slopes or places that require a gradient; detach them"
            )
        latest = self.queries.max() if self.queries.numel() else 0.0
        return Distance(
            slopes=self.slopes.to(kind),
            queries=(self.queries - latest).to(kind),
            keys=(self.keys - latest).to(kind),
            logarithmic=self.logarithmic,
        )

    def penalty(self, asked: slice, rows: Tensor | slice) -> Tensor:
        """What is taken off the scores of some queries and rows, (B or 1, H, queries, rows)."""
        far = (self.queries[:, asked, None] - self.keys[:, None, rows]).clamp_min(0)
        far = far.log1p() if self.logarithmic else far
        return self.slopes[:, None, None] * far[:, None]
