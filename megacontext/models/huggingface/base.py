"""A causal language model of transformers, frozen, as a base model that reads mixed contexts.

Any decoder serves that takes `inputs_embeds`, `position_ids` and a cache and ends in one linear head, capped or not.
Whether one does is not believed but tried: the adapter reads a few tokens both ways when it is made, and refuses a
model whose own logits it does not meet (scaled logits, inputs by token id beside the embeddings, a look ahead).

Three policies for gists:

- The attention mask is always given. Without one, transformers takes gaps between positions for the borders of
  packed sequences, and every entry behind a gap becomes blind to the gists in front of it.
- Rotary positions are real numbers: a span's centre reaches the angles as it is. They are counted from the last entry
  of the first piece, so that their float32 angles are exact where they matter, however long the history. Where
  frequencies or sharpness follow the position itself (rope types `dynamic` and `longrope`, Llama 4's scale), they are
  handed on as they are. Positions in a table are whole, so a centre is rounded down, and one beyond it is refused.
- Sliding windows count entries: a gist takes as much of a window as a token.

Deliberately knows nothing of trees, gists' makers or tokenizers.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from megacontext.errors import CheckpointError, ShapeError

_LAYERS = {"full_attention", "sliding_attention"}
_ABSOLUTE_ROTARY = {"dynamic", "longrope"}
_ABSOLUTE_SCALE = "llama_4_scaling_beta"
_READS = ("inputs_embeds", "position_ids", "attention_mask", "cache")
_PROBE_TOKENS = 5
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Of the largest logit. Half precision gets 0.05."""


class HuggingFaceBase(nn.Module):
    """The adapter. Its parameters are frozen and it stays in evaluation mode, whatever is asked of it."""

    def __init__(self, model: nn.Module):
        """`model`: a `...ForCausalLM` of transformers. Raises CheckpointError for one that cannot read a context."""
        super().__init__()
        self.model = model.requires_grad_(False)
        self.config: Any = model.config.get_text_config(decoder=True)
        self._name = type(model).__name__
        self._check_interface()
        self._softcap: float | None = getattr(self.config, "final_logit_softcapping", None)
        self._rotary = hasattr(self.decoder, "rotary_emb")
        self._countable = not any(
            table.get("rope_type") in _ABSOLUTE_ROTARY or _ABSOLUTE_SCALE in table
            for table in _rope_tables(self.config)
        )
        self.train(False)
        self._check_agreement()

    @property
    def decoder(self) -> nn.Module:
        """The model without its head."""
        return self.model.base_model

    @property
    def head(self) -> nn.Module | None:
        """Hidden states to logits, but for a cap."""
        return self.model.get_output_embeddings()

    @property
    def width(self) -> int:
        """E, numbers in an input embedding."""
        return self._table.shape[1]

    @property
    def vocab_size(self) -> int:
        """V, how many logits `unembed` gives."""
        return self.head.weight.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._table.device

    @property
    def _table(self) -> Tensor:
        """Embeddings (rows, E), before any factor that the model's embedding layer puts on them."""
        return self.decoder.get_input_embeddings().weight

    def train(self, mode: bool = True) -> HuggingFaceBase:
        """Evaluation mode, always: a frozen model drops nothing out."""
        return super().train(False)

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings (..., E) of token ids (...)."""
        return self.decoder.get_input_embeddings()(ids)

    def reserve(self, batch: int, room: int) -> Any:
        """An empty `ReservedCache` with room for `room` entries in each of `batch` rows."""
        from megacontext.models.huggingface.cache import ReservedCache

        return ReservedCache(self.config.num_hidden_layers, batch, room, self._table.device)

    def forward(
        self,
        embeddings: Tensor,
        positions: Tensor,
        *,
        ids: Tensor | None = None,
        padding: Tensor | None = None,
        cache: Any = None,
    ) -> Tensor:
        """Hidden states (B, W, E) after the last norm, ready for `unembed`. See `BaseModel`.

        `ids` are not looked at: such a model tells a token from a gist by nothing. Raises ShapeError when the
        arguments do not belong together, or for a position beyond the model's table.
        """
        self._check_shapes(embeddings, positions, ids, padding, cache)
        batch, entries, _ = embeddings.shape
        positions = positions.expand(batch, entries)
        origin = positions.max(dim=1, keepdim=True).values.floor()
        if cache is not None and cache.origin is not None:
            origin = cache.origin
        position_ids = self._position_ids(positions, origin)
        seen = ~padding if padding is not None else torch.ones_like(positions, dtype=torch.bool)
        if cache is not None:
            past = cache.length
            cache.origin = origin
            cache.allowed[:, past : past + entries] = seen
            seen = cache.allowed[:, : past + entries]
        return self.decoder(
            inputs_embeds=embeddings.to(self._table.dtype),
            attention_mask=seen.long(),
            position_ids=position_ids,
            cache=cache,
            use_cache=cache is not None,
        ).last_hidden_state

    def unembed(self, hidden: Tensor) -> Tensor:
        """Logits, float32 (..., V), of hidden states (..., E), capped where the model caps them."""
        logits = self.head(hidden).float()
        return logits if self._softcap is None else self._softcap * torch.tanh(logits / self._softcap)

    # Entries that are keys and values: see `models.entries.HoldsEntries`.

    @property
    def entry_shape(self) -> tuple[int, int, int]:
        """L, Hkv, D: layers, key/value heads, head width. Raises ShapeError for positions that no turn can change."""
        config = self.config
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        if not (self._rotary and self._countable) or len(_rope_tables(config)) > 1:
            raise ShapeError(
                "entries that are keys and values need plain rotary positions, the same in every layer, "
                f"{self._name} has others; use gists that are embeddings"
            )
        return config.num_hidden_layers, getattr(config, "num_key_value_heads", None) or heads, width

    def turn(self, keys: Tensor, positions: Tensor) -> Tensor:
        """Keys (..., D) rotated on by positions (...), in tokens."""
        rotary = self.decoder.rotary_emb
        # Some families scale their tables; a turn changes no lengths.
        cos, sin = (
            table.view(keys.shape) / rotary.attention_scaling
            for table in rotary(keys, positions.reshape(1, -1).float())
        )
        first, second = keys.chunk(2, dim=-1)
        return (keys * cos + torch.cat((-second, first), dim=-1) * sin).to(keys.dtype)

    def cached(self, cache: Any, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Keys and values (L, B, n, Hkv, D) of entries [start, stop) of a cache."""
        return tuple(
            torch.stack([getattr(layer, name)[:, :, start:stop].transpose(1, 2) for layer in cache.layers])
            for name in ("keys", "values")
        )

    def append_cached(self, cache: Any, keys: Tensor, values: Tensor) -> None:
        """Write keys and values (L, B, n, Hkv, D) behind what a cache holds."""
        past, kind = cache.length, self._table.dtype
        for layer, own_keys, own_values in zip(cache.layers, keys.to(kind), values.to(kind), strict=True):
            layer.update(own_keys.transpose(1, 2), own_values.transpose(1, 2))
        cache.allowed[:, past : cache.length] = True

    def origin(self, cache: Any, positions: Tensor) -> Tensor:
        """Where a cache counts positions from, (B or 1, 1): for an empty one, the last of `positions`."""
        if cache.origin is None:
            cache.origin = positions.max(dim=1, keepdim=True).values.floor().expand(cache.batch, 1)
        return cache.origin

    def _position_ids(self, positions: Tensor, origin: Tensor) -> Tensor:
        """Positions (B, W) as the decoder takes them."""
        if self._rotary:
            return (positions - origin).float() if self._countable else positions.float()
        whole = positions.floor().long()
        rows = self.config.max_position_embeddings
        if whole.min() < 0 or whole.max() >= rows:
            raise ShapeError(
                f"{self._name} has a table of {rows:,} positions, 0 to {rows - 1:,}, got positions "
                f"{whole.min():,} to {whole.max():,}; count them in the context (`context`), lower the budget, or use "
                "a base model with rotary positions"
            )
        return whole

    def _check_shapes(
        self,
        embeddings: Tensor,
        positions: Tensor,
        ids: Tensor | None,
        padding: Tensor | None,
        cache: Any,
    ) -> None:
        fits = embeddings.ndim == 3 and embeddings.shape[1] > 0 and embeddings.shape[2] == self.width
        if fits:
            batch, entries, _ = embeddings.shape
            fits = tuple(positions.shape) in {(batch, entries), (1, entries)}
            fits = fits and all(row is None or tuple(row.shape) == (batch, entries) for row in (ids, padding))
        if not fits:
            given = {"embeddings": embeddings, "positions": positions, "ids": ids, "padding": padding}
            raise ShapeError(
                f"a context needs embeddings (B, W, {self.width}) and positions, ids and padding (B, W), W at least "
                "1, got "
                + ", ".join(f"{name} {tuple(row.shape)}" for name, row in given.items() if row is not None)
            )
        if cache is not None:
            rows, room = cache.allowed.shape
            if batch != rows or cache.length + entries > room:
                raise ShapeError(
                    f"a cache holds what it was reserved for, {room} entries in {rows} rows, got {batch} rows of "
                    f"{entries} entries on top of {cache.length}; reserve a larger one"
                )

    def _check_interface(self) -> None:
        taken = inspect.signature(self.decoder.forward).parameters
        missing = [name for name in _READS if name not in taken]
        foreign = sorted(set(getattr(self.config, "layer_types", None) or ()) - _LAYERS)
        placed = hasattr(self.decoder, "rotary_emb") or hasattr(self.config, "max_position_embeddings")
        if missing:
            reason = f"its decoder takes no {', '.join(missing)}"
        elif self.head is None or self.decoder is self.model:
            reason = "it has no decoder with a head on top"
        elif foreign:
            reason = f"it has layers of {', '.join(foreign)}"
        elif not placed:
            reason = "its positions are neither rotary nor in a table"
        else:
            return
        raise CheckpointError(
            f"a base model reads embeddings at positions through full or sliding attention, {self._name} does not: "
            f"{reason}; use a model such as Llama, Qwen, Mistral, Gemma or GPT-2"
        )

    @torch.inference_mode()
    def _check_agreement(self) -> None:
        """Raises CheckpointError unless a few tokens, read as embeddings in two pieces, give the model's own logits."""
        ids = torch.arange(_PROBE_TOKENS, device=self._table.device)[None] % self.vocab_size
        positions = torch.arange(_PROBE_TOKENS, device=self._table.device)[None]
        try:
            own = self.model(input_ids=ids, use_cache=False).logits.float()
            cache, pieces = self.reserve(1, _PROBE_TOKENS), (slice(0, 3), slice(3, None))
            hidden = [self(self.embed(ids[:, at]), positions[:, at], cache=cache) for at in pieces]
            ours = self.unembed(torch.cat(hidden, dim=1))
        except Exception as problem:
            # Foreign code that meets a cache or an input which it was not made for can fail anywhere, with anything.
            reason = f"it stopped with {type(problem).__name__}: {' '.join(str(problem).split())[:120]}"
        else:
            difference, scale = (own - ours).abs().max().item(), own.abs().max().item()
            if difference <= _TOLERANCE.get(self._table.dtype, 0.05) * scale:
                return
            reason = f"they differ by {difference:.2g} of {scale:.2g}"
        raise CheckpointError(
            f"a base model gives the logits of its tokens when it reads their embeddings piece by piece, "
            f"{self._name} does not: {reason}; it does more on the way than embed, decode and unembed, or looks "
            "ahead: use another model"
        )


def _rope_tables(config: Any) -> list[dict[str, Any]]:
    """What a configuration says of rotary frequencies; a model may have some for each kind of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    return [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
