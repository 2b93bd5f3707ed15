"""How often each node was unfolded, and how long it was read: statistics beside the tree, never in it.

They have a table of their own, so that counting rewrites a few bytes and never a vector. Counts gather in memory and
are written together, because a working context of thousands of entries is looked at many times a second.

Deliberately ignorant of working contexts: rows of levels and indices come in.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from megacontext.tree.records import ACCESS, META, node_keys, node_of_key, seal, unseal
from megacontext.tree.store import Batch, Store, scan_all

_COUNTS = struct.Struct("<IIIQ")
_STEPS_KEY = b"access"
_STEPS = struct.Struct("<Q")


@dataclass(frozen=True)
class NodeAccess:
    """What is known of one node of LOD >= 1."""

    lod: int
    index: int
    times_expanded: int
    gist_steps: int
    """Refocus steps at which its gist was in the working context."""
    raw_steps: int
    """Refocus steps at which its tokens were; 0 above LOD1."""
    last_expanded_ms: int
    """Since 1970; 0 for never."""
    residency: float
    """Share of all recorded steps at which the node was in the context, as gist or as tokens."""


class AccessStatistics:
    """Counts of one memory. `observe` gathers, `flush` writes."""

    def __init__(self, store: Store, block_size: int):
        self._store, self._block_size = store, block_size
        self._fresh: dict[bytes, list[int]] = {}
        self._fresh_steps = 0

    @property
    def steps(self) -> int:
        """Refocus steps recorded so far, those still in memory included."""
        (value,) = self._store.read(META, [_STEPS_KEY])
        stored = _STEPS.unpack(unseal(META, _STEPS_KEY, value, "the count of steps"))[0] if value else 0
        return stored + self._fresh_steps

    def observe(
        self, lod: np.ndarray, index: np.ndarray, expanded: np.ndarray, *, complete: int, time_ms: int
    ) -> None:
        """Count one refocus step over entries (W,): LOD 0 is the raw block of that index.

        `expanded` is bool (W,): the entries that the step unfolded. `complete` is the number of finished blocks: the
        tail is no node and is not counted.
        """
        self._fresh_steps += 1
        raw = lod == 0
        known = ~raw | (index < complete)
        for level in np.unique(lod[known]):
            at = known & (lod == level)
            keys = node_keys(max(int(level), 1), index[at], self._block_size)
            for key, opened in zip(keys, expanded[at].tolist(), strict=True):
                counts = self._fresh.setdefault(key, [0, 0, 0, 0])
                counts[2 if level == 0 else 1] += 1
                if opened:
                    counts[0] += 1
                    counts[3] = max(counts[3], time_ms)

    @property
    def pending(self) -> int:
        """Nodes whose counts wait to be written."""
        return len(self._fresh)

    def flush(self) -> None:
        """Write what was gathered, in one transaction. Does nothing if there is nothing."""
        if not self._fresh_steps:
            return
        keys = sorted(self._fresh)
        batch = Batch()
        batch.put(ACCESS, (self._added(key, old) for key, old in zip(keys, self._stored(keys), strict=True)))
        batch.put(META, [(_STEPS_KEY, seal(META, _STEPS_KEY, _STEPS.pack(self.steps)))])
        self._store.write(batch)
        self._fresh, self._fresh_steps = {}, 0

    def __iter__(self) -> Iterator[NodeAccess]:
        """Every node with counts on disk, in time order."""
        steps = self.steps
        for key, value in scan_all(self._store, ACCESS):
            node = node_of_key(key, self._block_size)
            if node is not None:
                yield _access(node[0], node[1], _read(key, value), steps)

    def of(self, lod: int, index: int) -> NodeAccess:
        """Counts of one node on disk, zeros if it was never seen."""
        (key,) = node_keys(lod, np.array([index]), self._block_size)
        return _access(lod, index, self._stored([key])[0], self.steps)

    def _stored(self, keys: list[bytes]) -> list[tuple[int, ...]]:
        values = self._store.read(ACCESS, keys)
        return [
            (0, 0, 0, 0) if value is None else _read(key, value)
            for key, value in zip(keys, values, strict=True)
        ]

    def _added(self, key: bytes, old: tuple[int, ...]) -> tuple[bytes, bytes]:
        times, gist, raw, last = self._fresh[key]
        total = (old[0] + times, old[1] + gist, old[2] + raw, max(old[3], last))
        return key, seal(ACCESS, key, _COUNTS.pack(*total))


def _read(key: bytes, value: bytes) -> tuple[int, ...]:
    return _COUNTS.unpack(unseal(ACCESS, key, value, f"the access statistics under key {key.hex()}"))


def _access(lod: int, index: int, counts: tuple[int, ...], steps: int) -> NodeAccess:
    times, gist, raw, last = counts
    return NodeAccess(lod, index, times, gist, raw, last, (gist + raw) / steps if steps else 0.0)
