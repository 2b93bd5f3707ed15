"""What is left of a segment once it is read: gists of its blocks by every net that makes them, and hidden states.

Reading is what costs: a frozen decoder reads 2,048 tokens in seconds to tens of seconds on a CPU, and finds nothing new
in them however often it does. So a segment is read once for all nets, and with a folder what was made of it is kept
there, in half precision, under a name that depends on the decoder, the net's weights, the sink and the segment's own
tokens: what was interrupted, or works on the same text again, goes on from there. Higher levels are made of these gists
in no time and are not kept.

Deliberately knows nothing of windows or of what gists are for.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from megacontext.errors import CheckpointError
from megacontext.gistnet.pooled import PooledCache
from megacontext.models.block_caches import SegmentCaches, read_apart, read_segment
from megacontext.models.entries import CacheEntries
from megacontext.runtime.pooled_gists import FrozenDecoder

_HIDDEN = "hidden"


@dataclass(frozen=True)
class SegmentGists:
    """Of a segment of N blocks of K tokens."""

    ids: Tensor
    """(N * K,)."""
    gists: dict[str, CacheEntries]
    """By the net's name, (L, N, Hkv, D): LOD1."""
    hidden: Tensor | None
    """(N * K, E): what the decoder says behind the tokens of the segment; None where it was not asked for."""


class SegmentReader:
    """Reads segments of whole blocks, each behind the sink alone, for several nets at once."""

    def __init__(
        self,
        decoder: FrozenDecoder,
        nets: Mapping[str, PooledCache],
        block_size: int,
        kept: Path | None = None,
        recent: int = 0,
        piece_blocks: int | None = None,
        with_hidden: bool = True,
    ):
        """`kept`: a folder for what is made, which need not exist; None keeps nothing beyond the process.

        The last `recent` segments stay in memory. `piece_blocks`: blocks of a segment that are read together; None:
        all. Hidden states are always those of the whole segment, and left out without `with_hidden`.
        """
        self._piece_blocks, self._with_hidden = piece_blocks, with_hidden
        self._recent: OrderedDict[bytes, SegmentGists] = OrderedDict()
        self._most_recent = recent
        self._decoder, self._nets, self._block_size, self._kept = decoder, dict(nets), block_size, kept
        self._names = {name: _digest(net) for name, net in self._nets.items()}
        ids = torch.zeros(block_size, dtype=torch.long, device=decoder.base.device)
        self.sink = read_segment(decoder.base, ids, block_size, decoder.sink_id).sink
        """(L, 1, 1, Hkv, D): the same before every segment."""

    def read(self, ids: Tensor, caches: SegmentCaches | None = None) -> SegmentGists:
        """What the nets make of a segment `ids` (N * K,), whose `caches` may be at hand.

        Raises ShapeError, CheckpointError for a damaged file.
        """
        key = ids.cpu().numpy().tobytes()
        if key not in self._recent:
            self._recent[key] = self._read(ids, caches)
        self._recent.move_to_end(key)
        read = self._recent[key]
        while len(self._recent) > self._most_recent:
            self._recent.popitem(last=False)
        return read

    @torch.no_grad()
    def _read(self, ids: Tensor, caches: SegmentCaches | None) -> SegmentGists:
        paths = {name: self._path(ids, (digest, self._piece_blocks)) for name, digest in self._names.items()}
        if self._with_hidden:
            paths[_HIDDEN] = self._path(ids, (_HIDDEN, None))
        found = {name: self._load(path) for name, path in paths.items()}
        missing = [name for name, one in found.items() if one is None]
        for name, made in self._made(ids, missing, caches):
            found[name] = {part: one.to(torch.float16) for part, one in made.items()}
            self._save(paths[name], found[name])
        kind = self._decoder.base.embed(ids[:1]).dtype
        whole = {
            name: {part: one.to(kind) for part, one in (parts or {}).items()} for name, parts in found.items()
        }
        hidden = whole.pop(_HIDDEN, {}).get("hidden")
        return SegmentGists(ids, {name: CacheEntries(**parts) for name, parts in whole.items()}, hidden)

    def _made(
        self, ids: Tensor, wanted: list[str], caches: SegmentCaches | None
    ) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """What is wanted of a segment, which is read no oftener than that takes."""
        base, about = self._decoder.base, (self._block_size, self._decoder.sink_id)
        apart, nets = self._piece_blocks, [name for name in wanted if name != _HIDDEN]
        if wanted and caches is None and (apart is None or _HIDDEN in wanted):
            caches = read_segment(base, ids, *about)
        if _HIDDEN in wanted:
            assert caches is not None
            yield _HIDDEN, {"hidden": caches.hidden}
        if nets:
            blocks = caches.blocks if apart is None else read_apart(base, ids, *about, apart)
            for name in nets:
                keys, values = self._nets[name](blocks.keys, blocks.values, base.turn)
                yield name, {"keys": keys, "values": values}

    def _path(self, ids: Tensor, made_by: tuple[str, int | None]) -> Path | None:
        if self._kept is None:
            return None
        decoder = self._decoder
        about = (decoder.fingerprint, self.sink.keys.dtype, decoder.sink_id, self._block_size, made_by)
        digest = hashlib.blake2b(repr(about).encode(), digest_size=12)
        digest.update(ids.to("cpu", torch.int32).numpy().tobytes())
        return self._kept / f"{digest.hexdigest()}.safetensors"

    def _load(self, path: Path | None) -> dict[str, Tensor] | None:
        if path is None or not path.exists():
            return None
        try:
            parts = load_file(path)
        except (OSError, SafetensorError) as problem:
            raise CheckpointError(
                f"kept gists must be whole, {path} is not ({problem}); delete it to have them made again"
            ) from None
        return {name: one.to(self._decoder.base.device) for name, one in parts.items()}

    def _save(self, path: Path | None, parts: dict[str, Tensor]) -> None:
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        save_file({name: one.cpu().contiguous() for name, one in parts.items()}, aside)
        aside.replace(path)


def _digest(net: PooledCache) -> str:
    """Of what a net makes at LOD1: the weights of its first level."""
    digest = hashlib.blake2b(digest_size=12)
    for name, one in sorted(net.levels[0].state_dict().items()):
        digest.update(name.encode())
        digest.update(one.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
