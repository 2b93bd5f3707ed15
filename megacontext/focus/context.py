"""The working context: what the model sees of a history, as entries of mixed level, and its two edits.

An entry is a block of K raw tokens (LOD 0, costs K positions; the unfinished last block costs its length) or
one gist of LOD >= 1 (costs 1). Entries tile the history exactly once, in time order. Expand turns a gist into
its K children (a LOD1 gist into its block) and always costs K - 1 positions; collapse turns K siblings into
their parent and always refunds K - 1. A context is a value: an edit makes another one, and a list of edits is
refused whole if any of them is illegal or the result would be over budget. The invariants are checked
wherever a context is made, never healed.

Deliberately ignorant of vectors, stores, scores and models: levels and indices, in numpy, whatever the
length.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from megacontext.errors import BudgetError, IllegalEditError, ShapeError
from megacontext.spans import coarse_cover, complete_counts


class Edit(NamedTuple):
    """One change of one context. Slots count the entries of the context that the edit was planned for."""

    kind: Literal["expand", "collapse"]
    slot: int
    """The gist to expand; or the first of K sibling gists, or a raw block, to collapse."""


@dataclass(frozen=True, eq=False)
class WorkingContext:
    """Entries that tile [0, num_tokens) in time order, W of them.

    Raises ShapeError for arrays that are no two equal rows of integers, IllegalEditError for entries that do
    not tile the history, are not aligned to their level or name a node that the history has not completed.
    """

    lod: np.ndarray
    """int64 (W,): 0 for raw tokens, else the level of the gist."""
    index: np.ndarray
    """int64 (W,): index of the gist within its level; of the block, for raw tokens."""
    num_tokens: int
    """N, length of the history."""
    block_size: int
    """K."""

    def __post_init__(self) -> None:
        complete_counts(self.num_tokens, self.block_size)  # its errors are ours
        for name in ("lod", "index"):
            row = np.asarray(getattr(self, name))
            if row.ndim != 1 or (row.dtype.kind not in "iu" and row.size):
                raise ShapeError(f"{name} must be a row of integers, got {row.dtype} {row.shape}")
            row = row.astype(np.int64)  # a copy, so that nobody else can write to it
            row.flags.writeable = False
            object.__setattr__(self, name, row)
        self.validate()

    def validate(self) -> None:
        """Check that entries tile the history, aligned, with nodes that exist. O(W), vectorised."""
        if self.lod.shape != self.index.shape:
            raise ShapeError(f"lod and index must be equally long, got {len(self.lod)} and {len(self.index)}")
        depth = len(complete_counts(self.num_tokens, self.block_size))
        # A raw entry may be the unfinished block; a gist of LOD >= 1 must be complete.
        known = np.array([-(-self.num_tokens // self.block_size), *self._counts[1:]])
        if (slot := _first((self.lod < 0) | (self.lod >= max(depth, 1)))) is not None:
            raise IllegalEditError(
                f"an entry's level must exist, {self.num_tokens} tokens have the levels below "
                f"{max(depth, 1)}, "
                f"slot {slot} has {self.lod[slot]}; use complete nodes only"
            )
        if (slot := _first((self.index < 0) | (self.index >= known[self.lod]))) is not None:
            raise IllegalEditError(
                f"an entry's node must be complete, LOD{self.lod[slot]} of {self.num_tokens} tokens has "
                f"{known[self.lod[slot]]}, slot {slot} names index {self.index[slot]}; use complete "
                "nodes only"
            )
        begins = np.concatenate([self.start, [self.num_tokens]])
        ends = np.concatenate([[0], self.stop])
        if (slot := _first(begins != ends)) is not None:
            raise IllegalEditError(
                f"entries must tile [0, {self.num_tokens}) in time order, {ends[slot]} tokens are "
                "covered before "
                f"slot {slot}, which begins at {begins[slot]}; build contexts with cover, raw, apply "
                "or extend"
            )

    @classmethod
    def cover(cls, num_tokens: int, block_size: int) -> WorkingContext:
        """The fewest entries: at most K - 1 gists a level, coarse first, then the raw unfinished tail."""
        nodes = coarse_cover(num_tokens, block_size)
        lod, index = [node.lod for node in nodes], [node.index for node in nodes]
        if num_tokens % block_size:
            lod, index = [*lod, 0], [*index, num_tokens // block_size]
        return cls(np.array(lod, dtype=np.int64), np.array(index, dtype=np.int64), num_tokens, block_size)

    @classmethod
    def raw(cls, num_tokens: int, block_size: int) -> WorkingContext:
        """Tokens only."""
        index = np.arange(-(-num_tokens // block_size))
        return cls(np.zeros_like(index), index, num_tokens, block_size)

    @cached_property
    def _counts(self) -> list[int]:
        return complete_counts(self.num_tokens, self.block_size)

    @cached_property
    def _widths(self) -> np.ndarray:
        """Tokens that each entry would cover if the history did not end, int64 (W,)."""
        widths = self.block_size ** np.arange(max(len(self._counts), 2), dtype=np.int64)
        return widths[np.maximum(self.lod, 1)]

    @cached_property
    def start(self) -> np.ndarray:
        """First token of each entry, int64 (W,)."""
        return self.index * self._widths

    @cached_property
    def stop(self) -> np.ndarray:
        """One past the last token of each entry, int64 (W,)."""
        return np.minimum(self.start + self._widths, self.num_tokens)

    @cached_property
    def costs(self) -> np.ndarray:
        """Positions of each entry, int64 (W,): tokens of a raw one, 1 of a gist."""
        return np.where(self.lod == 0, self.stop - self.start, 1)

    @cached_property
    def cost(self) -> int:
        """Positions of the whole context."""
        return int(self.costs.sum())

    def __len__(self) -> int:
        return len(self.lod)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, WorkingContext):
            return NotImplemented
        return (
            (self.num_tokens, self.block_size) == (other.num_tokens, other.block_size)
            and np.array_equal(self.lod, other.lod)
            and np.array_equal(self.index, other.index)
        )

    def __hash__(self) -> int:
        return hash((self.num_tokens, self.block_size, self.lod.tobytes(), self.index.tobytes()))

    def slot_of(self, tokens: np.ndarray) -> np.ndarray:
        """The slot whose entry covers each token, int64. Raises ShapeError beyond the history."""
        tokens = np.asarray(tokens, dtype=np.int64)
        if tokens.size and not (tokens.min() >= 0 and tokens.max() < self.num_tokens):
            raise ShapeError(
                f"tokens must lie in [0, {self.num_tokens}), got {tokens.min()} to {tokens.max()}"
            )
        return np.searchsorted(self.start, tokens, side="right") - 1

    def is_raw(self, blocks: np.ndarray) -> np.ndarray:
        """Whether each block is shown as tokens, bool like `blocks`. Raises ShapeError beyond the history."""
        return self.lod[self.slot_of(np.asarray(blocks, dtype=np.int64) * self.block_size)] == 0

    def groups(self) -> np.ndarray:
        """First slots of all that may be collapsed, int64, in order: full raw blocks, K sibling gists."""
        return self._groups

    @cached_property
    def _groups(self) -> np.ndarray:
        """Looked for once: an edit that was planned is checked against what the plan was made from."""
        if len(self) == 0:
            return np.empty(0, dtype=np.int64)
        last = np.minimum(np.arange(len(self)) + self.block_size - 1, len(self) - 1)
        # Entries tile, so K of one level in a row, the first of them aligned, are siblings.
        run = np.cumsum(np.diff(self.lod, prepend=self.lod[0]) != 0)
        siblings = (self.lod > 0) & (self.index % self.block_size == 0)
        siblings &= (run[last] == run) & (self.index[last] == self.index + self.block_size - 1)
        groups = np.flatnonzero(siblings | ((self.lod == 0) & (self.costs == self.block_size)))
        groups.flags.writeable = False
        return groups

    def apply(self, edits: Iterable[Edit], budget: int) -> WorkingContext:
        """The context after all `edits`: collapses first, then expansions, so that refunds can be spent.

        Refused whole: raises IllegalEditError if any edit does not apply to this context or two touch one
        entry, BudgetError if the result costs more than `budget` positions.
        """
        edited = self.edited(edits)
        if edited.cost > budget:
            raise BudgetError(
                f"a working context must cost at most its budget of {budget} positions, after these edits it "
                f"costs {edited.cost}; collapse more or raise focus.budget"
            )
        return edited

    def edited(self, edits: Iterable[Edit]) -> WorkingContext:
        """Like `apply` for a context that may be over its budget still. Raises IllegalEditError."""
        edits = list(edits)
        for edit in edits:
            if edit.kind not in ("expand", "collapse"):
                raise IllegalEditError(f"an edit is 'expand' or 'collapse', got {edit.kind!r}")
        return self.edited_at(
            expand=[edit.slot for edit in edits if edit.kind == "expand"],
            collapse=[edit.slot for edit in edits if edit.kind == "collapse"],
        )

    def edited_at(
        self, *, expand: Sequence[int] | np.ndarray = (), collapse: Sequence[int] | np.ndarray = ()
    ) -> WorkingContext:
        """Like `edited` for edits that are rows of slots, however many. Raises IllegalEditError."""
        expand, collapse = self._slots(expand), self._slots(collapse)
        if (slot := _first(self.lod[expand] == 0, expand)) is not None:
            raise IllegalEditError(f"only a gist can be expanded, slot {slot} is raw; plan from this context")
        collapsible = np.zeros(len(self), dtype=bool)
        collapsible[self.groups()] = True
        if (slot := _first(~collapsible[collapse], collapse)) is not None:
            raise IllegalEditError(
                f"only a full raw block or the first of {self.block_size} sibling gists can be "
                f"collapsed, slot {slot} "
                f"(LOD{self.lod[slot]}, index {self.index[slot]}) is neither; plan from this context"
            )
        folded = collapse[self.lod[collapse] > 0]
        members = (folded[:, None] + np.arange(self.block_size)).reshape(-1)  # (G,) -> (G * K,)
        touched = np.concatenate([expand, members, collapse[self.lod[collapse] == 0]])
        if np.bincount(touched, minlength=1).max() > 1:
            raise IllegalEditError(
                "edits of one step must touch different entries, two touch the same; drop one"
            )

        # Each old slot becomes `copies` new ones, `lod` and `index` those of the first of them.
        lod, index, copies = self.lod.copy(), self.index.copy(), np.ones(len(self), dtype=np.int64)
        opened = expand[self.lod[expand] > 1]
        copies[opened] = self.block_size
        index[opened] *= self.block_size
        lod[expand] -= 1
        copies[members] = 0
        copies[folded] = 1
        index[folded] //= self.block_size
        lod[collapse] += 1
        first = np.cumsum(copies) - copies
        offset = np.arange(copies.sum()) - np.repeat(first, copies)
        return WorkingContext(
            np.repeat(lod, copies), np.repeat(index, copies) + offset, self.num_tokens, self.block_size
        )

    def extend(self, num_tokens: int) -> WorkingContext:
        """The context of a history that grew to `num_tokens`: what is new comes raw, at the end."""
        if num_tokens < self.num_tokens:
            raise ShapeError(f"a history only grows, it has {self.num_tokens} tokens, got {num_tokens}")
        # An unfinished block keeps its entry and gets longer.
        fresh = np.arange(-(-self.num_tokens // self.block_size), -(-num_tokens // self.block_size))
        return WorkingContext(
            np.concatenate([self.lod, np.zeros_like(fresh)]),
            np.concatenate([self.index, fresh]),
            num_tokens,
            self.block_size,
        )

    def _slots(self, slots: Sequence[int] | np.ndarray) -> np.ndarray:
        row = np.asarray(slots)
        if row.ndim != 1 or (row.dtype.kind not in "iu" and row.size):
            raise IllegalEditError(
                f"slots are a row of integers, got {row.dtype} {row.shape}; plan from this context"
            )
        row = row.astype(np.int64)
        if (slot := _first((row < 0) | (row >= len(self)), row)) is not None:
            raise IllegalEditError(
                f"slots of this context lie in [0, {len(self)}), got {slot}; plan from this context"
            )
        return row


def _first(wrong: np.ndarray, slots: np.ndarray | None = None) -> int | None:
    """The first slot where `wrong` holds, None if it holds nowhere."""
    at = np.flatnonzero(wrong)
    if len(at) == 0:
        return None
    return int(at[0] if slots is None else slots[at[0]])


def check_budget(budget: int, block_size: int) -> None:
    """Raises BudgetError if a budget cannot even hold one block of raw tokens."""
    if budget < block_size:
        raise BudgetError(
            f"budget must hold one block of {block_size} tokens, got {budget}; raise focus.budget"
        )
