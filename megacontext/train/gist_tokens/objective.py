"""The next-token loss of contexts with folded blocks; base, gist tokens and GistNet receive its gradient.

A batch is read with gist tokens, or with GistNet's embedding gists in the same places: a base that goes on seeing some
of those keeps reading both kinds, and the two can be compared on the same weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from megacontext.models.entries import CacheEntries
from megacontext.models.gist_tokens import GistTokens, families, joined, read_with_gists
from megacontext.runtime.bundle import Bundle
from megacontext.train.contexts import IGNORED
from megacontext.train.gist_tokens.contexts import FoldedBatch


def token_gists(bundle: Bundle, batch: FoldedBatch) -> CacheEntries:
    """Gists (L, G + C, 1, Hkv, D) of a batch, in the order of its slots. Level 2 sends no gradient below itself."""
    assert isinstance(bundle.gist_tokens, GistTokens)
    base, tokens = bundle.base, bundle.gist_tokens
    parts = []
    if len(batch.blocks):
        parts.append(tokens.of_blocks(base, torch.from_numpy(batch.blocks)))
    if len(batch.coarse):
        with torch.no_grad():
            children = tokens.of_blocks(base, torch.from_numpy(batch.coarse).flatten(0, 1))
        parts.append(tokens.of_gists(base, families(children, tokens.block_size), 2))
    return joined(parts)


def embedding_gists(bundle: Bundle, batch: FoldedBatch) -> Tensor:
    """The same as GistNet makes them, (G + C, E)."""
    base, net, size = bundle.base, bundle.gistnet, bundle.config.block_size
    parts = [net(base.embed(torch.from_numpy(batch.blocks[:, -size:])), 1)]
    if len(batch.coarse):
        blocks = torch.from_numpy(batch.coarse[..., -size:])
        with torch.no_grad():
            children = net(base.embed(blocks.flatten(0, 1)), 1).unflatten(0, blocks.shape[:2])
        parts.append(net(children, 2))
    return torch.cat(parts)


def hidden_states(bundle: Bundle, batch: FoldedBatch, *, embedding: bool = False) -> Tensor:
    """Hidden states (B, W, E) of a batch's contexts."""
    base, ids = bundle.base, torch.from_numpy(batch.ids)
    positions, slots = torch.from_numpy(batch.positions), tuple(torch.from_numpy(batch.slots.T.copy()))
    if not len(batch.slots):
        return base(base.embed(ids.clamp_min(0)), positions, ids=ids)
    if not embedding:
        return read_with_gists(base, ids, positions, token_gists(bundle, batch), (slots[0], slots[1]))
    embeddings = base.embed(ids.clamp_min(0)) * (ids >= 0)[..., None]
    return base(embeddings.index_put(slots, embedding_gists(bundle, batch)), positions, ids=ids)


def folded_loss(
    bundle: Bundle,
    batch: FoldedBatch,
    *,
    text_share: float,
    answer_weight: float,
    embedding: bool,
    chance: torch.Generator,
) -> dict[str, Tensor]:
    """Nats a token: `loss` to minimise, and its parts `text` and `answer`, with the answers' token `accuracy`.

    The head is the costliest part of a small model: it is run on `text_share` of the text's places, drawn by `chance`,
    and on all of the answers'. A batch without answers has the text's loss alone.
    """
    targets, is_answer = torch.from_numpy(batch.targets), torch.from_numpy(batch.is_answer)
    known = targets != IGNORED
    chosen = ((torch.rand(targets.shape, generator=chance) < text_share) & known) | is_answer
    logits = bundle.base.unembed(hidden_states(bundle, batch, embedding=embedding)[chosen])
    wanted, answers = targets[chosen], is_answer[chosen]
    nats = F.cross_entropy(logits, wanted, reduction="none")
    told = {"text": nats[~answers].mean()}
    told["loss"] = told["text"]
    if answers.any():
        told["answer"] = nats[answers].mean()
        told["accuracy"] = (logits.argmax(dim=-1) == wanted)[answers].float().mean()
        told["loss"] = told["text"] + answer_weight * told["answer"]
    return told
