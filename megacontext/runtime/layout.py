"""In which order the model reads a working context: one row for each position that it may attend to.

A row is a token or a gist, named by its node, at a position. Two layouts:

- **timeline**: entries in time order, as the context tiles the history. An edit moves everything behind it, so the
  keys and values of all rows from the earliest edit on have to be made again.
- **cover-first**: first the gists of a covered part of the history, coarse before fine, then the raw blocks of that
  part in time order, then all that came since. A gist stays where it is when it is opened, and what it opens into comes
  behind it, in a row of its own level. So an edit moves only what is finer than itself, or later and as fine, and most
  edits are of raw blocks. The price is one position for every opened gist, and an order that is not that of time.

Deliberately knows nothing of vectors, models or stores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from megacontext.focus.context import WorkingContext
from megacontext.models.positions import PositionPolicy, entry_positions
from megacontext.registry import Registry
from megacontext.spans import complete_counts


@dataclass(frozen=True, eq=False)
class Rows:
    """What the model reads, position by position, W of them."""

    lod: np.ndarray
    """int64 (W,): 0 for a token, else the level of a gist."""
    index: np.ndarray
    """int64 (W,): number of the token in the history, or index of the gist in its level."""
    position: np.ndarray
    """float64 (W,): where it stands, in tokens."""

    def __len__(self) -> int:
        return len(self.lod)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rows):
            return NotImplemented
        return len(self) == len(other) == self.same_start(other)

    __hash__ = None  # type: ignore[assignment]

    def only(self, chosen: np.ndarray) -> Rows:
        """Those that are chosen, bool (W,), each where it stands."""
        return Rows(self.lod[chosen], self.index[chosen], self.position[chosen])

    def behind(self, count: int) -> Rows:
        """The same behind `count` tokens that belong to no history: numbered -count to -1, at the first places."""
        if not count:
            return self
        places = np.arange(count)
        return Rows(
            np.concatenate([np.zeros(count, dtype=np.int64), self.lod]),
            np.concatenate([places - count, self.index]),
            np.concatenate([places.astype(np.float64), self.position + count]),
        )

    def same_start(self, other: Rows) -> int:
        """How many leading rows are the same node at the same position in both."""
        count = min(len(self), len(other))
        differs = (
            (self.lod[:count] != other.lod[:count])
            | (self.index[:count] != other.index[:count])
            | (self.position[:count] != other.position[:count])
        )
        return int(differs.argmax()) if differs.any() else count


Layout = Callable[[WorkingContext, int], tuple[np.ndarray, np.ndarray]]
"""A context and how many tokens its stable part covers, to level and index of each row, int64 (W,) each."""

LAYOUTS: Registry[Layout] = Registry("layout")


@LAYOUTS.register("timeline")
def timeline(context: WorkingContext, covered: int) -> tuple[np.ndarray, np.ndarray]:
    """Entries in time order: a raw one gives a row a token, a gist one. Nothing is covered apart."""
    owner = np.repeat(np.arange(len(context)), context.costs)  # (N,) -> (W,)
    first = np.cumsum(context.costs) - context.costs
    lod = context.lod[owner]
    token = context.start[owner] + np.arange(len(owner)) - first[owner]
    return lod, np.where(lod == 0, token, context.index[owner])


@LAYOUTS.register("cover-first")
def cover_first(context: WorkingContext, covered: int) -> tuple[np.ndarray, np.ndarray]:
    """Gists by level, coarse first, opened ones among them; then tokens; then what is not covered, in time order.

    Tokens alone stay as they are.
    """
    if not context.lod.any():
        return timeline(context, covered)
    opened_lod, opened_index = opened_gists(context, covered)
    folded = (context.lod > 0) & (context.stop <= covered)
    lod = np.concatenate([opened_lod, context.lod[folded]])
    index = np.concatenate([opened_index, context.index[folded]])
    order = np.lexsort((index, -lod))
    row_lod, row_index = timeline(context, covered)
    width = context.block_size**row_lod
    inside = (row_index + 1) * width <= covered
    rest = (row_lod == 0) | ~inside
    late = rest & ~inside
    return (
        np.concatenate([lod[order], row_lod[rest & inside], row_lod[late]]),
        np.concatenate([index[order], row_index[rest & inside], row_index[late]]),
    )


def opened_gists(context: WorkingContext, covered: int) -> tuple[np.ndarray, np.ndarray]:
    """Level and index of every node within the covered tokens that the context shows in parts, int64 (n,) each."""
    size = context.block_size
    counts = complete_counts(min(covered, context.num_tokens), size)
    lods: list[np.ndarray] = [np.empty(0, dtype=np.int64)]
    indices: list[np.ndarray] = [np.empty(0, dtype=np.int64)]
    shown = context.index[context.lod == 0]  # blocks, which are LOD1 nodes shown in parts
    for lod in range(1, len(counts)):
        opened = shown[shown < counts[lod]]
        lods.append(np.full(len(opened), lod))
        indices.append(opened)
        # What is shown at a level, whole or in parts, shows its parent in parts.
        shown = np.unique(np.concatenate([opened, context.index[context.lod == lod]]) // size)
    return np.concatenate(lods), np.concatenate(indices)


def lay_out(
    context: WorkingContext, prompt_tokens: int, layout: str, policy: PositionPolicy, covered: int
) -> Rows:
    """Rows of `context` in that layout, with so many tokens behind it that are not in the history."""
    lod, index = LAYOUTS.get(layout)(context, covered)
    prompt = context.num_tokens + np.arange(prompt_tokens)
    lod = np.concatenate([lod, np.zeros_like(prompt)])
    index = np.concatenate([index, prompt])
    width = context.block_size**lod
    start = index * width
    return Rows(lod, index, entry_positions(start, start + width, policy, context.block_size))


def context_room(room: int, context: WorkingContext, layout: str) -> int:
    """What a context may cost so that its rows fill at most `room` positions.

    In the timeline that is the same. Cover-first pays one row more for each opened gist, and every opening adds K -
    1 to the cost of the coarsest cover: cost + (cost - cover) / (K - 1) <= room.
    """
    if layout == "timeline":
        return room
    size = context.block_size
    cover = WorkingContext.cover(context.num_tokens, size).cost
    return (room * (size - 1) + cover) // size


def most_rows(context: WorkingContext, layout: str) -> int:
    """How many rows `context` has in that layout at most: exactly so many, once it is covered."""
    if layout == "timeline" or not context.lod.any():
        return context.cost
    cover = WorkingContext.cover(context.num_tokens, context.block_size).cost
    return context.cost + (context.cost - cover) // (context.block_size - 1)
