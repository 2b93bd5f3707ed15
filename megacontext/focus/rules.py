"""What no strategy may do to some spans of a history: fold what is pinned, open what is excluded.

A pinned span (a system prompt, a quoted contract) is shown as tokens, always; an excluded one (boilerplate, a log that
would only distract) is never unfolded and stays readable as gists. Spans are half-open and count tokens. Detail comes
in blocks, so a span is rounded outward: every block that it touches is pinned, or excluded. Where the two meet in one
block it is pinned, because what must be read counts for more than what should not; the same token in both is refused.

A coarse gist with an excluded block beneath it may still be opened, if there is anything else in it. Text that arrives
raw inside an excluded span stays raw until it is folded to make room, and there it goes first (`fit`).

Deliberately ignorant of budgets and scores. How many recent tokens are protected is a setting of the allocator, not a
fact of one history: it stays in AllocatorConfig.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from megacontext.errors import ConfigError
from megacontext.focus.context import WorkingContext
from megacontext.spans import Span


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Spans that strategies must leave as they are. Sorted and merged, so that equal rules are equal.

    Raises ConfigError for a span that is no two integers 0 <= start < stop, and for a token in both kinds.
    """

    pinned: tuple[tuple[int, int], ...] = ()
    """Spans shown as tokens; what lies beyond the end of the history counts once it is there."""
    excluded: tuple[tuple[int, int], ...] = ()
    """Spans that are never expanded."""

    def __post_init__(self) -> None:
        for kind in ("pinned", "excluded"):
            object.__setattr__(self, kind, _merged(_checked(kind, getattr(self, kind))))
        for pinned in self.pinned:
            for excluded in self.excluded:
                if max(pinned[0], excluded[0]) < min(pinned[1], excluded[1]):
                    raise ConfigError(
                        f"a token is pinned or excluded, not both, {tuple(pinned)} and {tuple(excluded)} overlap; "
                        "cut one of them"
                    )

    def pins(self, start: np.ndarray, stop: np.ndarray, block_size: int) -> np.ndarray:
        """Whether each of the spans [start, stop), int64 (n,), touches a pinned block, bool (n,)."""
        first, end = _blocks(self.pinned, block_size)
        # Pinned runs that begin before a span ends, less those that are over before it begins.
        return np.searchsorted(first, stop, side="left") > np.searchsorted(end, start, side="right")

    def excludes(self, start: np.ndarray, stop: np.ndarray, block_size: int) -> np.ndarray:
        """Whether each of the spans [start, stop), int64 (n,), has excluded blocks only, bool (n,)."""
        first, end = _blocks(self.excluded, block_size)
        if len(first) == 0:
            return np.zeros(len(start), dtype=bool)
        run = np.searchsorted(first, start, side="right") - 1
        inside = (run >= 0) & (stop <= end[run])
        return inside & ~self.pins(start, stop, block_size)

    def folded_pins(self, context: WorkingContext) -> np.ndarray:
        """Slots of gists that stand for pinned tokens, int64, in order: what a context must not have."""
        if not self.pinned:
            return np.empty(0, dtype=np.int64)
        return np.flatnonzero((context.lod > 0) & self.pins(context.start, context.stop, context.block_size))

    def pinned_tokens(self, num_tokens: int, block_size: int) -> int:
        """Positions that the pinned blocks of a history of `num_tokens` take."""
        first, end = _blocks(self.pinned, block_size)
        return int((np.minimum(end, num_tokens) - np.minimum(first, num_tokens)).sum())


def _checked(kind: str, spans: Iterable[tuple[int, int]]) -> list[Span]:
    checked = []
    for span in spans:
        pair = tuple(span) if isinstance(span, (tuple, list)) else (span,)
        whole = len(pair) == 2 and all(
            isinstance(end, (int, np.integer)) and not isinstance(end, bool) for end in pair
        )
        if not (whole and 0 <= pair[0] < pair[1]):
            raise ConfigError(
                f"{kind} spans must be pairs of tokens with 0 <= start < stop, got {span!r}; "
                "write [start, stop), for example (0, 96)"
            )
        checked.append(Span(int(pair[0]), int(pair[1])))
    return checked


def _merged(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Sorted, and what overlaps or touches made one."""
    merged: list[Span] = []
    for span in sorted(spans):
        if merged and span.start <= merged[-1].stop:
            merged[-1] = Span(merged[-1].start, max(merged[-1].stop, span.stop))
        else:
            merged.append(span)
    return tuple(merged)


@lru_cache(maxsize=64)
def _blocks(spans: tuple[Span, ...], block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """First and end token of each run of touched blocks, int64: the spans rounded outward, merged again."""
    rounded = _merged(
        Span(span.start // block_size * block_size, -(-span.stop // block_size) * block_size)
        for span in spans
    )
    ends = np.array(rounded, dtype=np.int64).reshape(-1, 2)
    ends.flags.writeable = False
    return ends[:, 0], ends[:, 1]


NO_RULES = Rules()
"""Nothing pinned, nothing excluded."""
