"""Reading entries behind a sink and gists that are keys and values, windows side by side; gradients reach the gists."""

from __future__ import annotations

from torch import Tensor

from megacontext.models.base import BaseModel
from megacontext.models.entries import CacheEntries, HoldsEntries, put_entries


def read_behind(
    base: BaseModel,
    sink: CacheEntries,
    sink_at: Tensor,
    gists: tuple[CacheEntries, Tensor] | None,
    embeddings: Tensor,
    positions: Tensor,
) -> Tensor:
    """Hidden states (B, S, E) of entries `embeddings` (B, S, E) at `positions` (B, S).

    Before them stand the sink (L, 1, 1, Hkv, D), in each row at `sink_at` (B,), and gists (L, B, G, Hkv, D) at their
    positions (B, G), or none. Raises ShapeError.
    """
    assert isinstance(base, HoldsEntries)
    rows, count, _ = embeddings.shape
    gist_count = 0 if gists is None else gists[1].shape[1]
    cache = base.reserve(rows, 1 + gist_count + count)
    everywhere = CacheEntries(*(one.expand(-1, rows, -1, -1, -1) for one in (sink.keys, sink.values)))
    put_entries(base, cache, everywhere, sink_at[:, None].double())
    if gists is not None:
        put_entries(base, cache, gists[0], gists[1].double())
    return base(embeddings, positions, cache=cache)
