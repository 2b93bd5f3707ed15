"""Attention over a pyramid of summaries, as a recipe asks for it: the border to the kernel that computes it.

The rule is the kernel's (`megakernels.pyramid_attention.rule`): the last tokens one by one, older ones through
summaries of blocks, the oldest through summaries of those. Here it gets its defaults, and what the kernel refuses
becomes an error of ours. Deliberately knows nothing of how a summary is made, or of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from megacontext.errors import BackendUnavailableError, ConfigError, ShapeError

if TYPE_CHECKING:
    from megakernels.pyramid_attention import Distance, Pyramid, Queries


@dataclass(frozen=True, kw_only=True)
class PyramidConfig:
    """How detail falls with distance. Levels of summaries are one more than `spans`."""

    window: int = 256
    """Tokens before a query that it sees one by one, at least."""
    block: int = 32
    """Entries that one summary stands for: tokens, or summaries of the level below."""
    spans: tuple[int, ...] = (8192,)
    """Tokens that are seen through each level but the highest, at least."""
    rotary: Literal["gaussian", "plain", "none"] = "gaussian"
    """A summary turns by the middle of its span, damped by the span's width; by the middle alone; or nothing turns."""
    positions: Literal["global", "context", "log-distance"] = "global"
    """Positions as they are given, or counted from the context's first entry; or nothing turns, and a row's weight
    falls with a power of its distance, another one in each head."""
    alibi: bool = False
    """Scores fall with distance besides, by ALiBi's slope of each head."""
    slots: int = 0
    """Learnt keys and values of each layer that every query sees."""
    edges: int = 0
    """Summaries of level 1 that a query sees besides, drawn from where it is shown only higher ones."""
    edge_seed: int = 0
    overshoot: bool = False
    """Let a query see the summary of its own block, and so up to block - 1 entries that follow: no language model's
    loss any more. For looking at what summaries tell, without a cache."""
    backend: Literal["auto", "triton", "chunked", "flex", "reference"] = "auto"
    """What computes it; auto = Triton on a GPU that has it, else PyTorch in pieces."""

    def __post_init__(self) -> None:
        if self.window < 1 or self.block < 2 or min((0, *self.spans)) < 0:
            raise ConfigError(
                "a pyramid needs window >= 1, block >= 2 and spans >= 0, got "
                f"{self.window}, {self.block} and {self.spans}; the usual ones are 256, 32 and (8192,)"
            )
        if min(self.slots, self.edges) < 0 or (self.edges and not self.spans):
            raise ConfigError(
                "pyramid.slots and edges must be at least 0, and edges need spans, for they lead to where only higher "
                f"levels are seen; got {self.slots}, {self.edges} and spans {self.spans}; change one"
            )
        if self.positions == "log-distance" and (self.rotary != "none" or self.alibi):
            raise ConfigError(
                'with pyramid.positions = "log-distance" places are told by the weights alone, rotary must be "none" '
                f"and alibi false, got {self.rotary!r} and {self.alibi}; set them so"
            )

    @property
    def rule(self) -> Pyramid:
        """The rule, as the kernel takes it."""
        # Here and not above, so that a model without a pyramid needs no kernels.
        from megakernels.pyramid_attention import Pyramid

        return Pyramid(
            window=self.window, block=self.block, spans=self.spans, slots=self.slots, edges=self.edges,
            seed=self.edge_seed, overshoot=self.overshoot,
        )  # fmt: skip

    def distance(self, heads: int, queries: Tensor, keys: Tensor) -> Distance | None:
        """What distance takes off the scores of so many heads; `queries` (B or 1, T) and `keys` (B or 1, M) in tokens.

        ALiBi's slopes, 2^(-8 h / H) a token for h = 1 .. H. By the logarithm they are four times as steep: a weight
        falls with the distance to the power 1 in the first of four heads, and 1/64 in the last. None where no distance
        is told this way.
        """
        from megakernels.pyramid_attention import Distance

        logarithmic = self.positions == "log-distance"
        if not (self.alibi or logarithmic):
            return None
        head = torch.arange(1, heads + 1, dtype=torch.float64, device=queries.device)
        return Distance(
            slopes=(4 if logarithmic else 1) * 2 ** (-8 * head / heads),
            queries=queries,
            keys=keys,
            logarithmic=logarithmic,
        )

    def equal_window(self, num_tokens: int) -> int:
        """Tokens of the sliding window that sees as many pairs in a pass over `num_tokens`, a query's own included."""
        from megakernels.pyramid_attention.cost import equal_window, pairs_of, whole_sight

        return equal_window(pairs_of(whole_sight(self.rule, num_tokens)), num_tokens)

    def most_seen(self, num_tokens: int) -> int:
        """Rows that a query sees at most in a pass over `num_tokens`."""
        from megakernels.pyramid_attention.cost import most_seen, whole_sight

        return most_seen(whole_sight(self.rule, num_tokens))


def attend(
    q: Tensor,
    key: Tensor,
    value: Tensor,
    rule: Pyramid,
    num_tokens: int,
    queries: Sequence[Queries],
    *,
    scale: float,
    backend: str,
    distance: Distance | None = None,
) -> Tensor:
    """`megakernels.pyramid_attention` without the log of the sum, (B, T, H, D), with errors of ours."""
    from megakernels import errors
    from megakernels.pyramid_attention import pyramid_attention

    try:
        out, _ = pyramid_attention(
            q, key, value, rule, num_tokens, queries=queries, scale=scale, distance=distance, backend=backend
        )
    except errors.KernelShapeError as problem:
        raise ShapeError(str(problem)) from None
    except errors.BackendUnavailableError as problem:
        raise BackendUnavailableError(str(problem)) from None
    return out
