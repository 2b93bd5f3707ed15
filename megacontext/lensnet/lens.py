"""LensNet: looks at a whole working context and the question, and scores each entry in [-1, 1].

A small non-causal transformer over entries. An entry brings its gist, its level, and the best address among its
descendants with that address's match to the question, and, with `words`, how well the words of its best descendant
are those that were said last; the question itself stands at the end as one more entry, so the score of an old entry
changes when the question changes. A pointer between the question's state and each entry's
state, plus a scalar of the entry, gives the logit.

Order without positions: half of the heads look only at later entries, half only at earlier ones. That is all an
entry needs to learn that somebody later says the same thing (the last value counts), and it holds at any length of
history. What stands directly beside an entry is mixed in by a convolution, for a sentence may run into the next
block. Deliberately knows nothing of budgets or legality: the focus allocator decides.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from megacontext.attention.encoder import EncoderLayer
from megacontext.errors import ConfigError

TAIL_KIND, KINDS = 0, 5
"""Entry kinds: 0 = unfinished tail, 1 = raw block, 2 = LOD1 gist, 3 = LOD2 gist, 4 = any higher gist."""


@dataclass(frozen=True, kw_only=True)
class LensNetConfig:
    """Size of the net."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    words: bool = False
    """Whether it sees, beside addresses, where the last words of what is asked stand (BM25). An address has never met a
    new word; and where steps are said, the last of them marks the place that was read for it."""

    def __post_init__(self) -> None:
        if self.heads < 2 or self.heads % 2 or self.width % self.heads or self.layers < 1:
            raise ConfigError(
                "lens.heads must be even, divide lens.width, and lens.layers be at least 1, "
                f"got heads {self.heads}, width {self.width}, layers {self.layers}"
            )


@dataclass(frozen=True)
class LensInput:
    """What LensNet sees: N entries (padded) of B contexts."""

    gists: Tensor
    """(B, N, E): the gist of each entry; zeros for the unfinished tail, which has none."""
    addresses: Tensor
    """(B, N, A): of each entry's descendants, the address that matches the question best."""
    match: Tensor
    """(B, N): that match, a cosine."""
    kind: Tensor
    """int64 (B, N): see KINDS."""
    present: Tensor
    """bool (B, N): False for padding."""
    question: Tensor
    """(B, A): the question's address."""
    words: Tensor
    """(B, N) in [0, 1]: of each entry's descendants, the best match of words; 1 is the best of the history. Zeros for a
    net that sees no words."""


class LensNet(nn.Module):
    """LensInput -> logits (B, N); `scores` maps them to [-1, 1]."""

    def __init__(self, config: LensNetConfig, *, gist_width: int, address_width: int):
        super().__init__()
        self.config = config
        width = config.width
        # A memory whose gists are made only where they are read has none to look at.
        self.from_gist = (
            nn.Sequential(nn.LayerNorm(gist_width), nn.Linear(gist_width, width)) if gist_width else None
        )
        self.from_address = nn.Linear(address_width, width)
        self.from_product = nn.Linear(address_width, width)
        self.from_match = nn.Linear(2, width)
        self.from_words = nn.Linear(2, width) if config.words else None
        self.from_question = nn.Linear(address_width, width)
        self.kind = nn.Embedding(KINDS, width)
        self.neighbours = nn.Conv1d(width, width, 3, padding=1)
        self.layers = nn.ModuleList(EncoderLayer(width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.pointer_question = nn.Linear(width, width)
        self.pointer_entry = nn.Linear(width, width)
        self.scalar = nn.Linear(width, 1)

    def forward(self, given: LensInput) -> Tensor:
        """Logits (B, N) that an entry holds what the question needs; padding gets any number."""
        question = given.question[:, None, :]
        x = (
            (0.0 if self.from_gist is None else self.from_gist(given.gists))
            + self.from_address(given.addresses)
            + self.from_product(given.addresses * question * question.shape[-1] ** 0.5)
            + self.from_match(_spread(given.match))
            + (0.0 if self.from_words is None else self.from_words(_spread(given.words)))
            + self.kind(given.kind)
        )
        x = x * given.present[..., None]
        x = x + self.neighbours(x.transpose(1, 2)).transpose(1, 2)
        x = torch.cat((x, self.from_question(question)), dim=1)
        mask = self._mask(given.present)
        for layer in self.layers:
            x = layer(x, mask)
        x = self.norm(x)
        entries, asked = x[:, :-1], x[:, -1:]
        pointer = (self.pointer_entry(entries) * self.pointer_question(asked)).sum(dim=-1)
        return pointer / self.config.width**0.5 + self.scalar(entries)[..., 0]

    @staticmethod
    def scores(logits: Tensor) -> Tensor:
        """Scores in [-1, 1]: twice the probability, minus one."""
        return torch.tanh(logits / 2)

    def _mask(self, present: Tensor) -> Tensor:
        """bool (B, H, N+1, N+1): first half of the heads sees itself and later, second half itself and earlier."""
        present = torch.nn.functional.pad(present, (0, 1), value=True)
        slots = torch.arange(present.shape[1], device=present.device)
        later = slots[None, :] >= slots[:, None]
        half = self.config.heads // 2
        directions = torch.stack([later] * half + [later.T] * half)
        own = torch.eye(len(slots), dtype=torch.bool, device=present.device)
        return (directions[None] & present[:, None, None, :]) | own


def _spread(match: Tensor) -> Tensor:
    """A match moves little where it matters; the cube spreads the top end. (B, N) -> (B, N, 2)."""
    return torch.stack((match, match**3), dim=-1) * 4.0
