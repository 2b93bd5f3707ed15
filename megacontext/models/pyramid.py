"""Our GPT with attention over a pyramid: what a query reads loses detail with distance, at a cost that hardly grows.

Summaries of the context stand behind its entries and go through all layers with them, as queries too: each sees what
its last child sees. So a layer's rows are [entries | wLOD1 | wLOD2 ...], about 1 / (K - 1) more than there are entries,
and a query reads window + span / K + N / K^L of them. With a window over the whole context it is the plain model.
Slots, keys and values that belong to no entry, stand behind all of them.

Decoding keeps keys and values of every level; a summary is made when its last child has come, in the same pass.

Where distance counts by itself (ALiBi, or its logarithm), a summary stands, and asks, in the middle of its span.

Deliberately knows nothing of trees: these levels belong to one context, and stored gists are entries like any other.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from megacontext.attention.pyramid import PyramidConfig, attend
from megacontext.attention.rotary import rotary_tables
from megacontext.errors import ConfigError, ShapeError
from megacontext.gistnet.gist import GistNet
from megacontext.models.base import NO_TOKEN
from megacontext.models.gpt import GPT
from megacontext.models.pointwise import rms_norm
from megacontext.models.summaries import Level, Slots, Summaries

if TYPE_CHECKING:
    from megakernels.pyramid_attention import Distance, Pyramid, Queries


class PyramidGPT(nn.Module):
    """A `BaseModel` around a GPT, with `Summaries` by a GistNet.

    Raises ConfigError where the parts do not fit: GistNet of another block size, or a GPT with short windows. Warns of
    a pyramid that overshoots.
    """

    def __init__(self, gpt: GPT, gistnet: GistNet, config: PyramidConfig):
        super().__init__()
        if gistnet.block_size != config.block:
            raise ConfigError(
                f"GistNet must read blocks of pyramid.block = {config.block}, it reads {gistnet.block_size}; change one"
            )
        if "S" in gpt.config.window_pattern:
            raise ConfigError(
                f"a pyramid is what every layer sees, model.window_pattern must be L, got "
                f"{gpt.config.window_pattern!r}; leave it out"
            )
        if config.overshoot:
            warnings.warn(
                "pyramid.overshoot lets a query see the summary of its own block: what is predicted depends on up to "
                f"{config.block - 1} later entries, and no loss of this model is a language model's",
                stacklevel=2,
            )
        self.gpt, self.config = gpt, config
        layers, heads, width = gpt.entry_shape
        self.summaries = Summaries(
            gistnet,
            uncertain=config.rotary == "gaussian",
            slots=Slots(layers, config.slots, heads, width) if config.slots else None,
        )
        self.rule = config.rule

    @property
    def width(self) -> int:
        """E, numbers in an input embedding."""
        return self.gpt.width

    @property
    def vocab_size(self) -> int:
        """V, how many logits `unembed` gives."""
        return self.gpt.vocab_size

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.gpt.device

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings (..., E) of token ids (...)."""
        return self.gpt.embed(ids)

    def unembed(self, hidden: Tensor) -> Tensor:
        """Capped logits, float32 (..., V), of hidden states (..., E)."""
        return self.gpt.unembed(hidden)

    def reserve(self, batch: int, room: int) -> PyramidCache:
        """An empty cache with room for `room` entries, and their summaries, in each of `batch` rows.

        Raises ConfigError for a pyramid that overshoots.
        """
        if self.config.overshoot:
            raise ConfigError(
                "a cache reads on one entry at a time, pyramid.overshoot must be false with it: what follows is not "
                "there yet; read the whole context at once, or leave it out"
            )
        return PyramidCache.reserve(self.gpt, self.rule, batch, room)

    def forward(
        self,
        embeddings: Tensor,
        positions: Tensor,
        *,
        ids: Tensor | None = None,
        padding: Tensor | None = None,
        cache: PyramidCache | None = None,
    ) -> Tensor:
        """Hidden states (B, W, E) of the entries, as `GPT.forward`. Raises ShapeError, for any padding too."""
        if padding is not None:
            raise ShapeError(
                "a pyramid reads rows without padding, got some; read rows of unlike length one by one"
            )
        if embeddings.ndim != 3 or positions.shape not in (embeddings.shape[:2], (1, embeddings.shape[1])):
            raise ShapeError(
                f"a context needs embeddings (B, W, {self.width}) and positions (B, W), "
                f"got {tuple(embeddings.shape)} and {tuple(positions.shape)}"
            )
        batch, entries, _ = embeddings.shape
        past = 0 if cache is None else cache.length
        if cache is not None and not cache.has_room(batch, entries):
            raise ShapeError(
                f"a cache holds what it was reserved for, {cache.room} entries in {cache.batch} rows, got {batch} rows "
                f"of {entries} entries on top of {past}; reserve a larger one"
            )
        mean = positions.double()
        if self.config.positions != "global":
            mean = torch.arange(past, past + entries, dtype=torch.float64, device=mean.device)[None]
        if cache is not None:
            mean = mean.expand(batch, -1)
        levels = self._levels(Level(embeddings, mean, torch.zeros_like(mean)), past, cache)
        packed = Level(*(torch.cat(parts, dim=1) for parts in zip(*levels, strict=True)))
        ids = torch.full((batch, entries), NO_TOKEN, device=embeddings.device) if ids is None else ids
        made = packed.vectors.shape[1] - entries
        turned_by = torch.zeros_like(packed.mean) if self.config.rotary == "none" else packed.mean
        keys_at = packed.mean if cache is None else cache.known.mean
        keys_at = torch.cat((keys_at, keys_at.new_full((len(keys_at), self.rule.slots), torch.inf)), dim=1)
        reading = _Pass(
            self.config, self.rule, past, entries, cache, batch,
            distance=self.config.distance(self.gpt.config.n_head, packed.mean, keys_at),
            slots=self._slots(turned_by[:, :1], past),
        )  # fmt: skip
        hidden = self.gpt(
            packed.vectors,
            turned_by,
            ids=torch.cat((ids, ids.new_full((batch, made), NO_TOKEN)), dim=1),
            cache=reading,
            variance=self.summaries.variance(packed.variance),
        )
        if cache is not None:
            cache.is_token[:, past : past + entries] = (ids >= 0)[..., None]
            cache.length += entries
        return hidden[:, :entries]

    def _slots(self, first: Tensor, past: int) -> list[tuple[Tensor, Tensor]] | None:
        """Keys and values of each layer's slots, which stand where the context begins; None where a cache has them."""
        slots = self.summaries.slots
        if slots is None or past or not first.numel():
            return None
        tables = rotary_tables(first, self.gpt.config.head_dim, self.gpt.dialect.rope_base)
        return [slots.of_layer(layer, tables) for layer in range(self.gpt.config.n_layer)]

    def _levels(self, entries: Level, past: int, cache: PyramidCache | None) -> list[Level]:
        """The entries, and every summary that they complete behind `past` others."""
        levels, stop = [entries], past + entries.vectors.shape[1]
        if cache is not None:
            cache.note(0, past, entries)
        for level in range(1, self.rule.levels + 1):
            width = self.rule.block**level
            first, last = past // width, stop // width
            children = (
                Level(*(one[:, : last * self.rule.block] for one in levels[-1]))
                if cache is None
                else cache.noted(level - 1, first * self.rule.block, last * self.rule.block)
            )
            made = self.summaries.parents(children, level)
            if cache is not None:
                cache.note(level, first, made)
            levels.append(made)
        return levels


@dataclass
class PyramidCache:
    """What a decoding has read: entries and summaries of all levels in one order, [entries | wLOD1 | wLOD2 ...]."""

    rule: Pyramid
    room: int
    """Entries that it was reserved for."""
    keys: list[Tensor]
    """Of each layer (B, M, Hkv, D), M the rows of all levels of `room` entries, and the slots; zeros where nothing was
    read yet."""
    values: list[Tensor]
    known: Level
    """The same rows but the slots, before the first layer, of which summaries are made."""
    is_token: Tensor
    """bool (B, room, 1)."""
    length: int = 0
    """How many entries it holds."""

    @classmethod
    def reserve(cls, gpt: GPT, rule: Pyramid, batch: int, room: int) -> PyramidCache:
        """An empty one, on the device and in the type of `gpt`."""
        like, rows, nodes = gpt.lm_head.weight, sum(rule.rows(room)), sum(rule.count(room))
        layers, heads, width = gpt.entry_shape
        places = torch.zeros(batch, nodes, dtype=torch.float64, device=like.device)
        return cls(
            rule=rule,
            room=room,
            keys=[like.new_zeros(batch, rows, heads, width) for _ in range(layers)],
            values=[like.new_zeros(batch, rows, heads, width) for _ in range(layers)],
            known=Level(like.new_zeros(batch, nodes, gpt.width), places, places.clone()),
            is_token=torch.zeros(batch, room, 1, dtype=torch.bool, device=like.device),
        )

    @property
    def batch(self) -> int:
        """Rows that it was reserved for."""
        return len(self.is_token)

    def has_room(self, batch: int, entries: int) -> bool:
        """Whether `entries` more fit, in a batch of that size."""
        return batch == self.batch and self.length + entries <= self.room

    def truncate(self, length: int) -> None:
        """Forget all entries from `length` on, and the summaries that knew any of them. Raises ShapeError."""
        if not 0 <= length <= self.length:
            raise ShapeError(
                f"a cache of {self.length} entries is cut to no more than it holds, got {length}"
            )
        self.length = length

    def rows(self, level: int, first: int, last: int) -> slice:
        """Where nodes [first, last) of a level stand."""
        before = sum(self.rule.rows(self.room)[:level])
        return slice(before + first, before + last)

    def note(self, level: int, first: int, nodes: Level) -> None:
        """Keep nodes of a level, from `first` on."""
        rows = self.rows(level, first, first + nodes.vectors.shape[1])
        for mine, new in zip(self.known, nodes, strict=True):
            mine[:, rows] = new

    def noted(self, level: int, first: int, last: int) -> Level:
        """Nodes [first, last) of a level."""
        return Level(*(one[:, self.rows(level, first, last)] for one in self.known))


class _Pass:
    """One forward pass over entries and the summaries that they complete; for the GPT inside, its cache."""

    def __init__(
        self,
        config: PyramidConfig,
        rule: Pyramid,
        past: int,
        entries: int,
        memory: PyramidCache | None,
        batch: int,
        *,
        distance: Distance | None,
        slots: list[tuple[Tensor, Tensor]] | None,
    ):
        from megakernels.pyramid_attention import Queries

        self.batch, self.length, self.room = batch, past, past + entries
        self._backend, self._rule, self._memory = config.backend, rule, memory
        self._distance, self._slots = distance, slots
        self.num_tokens = past + entries if memory is None else memory.room
        before, after = rule.count(past), rule.count(past + entries)
        self.queries: list[Queries] = [
            Queries(level, first, last - first)
            for level, (first, last) in enumerate(zip(before, after, strict=True))
        ]

    def has_room(self, batch: int, entries: int) -> bool:
        """Whether these are the rows of the pass."""
        return batch == self.batch and entries == sum(run.count for run in self.queries)

    def sight(self, window: int | None, entries: int, padding: Tensor | None) -> PyramidSight:
        """What every row sees; windows are the pyramid's own."""
        assert padding is None
        return PyramidSight(self._rule, self.num_tokens, self.queries, self._backend, self._distance)

    def last(self) -> tuple[Tensor, Tensor | None] | None:
        """The entry before the pass as smear passes it on, (B, 1, E), and whether it is a token."""
        if self._memory is None or not self.length:
            return None
        before = slice(self.length - 1, self.length)
        return rms_norm(self._memory.known.vectors[:, before]), self._memory.is_token[:, before]

    def remember(self, givers: Tensor, is_token: Tensor | None) -> None:
        """Nothing: the cache knows the entries as they came in."""

    def extend(self, layer: int, keys: Tensor, values: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Write each level's rows (B, rows, Hkv, D) where they belong; returns all there are."""
        memory, added = self._memory, None
        if self._slots is not None:
            added = [one.to(keys.dtype).expand(len(keys), -1, -1, -1) for one in self._slots[layer]]
        if memory is None and added is not None:
            return torch.cat((keys, added[0]), dim=1), torch.cat((values, added[1]), dim=1)
        if memory is None:
            return keys, values
        if added is not None:
            memory.keys[layer][:, -self._rule.slots :], memory.values[layer][:, -self._rule.slots :] = added
        ends = list(accumulate(run.count for run in self.queries))
        for run, end in zip(self.queries, ends, strict=True):
            rows = memory.rows(run.level, run.start, run.start + run.count)
            memory.keys[layer][:, rows] = keys[:, end - run.count : end]
            memory.values[layer][:, rows] = values[:, end - run.count : end]
        return memory.keys[layer], memory.values[layer]

    def count(self, entries: int) -> None:
        """Nothing: entries are counted, summaries are not."""


@dataclass(frozen=True)
class PyramidSight:
    """What the rows of a pass see: takes the place of `windows.Sight` in a layer."""

    rule: Pyramid
    num_tokens: int
    queries: list[Queries]
    backend: str
    distance: Distance | None = None
    first: int = 0
    """Nothing is left out."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """q (B, rows, H, D), k and v (B, M, Hkv, D) of all levels -> (B, rows, H, D)."""
        return attend(
            q, k, v, self.rule, self.num_tokens, self.queries, scale=scale, backend=self.backend,
            distance=self.distance,
        )  # fmt: skip
