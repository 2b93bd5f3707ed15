"""What embedding gists are trained by: losses over windows whose distant part is read as gists.

- `horizon`: next-token loss of the scored tokens behind gists (CE at horizon H).
- `teacher`: Kullback-Leibler divergence there from what the same base says behind the tokens; nothing flows into the
  teacher.
- `reconstruction`: the base says the blocks themselves, given their gists and one trained vector that asks for it.
- `separation`: gists of different blocks whose cosine distance is under a margin repel each other (Hadsell et al.
  2006).
- `next_gist`: from the state behind a block the gist of the next one, at LOD1 and LOD2. Nothing flows into the target,
  so that gists cannot become alike to be foretold; what the state was made of learns, gists before it included.
- `pooling`: squared distance to the mean, the first loss of the notebooks.

Recipes weigh them stage by stage (`train.gists.config`). Deliberately knows nothing of recipes, optimisers or data.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megacontext.errors import ShapeError
from megacontext.gistnet.gist import GistNet
from megacontext.models.base import NO_TOKEN, BaseModel
from megacontext.models.positions import PositionPolicy
from megacontext.runtime.embedding_windows import EmbeddingWindow, entry_row

MARGIN = 0.2
"""Cosine distance that gists of different blocks are to have."""
_LEVELS = 2


def horizon_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy, nats a token, of logits (..., V) against tokens (...)."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


def teacher_divergence(logits: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || said), nats a token, of logits (..., V) both."""
    said, wanted = logits.log_softmax(dim=-1), teacher.detach().log_softmax(dim=-1)
    return F.kl_div(said.flatten(0, -2), wanted.flatten(0, -2), log_target=True, reduction="batchmean")


def separation_loss(gists: Tensor, margin: float = MARGIN) -> Tensor:
    """Mean squared lack of cosine distance under `margin` over all pairs of gists (N, E); 0 for fewer than two."""
    count = len(gists)
    if count < 2:
        return gists.sum() * 0.0
    units = F.normalize(gists, dim=-1)
    lack = (margin - (1 - units @ units.T)).clamp_min(0) ** 2
    return (lack.sum() - lack.diagonal().sum()) / (count * (count - 1))


def pooling_loss(gists: Tensor, means: Tensor) -> Tensor:
    """Mean squared error of gists (..., E) against the means that they are to be."""
    return F.mse_loss(gists, means.detach())


def next_gist_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Squared error of predicted gists (N, E) over the spread of the true ones: 1 is what their mean would score."""
    target = target.detach()
    spread = (target - target.mean(dim=0)).square().sum(dim=-1).mean().clamp_min(1e-12)
    return (predicted - target).square().sum(dim=-1).mean() / spread


class Decoding(nn.Module):
    """Reconstruction: one trained vector behind the gists asks the base to say what they stand for."""

    def __init__(self, width: int):
        super().__init__()
        self.ask = nn.Parameter(torch.randn(width))

    def forward(
        self, base: BaseModel, window: EmbeddingWindow, policy: PositionPolicy, gists: Tensor, ids: Tensor
    ) -> Tensor:
        """Cross-entropy, nats a token, of the distant tokens of windows `ids` (B, tokens) given `gists` (B, P, E)."""
        batch, vectors, _ = gists.shape
        said = ids[:, : window.distant_tokens]
        # The last token is only ever a target.
        embeddings = torch.cat((gists, self.ask.expand(batch, 1, -1), base.embed(said[:, :-1])), dim=1)
        known = torch.cat((said.new_full((batch, vectors + 1), NO_TOKEN), said[:, :-1]), dim=1)
        starts, stops = window.span_bounds(vectors // window.gists)
        hidden = base(
            embeddings,
            entry_row(starts, stops, window.distant_tokens, said.shape[1], policy, ids.device),
            ids=known,
        )
        return horizon_loss(base.unembed(hidden[:, vectors:]), said)


class GistPrediction(nn.Module):
    """The gist of the next block (LOD1) or of the next K blocks (LOD2), from the state behind what came before."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, width) for _ in range(_LEVELS))
        for head in self.heads:
            nn.init.zeros_(head.weight)  # at first a constant, which the bias soon makes the mean

    def forward(
        self,
        base: BaseModel,
        gistnet: GistNet,
        window: EmbeddingWindow,
        gists: Tensor,
        hidden: Tensor,
        ids: Tensor,
    ) -> dict[int, Tensor]:
        """The error of each level that has something to foretell, of hidden states (B, P + near, E).

        LOD2: each coarse gist foretells the next. LOD1: so does each fine gist, the last of them the first raw block,
        and the end of each raw block the next one. Raises ShapeError for gists of more than one vector, and for windows
        in which nothing follows.
        """
        if gists.shape[1] != window.gists:
            raise ShapeError(
                f"a gist is foretold as one vector, got {gists.shape[1]} for {window.gists} spans; "
                "weigh next_gist with 0 or use one slot"
            )
        size, coarse = window.block_size, window.coarse
        near = ids[:, window.distant_tokens :]
        whole = near.shape[1] // size
        blocks = near[:, : whole * size].reshape(-1, size)
        with torch.no_grad():
            following = gistnet.gists(base.embed(blocks), 1).view(len(ids), whole, base.width)
        fine = torch.cat(
            (gists[:, coarse:], following), dim=1
        )  # gists of all blocks from the first fine one on
        ends = window.gists + size * torch.arange(1, max(1, whole), device=ids.device) - 1
        behind = torch.cat((hidden[:, coarse : window.gists], hidden[:, ends]), dim=1)
        errors = {}
        if coarse > 1:
            errors[2] = self._error(2, hidden[:, : coarse - 1], gists[:, 1:coarse])
        if (targets := fine[:, 1:]).shape[1]:
            errors[1] = self._error(1, behind[:, : targets.shape[1]], targets)
        if not errors:
            raise ShapeError(
                "a gist is foretold where another one or a raw block follows, this window has neither"
            )
        return errors

    def _error(self, lod: int, states: Tensor, target: Tensor) -> Tensor:
        return next_gist_error(self.heads[lod - 1](states).flatten(0, 1), target.flatten(0, 1))
