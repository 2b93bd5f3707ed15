"""An inverted index of the words of all blocks, and BM25 over it (Robertson and Zaragoza 2009).

idf is Lucene's, ln(1 + (n - df + 1/2) / (df + 1/2)), which is never negative; K1 and B are the usual ones. A word is
known by 64 bits of its hash (BLAKE2b): among a million words the chance that any two share it is 3 in 10**8. A segment
lists for each word the blocks that have it, two bytes each, and how often, one byte that stops at 255.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from megacontext.index.following import LEAST_IN_FILE, MOST, FollowingIndex
from megacontext.index.segments import Arrays, Segment
from megacontext.index.texts import block_texts, words
from megacontext.tokenizer import Tokenizer
from megacontext.tree.memory import Memory

K1, B = 1.5, 0.75
_HASHES_KEPT = 1 << 15
"""Words whose hash is remembered while texts are indexed: some 4 MB."""


class WordIndex(FollowingIndex):
    """Postings of every word of the blocks of `memory`, in the words of `tokenizer`."""

    def __init__(
        self, memory: Memory, tokenizer: Tokenizer, *, least_in_file: int = LEAST_IN_FILE, most: int = MOST
    ):
        super().__init__(memory, "words", tokenizer.fingerprint, least_in_file=least_in_file, most=most)
        self._tokenizer = tokenizer
        self._hashes: dict[str, int] = {}
        self._norms: tuple[tuple[Segment, ...], np.ndarray] = (), np.empty(0, dtype=np.float32)

    @classmethod
    def of(cls, memory: Memory, tokenizer: Tokenizer) -> WordIndex:
        """The one index of an open memory in the words of a tokenizer, up to date."""
        index = memory.derived((cls, tokenizer.fingerprint), lambda: cls(memory, tokenizer))
        index.follow()
        return index

    def scores(self, query: Sequence[str]) -> np.ndarray:
        """BM25 of every block for the words of a query, float32 (num_blocks,); a word counts as often as it stands."""
        found = np.zeros(self.num_blocks, dtype=np.float32)
        asked = Counter(map(_hash, query))
        terms = np.array(sorted(asked), dtype=np.uint64)
        if not len(terms) or not len(found):
            return found
        norms = self._length_norms()
        hits = [_lookup(segment, terms) for segment in self.segments]
        frequency = np.zeros(len(terms))
        for rows, starts, stops in hits:
            frequency[rows] += stops - starts
        idf = np.log1p((len(found) - frequency + 0.5) / (frequency + 0.5))
        weights = idf * (K1 + 1) * np.array([asked[term] for term in terms.tolist()])
        for segment, (rows, starts, stops) in zip(self.segments, hits, strict=True):
            score = found[segment.first : segment.stop]
            norm = norms[segment.first : segment.stop]
            blocks, counts = segment.arrays["blocks"], segment.arrays["counts"]
            for row, start, stop in zip(rows.tolist(), starts.tolist(), stops.tolist(), strict=True):
                at = blocks[start:stop].astype(np.intp)
                often = counts[start:stop].astype(np.float32)
                # A word's blocks differ, so adding in place reaches each of them.
                score[at] += np.float32(weights[row]) * often / (often + norm[at])
        return found

    def make(self, first: int, stop: int) -> Arrays:
        said = [
            words(text)
            for text in block_texts(self._memory, self._tokenizer, first, stop, self._memory.left_tokens)
        ]
        lengths = np.array([len(block) for block in said], dtype=np.int64)
        hashes = np.array([self._known_hash(word) for block in said for word in block], dtype=np.uint64)
        owners = np.repeat(np.arange(len(said)), lengths)
        order = np.argsort(hashes, kind="stable")
        hashes, owners = hashes[order], owners[order]
        new = np.ones(len(hashes), dtype=bool)
        new[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
        postings = np.flatnonzero(new)
        counts = np.diff(postings, append=len(hashes))
        terms, starts = np.unique(hashes[postings], return_index=True)
        return {
            "terms": terms.astype("<u8"),
            "starts": np.append(starts, len(postings)).astype("<u4"),
            "blocks": owners[postings].astype("<u2"),
            "counts": np.minimum(counts, 255).astype("u1"),
            "lengths": np.minimum(lengths, 65_535).astype("<u2"),
        }

    def merge(self, parts: list[Segment]) -> Arrays:
        arrays = [part.arrays for part in parts]
        terms = np.unique(np.concatenate([one["terms"] for one in arrays]))
        places = [np.searchsorted(terms, one["terms"]) for one in arrays]
        sizes = [np.diff(one["starts"].astype(np.int64)) for one in arrays]
        totals = np.zeros(len(terms), dtype=np.int64)
        for place, size in zip(places, sizes, strict=True):
            totals[place] += size
        starts = np.concatenate(([0], np.cumsum(totals)))
        blocks, counts = np.empty(starts[-1], dtype="<u2"), np.empty(starts[-1], dtype="u1")
        # A term's postings stand in the order of the parts, which is that of the blocks.
        free = starts[:-1].copy()
        for part, one, place, size in zip(parts, arrays, places, sizes, strict=True):
            to = np.repeat(free[place] - one["starts"][:-1], size)
            to += np.arange(len(to))
            blocks[to] = one["blocks"] + np.uint16(part.first - parts[0].first)
            counts[to] = one["counts"]
            free[place] += size
        return {
            "terms": terms,
            "starts": starts.astype("<u4"),
            "blocks": blocks,
            "counts": counts,
            "lengths": np.concatenate([one["lengths"] for one in arrays]),
        }

    def _length_norms(self) -> np.ndarray:
        """K1 (1 - B + B length / mean length) of every block, float32 (num_blocks,)."""
        if self._norms[0] is not self.segments:
            lengths = np.concatenate([one.arrays["lengths"] for one in self.segments]).astype(np.float32)
            mean = lengths.mean(dtype=np.float64) or 1.0
            norms = np.float32(K1) * (np.float32(1 - B) + lengths * np.float32(B / mean))
            self._norms = self.segments, norms
        return self._norms[1]

    def _known_hash(self, word: str) -> int:
        known = self._hashes.get(word)
        if known is None:
            if len(self._hashes) >= _HASHES_KEPT:
                self._hashes = {}
            known = self._hashes[word] = _hash(word)
        return known


def _hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _lookup(segment: Segment, terms: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which of the sorted `terms` a segment has, and where their postings [start, stop) stand: int64 (n,) each."""
    own, starts = segment.arrays["terms"], segment.arrays["starts"]
    at = np.searchsorted(own, terms)
    rows = np.flatnonzero(own[np.minimum(at, len(own) - 1)] == terms) if len(own) else np.empty(0, np.int64)
    places = at[rows]
    return rows, starts[places].astype(np.int64), starts[places + 1].astype(np.int64)
