"""What differs between the generations of nanochat's GPT, as data.

nanochat's checkpoints carry no version, yet its architecture changed several times (ours is written from the
contract in obsidian/, not from its code). A dialect says which extras a generation has and which constants it uses;
`GPT` reads it and has no other branch on generations.
"""

from __future__ import annotations

from dataclasses import dataclass

from megacontext.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """Constants and extras of one generation."""

    name: str
    softcap: float
    """Logits are softcap * tanh(logits / softcap)."""
    rope_base: float
    qk_scale: float = 1.0
    """Factor on queries and keys after their norm: the sharpness of attention."""
    vocab_multiple: int = 1
    """Embedding and head rows are padded up to a multiple of this."""
    residual_scalars: bool = False
    """Learned weights per layer for the residual stream and for the first embedding, mixed back in."""
    value_gate_channels: int = 0
    """Channels that gate the value embeddings of alternate layers; 0 = no value embeddings."""
    value_gate_scale: float = 0.0
    smear: bool = False
    """Each token receives a gated share of the token before it."""
    backout: bool = False
    """A learned share of the middle layer's stream is taken out before the head."""
    short_window_divisor: int = 0
    """Short windows see ceil(sequence_len / divisor / 128) * 128 entries back; 0 = every layer sees all."""


DIALECTS: Registry[Dialect] = Registry("dialect")
CLASSIC = DIALECTS.register("classic")(Dialect(name="classic", softcap=15.0, rope_base=10_000.0))
CURRENT = DIALECTS.register("current")(
    Dialect(
        name="current",
        softcap=15.0,
        rope_base=100_000.0,
        qk_scale=1.2,
        vocab_multiple=64,
        residual_scalars=True,
        value_gate_channels=12,
        value_gate_scale=3.0,
        smear=True,
        backout=True,
        short_window_divisor=4,
    )
)
