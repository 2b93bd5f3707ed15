"""The best context there is for additive utilities: a knapsack over the tree, solved exactly by dynamic programming.

Every node has a utility for being shown: a finished block as tokens, and each gist of each level. A context is worth
the sum over its entries. Every expansion costs K - 1 positions wherever it is made, so the budget is a number of
expansions on top of the coarsest cover, and the best value of a subtree is a row over how many are made inside it:

    f(node, 0) = utility of its gist        f(block, 1) = utility of its tokens
    f(node, e) = max over e_1 + ... + e_K = e - 1 of the sum of f(child_i, e_i)

The K children are merged in pairs (max-plus convolutions of rows that grow), all nodes of a level at once, so that
nothing loops over nodes. Rows are as long as a subtree can use or the budget allows, whichever is shorter: a fraction
of a second for ten million tokens and B = 8,192 (`megacontext.bench.focus`). No concavity is assumed, because there is
none: opening a gist of gists is worth nothing until something below it is.

This is the yardstick that the strategies, which see one context's scores at a time, are measured against (`regret`),
and the goal of strategy "exact". Deliberately ignorant of where utilities come from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from megacontext.errors import BudgetError, ConfigError, ShapeError
from megacontext.focus.context import WorkingContext, check_budget
from megacontext.focus.rules import NO_RULES, Rules
from megacontext.spans import complete_counts


@dataclass(frozen=True, kw_only=True, eq=False)
class NodeUtilities:
    """What it is worth to show each node of one history. Any finite numbers; only sums of them count.

    The unfinished tail is always raw and has no utility. Raises ShapeError for rows that are not as long as their
    level, ConfigError for numbers that are not finite.
    """

    num_tokens: int
    block_size: int
    raw: np.ndarray
    """float64 (num_blocks,): showing each finished block as tokens."""
    gists: tuple[np.ndarray, ...] = field(default=())
    """Element l, float64: showing each complete node of LOD l + 1 as a gist; 0 for levels that are left out."""

    def __post_init__(self) -> None:
        counts = complete_counts(self.num_tokens, self.block_size)[1:]
        if len(self.gists) > len(counts):
            raise ShapeError(
                f"utilities are of levels that exist, {self.num_tokens} tokens have {len(counts)} levels of gists, "
                f"got {len(self.gists)}; leave the rest out"
            )
        rows = [("raw", self.raw, counts[0] if counts else 0)]
        rows += [(f"LOD{lod}", row, counts[lod - 1]) for lod, row in enumerate(self.gists, start=1)]
        checked = [_checked(name, row, count) for name, row, count in rows]
        object.__setattr__(self, "raw", checked[0])
        missing = [np.zeros(count) for count in counts[len(self.gists) :]]
        object.__setattr__(self, "gists", (*checked[1:], *missing))


def best_context(
    utilities: NodeUtilities,
    budget: int,
    rules: Rules = NO_RULES,
    *,
    protect_recent_tokens: int = 0,
) -> WorkingContext:
    """The context of highest value among all within `budget` and `rules`; of equal ones, one of least cost.

    What touches the last `protect_recent_tokens` is shown as tokens, unless it is excluded. Raises BudgetError if no
    context fits.
    """
    check_budget(budget, utilities.block_size)
    tree = _Tree(utilities, budget, rules, protect_recent_tokens)
    return tree.context(*tree.best())


def value_of(context: WorkingContext, utilities: NodeUtilities) -> float:
    """Sum of the utilities of a context's entries. Raises ShapeError for a context of another history."""
    if (context.num_tokens, context.block_size) != (utilities.num_tokens, utilities.block_size):
        raise ShapeError(
            f"utilities must be of the context's history, {context.num_tokens} tokens in blocks of "
            f"{context.block_size}, these are of {utilities.num_tokens} in blocks of {utilities.block_size}"
        )
    finished = context.index[(context.lod == 0) & (context.costs == context.block_size)]
    value = utilities.raw[finished].sum()
    for lod, row in enumerate(utilities.gists, start=1):
        value += row[context.index[context.lod == lod]].sum()
    return float(value)


def regret(
    context: WorkingContext,
    utilities: NodeUtilities,
    budget: int,
    rules: Rules = NO_RULES,
    *,
    protect_recent_tokens: int = 0,
) -> float:
    """How much value `context` misses against the best one under the same budget and rules; from 0 up, to rounding."""
    best = best_context(utilities, budget, rules, protect_recent_tokens=protect_recent_tokens)
    return value_of(best, utilities) - value_of(context, utilities)


class _Tree:
    """The rows of all nodes, kept for the way back down.

    Rows are columns of arrays (e, nodes), so that one shift of a convolution is one pass over contiguous memory.
    """

    def __init__(self, utilities: NodeUtilities, budget: int, rules: Rules, protect_recent_tokens: int):
        self._utilities, self._budget, self._size = utilities, budget, utilities.block_size
        counts = complete_counts(utilities.num_tokens, self._size)[1:]
        cover = WorkingContext.cover(utilities.num_tokens, self._size)
        self._most = (budget - cover.cost) // (self._size - 1)  # expansions that the budget holds
        if self._most < 0:
            raise BudgetError(
                f"a budget must hold the coarsest cover of its history, {utilities.num_tokens} tokens need "
                f"{cover.cost} positions, got {budget}; raise focus.budget"
            )
        self._levels: list[np.ndarray] = []
        """Element l: f of all nodes of LOD l + 1, (e, nodes)."""
        self._merges: list[list[np.ndarray]] = []
        """Element l: rows of the families of LOD l + 2 as they are merged, from K columns a family to one."""
        pinned, closed = self._marked(counts[0] if counts else 0, rules, protect_recent_tokens)
        for lod, count in enumerate(counts, start=1):
            if lod == 1:
                inside = utilities.raw[None, :]
            else:
                self._merges.append(self._merged(self._levels[-1][:, : count * self._size]))
                inside = self._merges[-1][-1]
                pinned = pinned[: count * self._size].reshape(count, self._size).any(axis=1)
                closed = closed[: count * self._size].reshape(count, self._size).all(axis=1)
            rows = np.concatenate([utilities.gists[lod - 1][None, :], inside])[: self._most + 1]
            rows[0, pinned] = -np.inf
            rows[1:, closed] = -np.inf
            self._levels.append(rows)

    def _marked(
        self, num_blocks: int, rules: Rules, protect_recent_tokens: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which finished blocks must be tokens, and which must not, bool (num_blocks,) each."""
        start = np.arange(num_blocks, dtype=np.int64) * self._size
        stop = start + self._size
        closed = rules.excludes(start, stop, self._size)
        recent = stop > self._utilities.num_tokens - protect_recent_tokens
        return rules.pins(start, stop, self._size) | (recent & ~closed), closed

    def _merged(self, rows: np.ndarray) -> list[np.ndarray]:
        """Layers from the children (e, families * K) to the families (e, families), each of merged pairs."""
        layers = [rows]
        for width in self._widths()[:-1]:
            if width % 2:
                layers[-1] = _with_neutral(layers[-1], width)
            layers.append(_max_plus(layers[-1][:, 0::2], layers[-1][:, 1::2], self._most))
        return layers

    def best(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Which nodes of each level the cover has, and how many expansions each has in the best context.

        Raises BudgetError if no context within the budget keeps the rules.
        """
        # The cover's nodes: those of each level that no complete parent holds.
        counts = [rows.shape[1] for rows in self._levels] + [0]
        roots = [np.arange(above * self._size, count) for count, above in pairwise(counts)]
        chain = [np.zeros((1, 1))]
        order = [(level, int(root)) for level, row in enumerate(roots) for root in row]
        for level, root in order:
            chain.append(_max_plus(chain[-1], self._levels[level][:, root : root + 1], self._most))
        value = chain[-1][:, 0]
        if not np.isfinite(value).any():
            raise BudgetError(
                f"a budget must hold what is pinned and protected with the coarsest cover of the rest, got "
                f"{self._budget} positions for {self._utilities.num_tokens} tokens; pin less or raise focus.budget"
            )
        left = int(np.argmax(value))
        shares = [np.zeros(len(row), dtype=np.int64) for row in roots]
        for before, (level, root) in zip(chain[-2::-1], order[::-1], strict=True):
            one = self._levels[level][:, root : root + 1]
            kept = int(_shares(before, one, np.array([left]))[0])
            shares[level][root - roots[level][0]] = left - kept
            left = kept
        return roots, shares

    def context(self, roots: list[np.ndarray], shares: list[np.ndarray]) -> WorkingContext:
        """The context in which each root has its share of expansions, spread over its descendants as f did."""
        lods, indices = [], []
        size, tokens = self._size, self._utilities.num_tokens
        nodes, spent = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        for lod in range(len(self._levels), 0, -1):
            nodes = np.concatenate([nodes, roots[lod - 1]])
            spent = np.concatenate([spent, shares[lod - 1]])
            gists, opened, inside = nodes[spent == 0], nodes[spent > 0], spent[spent > 0] - 1
            lods.append(np.full(len(gists), lod))
            indices.append(gists)
            if lod == 1:
                nodes = opened
            else:
                nodes = (opened[:, None] * size + np.arange(size)).reshape(-1)
                spent = self._spread(lod - 2, opened, inside)
        if tokens % size:
            nodes = np.append(nodes, tokens // size)
        lod, index = np.concatenate([*lods, np.zeros_like(nodes)]), np.concatenate([*indices, nodes])
        order = np.argsort(index * size ** np.maximum(lod, 1), kind="stable")
        return WorkingContext(lod[order], index[order], tokens, size)

    def _spread(self, merge: int, families: np.ndarray, spent: np.ndarray) -> np.ndarray:
        """Expansions of each child of the opened `families`, int64 (families * K), that add up to `spent`."""
        spent = spent[:, None]  # (families, 1), and twice as wide with every layer down
        layers, widths = self._merges[merge][:-1], self._widths()[:-1]
        for layer, width in zip(reversed(layers), reversed(widths), strict=True):
            pairs = spent.shape[1]
            left_columns = 2 * (families[:, None] * pairs + np.arange(pairs)).reshape(-1)
            left = _shares(layer[:, left_columns], layer[:, left_columns + 1], spent.reshape(-1))
            left = left.reshape(spent.shape)
            spent = np.stack([left, spent - left], axis=2).reshape(len(families), 2 * pairs)[:, :width]
        return spent.reshape(-1)

    def _widths(self) -> list[int]:
        """Columns a family in each layer of merges, without the neutral ones."""
        widths = [self._size]
        while widths[-1] > 1:
            widths.append(-(-widths[-1] // 2))
        return widths


def _max_plus(left: np.ndarray, right: np.ndarray, most: int) -> np.ndarray:
    """out[e] = max over a + b = e of left[a] + right[b], column by column, for e up to `most`."""
    if len(left) > len(right):
        left, right = right, left
    out = np.full((min(len(left) + len(right) - 1, most + 1), left.shape[1]), -np.inf)
    for shift, row in enumerate(left[: len(out)]):
        there = out[shift : shift + len(right)]
        np.maximum(there, row + right[: len(there)], out=there)
    return out


def _shares(left: np.ndarray, right: np.ndarray, total: np.ndarray) -> np.ndarray:
    """How much of `total`, int64 (columns,), goes to `left` where the sum of both rows is highest: the least such."""
    shift = np.arange(min(len(left), int(total.max(initial=0)) + 1))[:, None]
    rest = total - shift
    fits = (rest >= 0) & (rest < len(right))
    beside = np.take_along_axis(right, np.clip(rest, 0, len(right) - 1), axis=0)
    return np.argmax(np.where(fits, left[: len(shift)] + beside, -np.inf), axis=0)


def _with_neutral(rows: np.ndarray, width: int) -> np.ndarray:
    """Families of `width` columns with one more each that can have no expansion and is worth 0."""
    families = rows.reshape(len(rows), -1, width)
    neutral = np.full((len(rows), families.shape[1], 1), -np.inf)
    neutral[0] = 0.0
    return np.concatenate([families, neutral], axis=2).reshape(len(rows), -1)


def _checked(name: str, values: np.ndarray, count: int) -> np.ndarray:
    row = np.asarray(values)
    if row.shape != (count,) or (row.dtype.kind not in "fiu" and row.size):
        raise ShapeError(
            f"utilities of {name} must be one number per complete node, ({count},), got {row.dtype} {row.shape}"
        )
    row = row.astype(np.float64)
    if not np.isfinite(row).all():
        raise ConfigError(
            f"utilities must be finite, {name} has {np.count_nonzero(~np.isfinite(row))} that are not"
        )
    row.flags.writeable = False
    return row
