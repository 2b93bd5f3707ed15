"""A trigram model of tokens: what a language model must beat to have learnt anything beyond counting.

Interpolated Kneser-Ney smoothing (Kneser and Ney 1995; Chen and Goodman 1999), with one discount an order,
n1 / (n1 + 2 n2). Counted and asked with sorted arrays, without a loop over tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megacontext.errors import ShapeError
from megacontext.evals.bits_per_byte import TextLoss


@dataclass(frozen=True)
class _Order:
    """Counts of n-grams, as sorted codes, and what their contexts sum up to."""

    grams: np.ndarray
    counts: np.ndarray
    contexts: np.ndarray
    totals: np.ndarray
    """Sum of the counts behind each context."""
    kinds: np.ndarray
    """Number of different continuations of each context."""
    discount: float

    @classmethod
    def of(cls, grams: np.ndarray, counts: np.ndarray, vocab_size: int) -> _Order:
        """From distinct, sorted codes; a context is the code without its last token."""
        contexts, first = np.unique(grams // vocab_size, return_index=True)
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        discount = once / (once + 2 * twice) if once else 0.5
        kinds = np.diff(np.append(first, len(grams)))
        return cls(grams, counts, contexts, np.add.reduceat(counts, first), kinds, discount)

    def mixed(self, grams: np.ndarray, vocab_size: int, lower: np.ndarray) -> np.ndarray:
        """Probabilities of the last tokens of `grams`, given those of the lower order."""
        counts = _found(self.grams, self.counts, grams)
        context = grams // vocab_size
        totals = _found(self.contexts, self.totals, context)
        kinds = _found(self.contexts, self.kinds, context)
        seen = totals > 0
        safe = np.where(seen, totals, 1)
        share = np.maximum(counts - self.discount, 0) / safe + self.discount * kinds / safe * lower
        return np.where(seen, share, lower)


class Trigram:
    """Probabilities of tokens given the two before them, from the counts of a text."""

    def __init__(self, ids: np.ndarray, vocab_size: int):
        if ids.ndim != 1 or len(ids) < 3:
            raise ShapeError(
                f"a trigram model is made from a row of at least 3 tokens, got {ids.shape}; give a text"
            )
        self.vocab_size = vocab_size
        codes = ids.astype(np.int64)
        three = (codes[:-2] * vocab_size + codes[1:-1]) * vocab_size + codes[2:]
        grams, counts = np.unique(three, return_counts=True)
        self._three = _Order.of(grams, counts, vocab_size)
        # Below the top an n-gram counts once for every different token that stands before it.
        grams, counts = np.unique(grams % vocab_size**2, return_counts=True)
        self._two = _Order.of(grams, counts, vocab_size)
        grams, counts = np.unique(grams % vocab_size, return_counts=True)
        self._one = _Order.of(grams, counts, vocab_size)

    def probabilities(self, before: np.ndarray, last: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Of tokens (N,) after the tokens `before`, `last` (N,): float64 (N,), all above 0."""
        before, last, ids = (row.astype(np.int64) for row in (before, last, ids))
        size = self.vocab_size
        share = np.full(len(ids), 1 / size)
        for order, grams in (
            (self._one, ids),
            (self._two, last * size + ids),
            (self._three, (before * size + last) * size + ids),
        ):
            share = order.mixed(grams, size, share)
        return share

    def text_loss(self, ids: np.ndarray, byte_lengths: np.ndarray) -> TextLoss:
        """Loss of the tokens of a row (N,) from the third on, as `bits_per_byte.text_loss` counts it."""
        lengths = byte_lengths[ids[2:]]
        nats = -np.log(self.probabilities(ids[:-2], ids[1:-1], ids[2:]))
        counted = lengths > 0
        return TextLoss(float(nats[counted].sum()), float(lengths.sum()), float(counted.sum()))


def _found(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value of each wanted key, 0 where there is none. `keys` are sorted and distinct."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
