"""Attention over a pyramid of summaries, as a recipe asks for it: the border to the kernel that computes it.

The rule is the kernel's (`megakernels.pyramid_attention.rule`): the last tokens one by one, older ones through
summaries of blocks, the oldest through summaries of those. Here it gets its defaults, and what the kernel refuses
becomes an error of ours. Deliberately knows nothing of how a summary is made, or of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from megacontext.errors import BackendUnavailableError, ConfigError, ShapeError

if TYPE_CHECKING:
    from megakernels.pyramid_attention import Pyramid, Queries


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
    positions: Literal["global", "context"] = "global"
    """Positions as they are given, or counted from the context's first entry."""
    backend: Literal["auto", "triton", "chunked", "flex", "reference"] = "auto"
    """What computes it; auto = Triton on a GPU that has it, else PyTorch in pieces."""

    def __post_init__(self) -> None:
        if self.window < 1 or self.block < 2 or min((0, *self.spans)) < 0:
            raise ConfigError(
                "a pyramid needs window >= 1, block >= 2 and spans >= 0, got "
                f"{self.window}, {self.block} and {self.spans}; the usual ones are 256, 32 and (8192,)"
            )

    @property
    def rule(self) -> Pyramid:
        """The rule, as the kernel takes it."""
        # Here and not above, so that a model without a pyramid needs no kernels.
        from megakernels.pyramid_attention import Pyramid

        return Pyramid(window=self.window, block=self.block, spans=self.spans)


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
) -> Tensor:
    """`megakernels.pyramid_attention` without the log of the sum, (B, T, H, D), with errors of ours."""
    from megakernels import errors
    from megakernels.pyramid_attention import pyramid_attention

    try:
        out, _ = pyramid_attention(
            q, key, value, rule, num_tokens, queries=queries, scale=scale, backend=backend
        )
    except errors.KernelShapeError as problem:
        raise ShapeError(str(problem)) from None
    except errors.BackendUnavailableError as problem:
        raise BackendUnavailableError(str(problem)) from None
    return out
