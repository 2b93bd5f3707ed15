"""Shape of our GPT, and what follows from it alone.

The words are nanochat's, so that the `model_config` of a checkpoint is read as it stands.
"""

from __future__ import annotations

from dataclasses import dataclass

from megacontext.errors import ConfigError
from megacontext.models.dialect import DIALECTS


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """Shape of the base model, in nanochat's words, and the dialect it speaks."""

    dialect: str = "current"
    sequence_len: int = 2048
    vocab_size: int = 32_768
    n_layer: int = 12
    n_head: int = 6
    n_kv_head: int = 6
    n_embd: int = 768
    window_pattern: str = "L"

    def __post_init__(self) -> None:
        dialect = DIALECTS.get(self.dialect)
        if (
            min(self.sequence_len, self.vocab_size, self.n_layer, self.n_head, self.n_kv_head, self.n_embd)
            < 1
        ):
            raise ConfigError("every size of model.* must be at least 1; raise the one that is not")
        if self.n_embd % self.n_head or (self.n_embd // self.n_head) % 2:
            raise ConfigError(
                f"model.n_embd must be an even multiple of n_head, got {self.n_embd} and {self.n_head}; change one"
            )
        if self.n_head % self.n_kv_head:
            raise ConfigError(
                f"model.n_head must be a multiple of n_kv_head, got {self.n_head} and {self.n_kv_head}; change one"
            )
        if self.n_embd < dialect.gate_channels:
            raise ConfigError(
                f"model.n_embd must be at least {dialect.gate_channels} in dialect {self.dialect!r}, whose gates read "
                f"so many channels, got {self.n_embd}; raise it or choose another dialect"
            )
        if not self.window_pattern or set(self.window_pattern) - set("LS"):
            raise ConfigError(
                f"model.window_pattern must be letters L (long) and S (short), got {self.window_pattern!r}; "
                "use L for windows that see everything"
            )
        if "S" in self.window_pattern and dialect.short_window is None:
            raise ConfigError(
                f"model.window_pattern must be L in dialect {self.dialect!r}, which has no windows, got "
                f"{self.window_pattern!r}; leave it out or choose another dialect"
            )

    @property
    def head_dim(self) -> int:
        """D, width of a head."""
        return self.n_embd // self.n_head

    @property
    def vocab_rows(self) -> int:
        """Rows of the embedding and of the head: the vocabulary, padded as the dialect pads it."""
        multiple = DIALECTS.get(self.dialect).vocab_multiple
        return -(-self.vocab_size // multiple) * multiple

    @property
    def windows(self) -> tuple[int | None, ...]:
        """How many entries each layer sees before its own; None where it sees all. The last layer is always long."""
        short = DIALECTS.get(self.dialect).short_window
        if short is None:
            return (None,) * self.n_layer
        lengths = {"L": self.sequence_len, "S": short.entries(self.sequence_len)}
        tiled = (self.window_pattern * self.n_layer)[: self.n_layer - 1] + "L"
        return tuple(lengths[letter] for letter in tiled)
