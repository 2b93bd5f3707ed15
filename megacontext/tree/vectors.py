"""Gists and addresses of one version, as a reader meets them.

A reader names nodes; the version may cover them, cover them later, or never. What it does not cover is made at once
where there is an encoder and the reader is `lazy`, taken from another version of the same width where the reader
asked for stale ones, and refused otherwise: vectors of two encoders are never mixed unasked.

Deliberately ignorant of writing: what was made is handed to `keep`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from megacontext.errors import CorruptRecordError, NodeMissingError, StaleGistError
from megacontext.tree.encoder import Encoder
from megacontext.tree.history import End, History
from megacontext.tree.identity import Catalogue, Version
from megacontext.tree.made_on_read import make_addresses, make_gists
from megacontext.tree.store import Batch

T = TypeVar("T")


class VectorReader:
    """Reads the vectors of gist version `number` (0: there is none), each call at one instant of the history.

    With an `encoder` missing vectors are made when they are read, and given to `keep`.
    """

    def __init__(self, history: History, number: int, encoder: Encoder | None, keep: Callable[[Batch], None]):
        self.number = number
        self._history, self._encoder, self._keep = history, encoder, keep
        self._block_size = history.block_size
        self._addresses: tuple[int, int, np.ndarray] | None = None

    def version(self, catalogue: Catalogue | None = None) -> Version:
        """The version that is read. Raises StaleGistError if there is none, or it is gone."""
        catalogue = catalogue or self._history.catalogue()
        if not self.number:
            raise StaleGistError(
                f"{self._history.label} holds tokens and no gists yet; make them with `megacontext memory refresh`"
            )
        for version in catalogue.versions:
            if version.number == self.number:
                return version
        raise StaleGistError(
            f"the gist version {self.number} of {self._history.label}, which was being read, has been "
            "removed; open the memory again"
        )

    def gists(self, lod: int, indices: Sequence[int] | np.ndarray, stale: bool) -> np.ndarray:
        """Gists of nodes of one LOD >= 1, float32 (n, E), in the order asked for.

        Raises NodeMissingError, StaleGistError.
        """
        if lod < 1:
            raise NodeMissingError(
                f"a gist needs lod >= 1, got {lod}; tokens have none, read them with tokens()"
            )
        return self._settled(lambda: self._gists(lod, indices, stale))

    def all_addresses(self, stale: bool) -> np.ndarray:
        """Addresses of all finished blocks, float32 (n, A). Kept: a later call reads what was appended since."""
        return self._settled(lambda: self._all_addresses(stale))

    def addresses(self, start: int, stop: int | None, stale: bool) -> np.ndarray:
        """Addresses of blocks [start, stop) in time order, float32 (n, A), read anew.

        Raises NodeMissingError, StaleGistError.
        """
        return self._settled(lambda: self._address_range(start, stop, stale))

    def covers(self, lod: int, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Which nodes have gists of the version, bool (n,). Raises NodeMissingError."""
        end, catalogue = self._history.state()
        wanted = self._history.checked(lod, indices, end.num_tokens)
        return self._covered(self.version(catalogue), lod, wanted, end)

    def _gists(self, lod: int, indices: Sequence[int] | np.ndarray, stale: bool) -> np.ndarray:
        end, catalogue = self._history.state()
        wanted = self._history.checked(lod, indices, end.num_tokens)
        version = self.version(catalogue)
        covered = self._covered(version, lod, wanted, end)
        if covered.all():
            return self._history.gists(version, lod, wanted)
        if self._encoder is not None:
            batch = Batch()
            made = make_gists(self._history, self._encoder, version, lod, wanted, end, batch)
            self._keep(batch)
            return made
        if not stale:
            raise _not_covered(version, lod, wanted[~covered], self._block_size, end)
        rows = np.empty((len(wanted), version.gist_width), dtype=np.float32)
        rows[covered] = self._history.gists(version, lod, wanted[covered])
        for older in self._stand_ins(catalogue, version, "gist_width"):
            at = ~covered & self._covered(older, lod, wanted, end)
            rows[at] = self._history.gists(older, lod, wanted[at])
            covered |= at
        if not covered.all():
            raise _not_covered(version, lod, wanted[~covered], self._block_size, end)
        return rows

    def _all_addresses(self, stale: bool) -> np.ndarray:
        end, catalogue = self._history.state()
        wanted = end.num_tokens // self._block_size
        known, held = 0, np.empty((0, self.version(catalogue).address_width), dtype=np.float32)
        if self._addresses is not None and self._addresses[0] == end.revision:
            _, known, held = self._addresses
        if wanted > known:
            if wanted > len(held):
                grown_to = np.empty((max(wanted, 2 * known), held.shape[1]), dtype=np.float32)
                grown_to[:known] = held[:known]
                held = grown_to
            held[known:wanted] = self._address_range(known, wanted, stale)
        self._addresses = end.revision, wanted, held
        return held[:wanted]

    def _address_range(self, start: int, stop: int | None, stale: bool) -> np.ndarray:
        end, catalogue = self._history.state()
        stop = end.num_tokens // self._block_size if stop is None else stop
        wanted = self._history.checked(1, np.arange(start, stop), end.num_tokens)
        version = self.version(catalogue)
        covered = self._covered(version, 1, wanted, end)
        if covered.all():
            return self._history.addresses(version, wanted)
        if self._encoder is not None:
            batch = Batch()
            made = make_addresses(self._history, self._encoder, version, wanted, end, batch)
            self._keep(batch)
            return made
        rows = np.empty((len(wanted), version.address_width), dtype=np.float32)
        rows[covered] = self._history.addresses(version, wanted[covered])
        for older in self._stand_ins(catalogue, version, "address_width") if stale else ():
            at = ~covered & self._covered(older, 1, wanted, end)
            rows[at] = self._history.addresses(older, wanted[at])
            covered |= at
        if not covered.all():
            raise _not_covered(version, 1, wanted[~covered], self._block_size, end)
        return rows

    def _covered(self, version: Version, lod: int, wanted: np.ndarray, end: End) -> np.ndarray:
        width = self._block_size ** (lod - 1)
        return version.covers(wanted * width, (wanted + 1) * width, end.num_tokens // self._block_size)

    def _stand_ins(self, catalogue: Catalogue, version: Version, width: str) -> list[Version]:
        """Other versions of the same width, the newest first."""
        return [
            other
            for other in reversed(catalogue.versions)
            if other.number != version.number and getattr(other, width) == getattr(version, width)
        ]

    def _settled(self, read: Callable[[], T]) -> T:
        """What `read` gives of a history that stands still: once more if another process changed it meanwhile."""
        while True:
            try:
                return read()
            except CorruptRecordError:
                if self._history.end().revision == self._history.seen_revision:
                    raise


def _not_covered(
    version: Version, lod: int, missing: np.ndarray, block_size: int, end: End
) -> StaleGistError:
    reached = end.num_tokens if version.frontier is None else version.frontier * block_size
    return StaleGistError(
        f"gists of one version must be read together, version {version.number} reaches token {reached:,} of "
        f"{end.num_tokens:,} with {len(version.holes)} holes and lacks {len(missing)} of the nodes asked for, "
        f"the first LOD{lod} {missing[0]}; finish it with `megacontext memory refresh`, or ask for stale ones"
    )
