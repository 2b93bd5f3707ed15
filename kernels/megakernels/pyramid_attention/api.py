"""Attention over a pyramid of summaries: exact, strictly causal, and linear in the length of the sequence.

The softmax is one, over everything that a query sees in all levels. Nothing is approximated but what the summaries
themselves leave out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from megakernels.backends import choose
from megakernels.errors import KernelShapeError
from megakernels.pyramid_attention import chunked, reference
from megakernels.pyramid_attention.distance import Distance
from megakernels.pyramid_attention.rule import Pyramid, Queries
from megakernels.pyramid_attention.sight import sight

BACKENDS = ("auto", "triton", "chunked", "flex", "reference")


def pyramid_attention(
    q: Tensor,
    key: Tensor,
    value: Tensor,
    rule: Pyramid,
    num_tokens: int,
    *,
    queries: Sequence[Queries] | None = None,
    lengths: Tensor | None = None,
    scale: float | None = None,
    distance: Distance | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Out (B, T, H, D) in q's type, and the log of the softmax's sum (B, T, H), float32 (float64 for float64).

    `key` and `value` (B, M, Hkv, D) stand packed: those of `num_tokens` tokens, then of all complete summaries of
    level 1, and on, then of the slots; M is the sum of `rule.rows(num_tokens)`. `q` (B, T, H, D) holds the queries of
    `queries`, run after run; by default one for each token and each summary, as training reads them. Both results can
    be differentiated. To go on behind a cache, ask for the last token
    alone: `[Queries(0, num_tokens - 1, 1)]`. H is a multiple of Hkv. `lengths` (B,): tokens of each row, where rows
    are of unlike length and filled up; what lies beyond sees nothing and is not seen. `scale` is 1 / sqrt(D) unless
    given. `distance`: what is taken off the scores of what is far; nothing unless given.

    Raises KernelShapeError for tensors that do not belong together, BackendUnavailableError for a backend that was
    named and cannot run here; "auto" takes Triton on a GPU, else `chunked`.
    """
    if queries is None:
        queries = [Queries(level, 0, count) for level, count in enumerate(rule.count(num_tokens))]
    _check(q, key, value, rule, num_tokens, queries, lengths)
    what = sight(rule, num_tokens, queries, lengths, q.device)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if distance is not None:
        kind = torch.promote_types(q.dtype, torch.float32)
        distance = distance.counted(q.shape[2], q.shape[1], key.shape[1], q.shape[0], kind)
    name = choose(backend, BACKENDS, q)
    if name == "triton":
        from megakernels.pyramid_attention.triton import attend
    elif name == "flex":
        from megakernels.pyramid_attention.flex import attend
    else:
        attend = reference.attend if name == "reference" else chunked.attend
    return attend(q, key, value, what, scale, distance)


def _check(
    q: Tensor,
    key: Tensor,
    value: Tensor,
    rule: Pyramid,
    num_tokens: int,
    queries: Sequence[Queries],
    lengths: Tensor | None,
) -> None:
    asked, rows = sum(run.count for run in queries), sum(rule.rows(num_tokens))
    batch = q.shape[0] if q.ndim else 0
    fits = (
        q.ndim == key.ndim == 4
        and key.shape == value.shape
        and q.shape[:2] == (batch, asked)
        and key.shape[:2] == (batch, rows)
        and q.shape[3] == key.shape[3]
        and key.shape[2] > 0
        and q.shape[2] % key.shape[2] == 0
        and q.dtype == key.dtype == value.dtype
    )
    if not fits:
        raise KernelShapeError(
            f"attention needs queries (B, {asked}, H, D) and keys and values (B, {rows}, Hkv, D), one for each of "
            f"{num_tokens} tokens, each summary and each slot, of one type, H a multiple of Hkv; got {tuple(q.shape)}, "
            f"{tuple(key.shape)} and {tuple(value.shape)} of {q.dtype}, {key.dtype} and {value.dtype}"
        )
    for run in queries:
        read = (run.start + run.count) * rule.block**run.level if run.count else 0
        if read > num_tokens:
            raise KernelShapeError(
                f"a query has read at most the {num_tokens} tokens that there are, one of {run} has read {read}; give "
                "the keys of all tokens"
            )
    if lengths is not None and (lengths.shape != (batch,) or lengths.dtype not in (torch.int32, torch.int64)):
        raise KernelShapeError(
            f"lengths must be integers ({batch},), got {lengths.dtype} {tuple(lengths.shape)}"
        )
