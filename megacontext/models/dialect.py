"""What differs between the generations of nanochat's GPT, as data.

nanochat's checkpoints carry no version, yet its architecture changed several times (ours is written from the
contract in obsidian/, not from its code). A dialect says which extras a generation has and which constants it uses;
`GPT` reads it and has no other branch on generations. Apart from the first and the last, a dialect is named by the
day from which nanochat spoke it.

The change of 2026-01-17 has no dialect: it only moved defaults (the window pattern SSSL, a vocabulary of 32 768). The
defaults of a run are those of the command or recipe that starts it; those of a shape stand in `GPTConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from megacontext.registry import Registry

SMEAR_CHANNELS = 24
"""Channels that the gate of smear reads, in every generation that has it."""


@dataclass(frozen=True, kw_only=True)
class ShortWindow:
    """How far back the layers marked S look: a share of the sequence length."""

    divisor: int
    multiple: int | None = None
    """The share is rounded up to a multiple of this many entries; None rounds it down to a whole entry."""

    def entries(self, sequence_len: int) -> int:
        """Entries before the query's own that it sees."""
        if self.multiple is None:
            return sequence_len // self.divisor
        return -(-sequence_len // (self.divisor * self.multiple)) * self.multiple


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
    short_window: ShortWindow | None = None
    """None: no windows, every layer sees all. Otherwise L layers see the sequence length back, S layers this."""

    @property
    def gate_channels(self) -> int:
        """Channels of the stream that gates read; a model must be at least that wide."""
        return max(self.value_gate_channels, SMEAR_CHANNELS if self.smear else 0)


DIALECTS: Registry[Dialect] = Registry("dialect")


def _register(dialect: Dialect) -> Dialect:
    return DIALECTS.register(dialect.name)(dialect)


CLASSIC = _register(Dialect(name="classic", softcap=15.0, rope_base=10_000.0))
# Each later one says what it changes in the one before.
PADDED = _register(replace(CLASSIC, name="2025-12-09", vocab_multiple=64))
SCALARS = _register(
    replace(PADDED, name="2026-01-11", residual_scalars=True, short_window=ShortWindow(divisor=2))
)
VALUES = _register(replace(SCALARS, name="2026-01-16", value_gate_channels=32, value_gate_scale=2.0))
SOFTCAP_20 = _register(replace(VALUES, name="2026-03-02", softcap=20.0))
SHARP = _register(
    replace(
        SOFTCAP_20,
        name="2026-03-09",
        softcap=15.0,
        rope_base=100_000.0,
        qk_scale=1.15,
        value_gate_channels=12,
        value_gate_scale=3.0,
        short_window=ShortWindow(divisor=3, multiple=128),
    )
)
CURRENT = _register(
    replace(
        SHARP,
        name="current",
        qk_scale=1.2,
        smear=True,
        backout=True,
        short_window=ShortWindow(divisor=4, multiple=128),
    )
)
