"""The same attention on a GPU, in Triton: forward and backward, each key read once for many queries.

One program takes a block of queries of one head and walks, level by level, over the rows that any of them sees, with
the softmax kept on the way (Milakov and Gimelshein 2018; Dao et al. 2022). The backward pass makes the weights again
from the log of the softmax's sum: once by queries for their gradient, once by keys for theirs, where the heads of a
group are summed in one program, so that nothing is added atomically and equal inputs give equal bits.

Which blocks of queries see a block of keys is found by halving, since within a run of queries no border ever falls.
Products are made in the inputs' type and summed in float32; the interpreter, which is wrong for bfloat16, widens first.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from megakernels.backends import interpreted
from megakernels.pyramid_attention.distance import Distance
from megakernels.pyramid_attention.sight import Sight

_LOG2_E = 1.4426950408889634


def attend(
    q: Tensor, key: Tensor, value: Tensor, sight: Sight, scale: float, distance: Distance | None = None
) -> tuple[Tensor, Tensor]:
    """As `reference.attend`, for float32, float16 and bfloat16."""
    if not (q.numel() and key.numel()):
        return torch.zeros_like(q), q.new_full(q.shape[:3], float("-inf"), dtype=torch.float32)
    return _Attention.apply(*(_rows(one) for one in (q, key, value)), sight, scale, distance)


def _rows(x: Tensor) -> Tensor:
    """Numbers of a head must lie side by side; everything else may stride as it likes."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _sizes(width: int) -> tuple[int, int]:
    """Queries and keys of a block. Small where each product is interpreted."""
    if interpreted():
        return 32, 32
    return (64, 64) if width <= 64 else (64, 32)


class _Attention(Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, key: Tensor, value: Tensor, sight: Sight, scale: float, distance: Distance | None
    ) -> tuple[Tensor, Tensor]:
        batch, asked, heads, width = q.shape
        block_m, block_n = _sizes(width)
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        lse = torch.empty((batch, asked, heads), dtype=torch.float32, device=q.device)
        runs, blocks = sight.once(_query_blocks, block_m)
        _forward[(len(blocks), heads, batch)](
            q, key, value, runs, blocks, *_places(distance, lse), out, lse, *q.stride()[:3], *key.stride()[:3],
            *value.stride()[:3], _row_stride(runs), *_place_strides(distance), asked, heads, scale * _LOG2_E,
            **_shape(q, key, sight, distance, block_m, block_n),
        )  # fmt: skip
        ctx.save_for_backward(q, key, value, out, lse, runs, blocks)
        ctx.sight, ctx.scale, ctx.distance = sight, scale, distance
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, d_lse: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        q, key, value, out, lse, runs, blocks = ctx.saved_tensors
        sight: Sight = ctx.sight
        distance: Distance | None = ctx.distance
        batch, asked, heads, width = q.shape
        shared = key.shape[2]
        block_m, block_n = _sizes(width)
        grad = _rows(grad)
        # What is taken off every weight's slope, for the weights sum to one; the sum's own slope is added to each.
        delta = (grad.float() * out.float()).sum(dim=-1) - d_lse  # (B, T, H)
        d_q, d_key, d_value = (
            torch.empty(one.shape, dtype=one.dtype, device=one.device) for one in (q, key, value)
        )
        strides = (
            *q.stride()[:3], *key.stride()[:3], *value.stride()[:3], *grad.stride()[:3], _row_stride(runs),
            *_place_strides(distance), asked, heads,
        )  # fmt: skip
        places = _places(distance, lse)
        shape = _shape(q, key, sight, distance, block_m, block_n)
        scales = ctx.scale, ctx.scale * _LOG2_E
        _backward_q[(len(blocks), heads, batch)](
            q, key, value, grad, runs, blocks, *places, lse, delta, d_q, *strides, *scales, **shape
        )
        key_blocks, visits = sight.once(_visits, block_m, block_n)
        _backward_keys[(len(key_blocks), shared, batch)](
            q, key, value, grad, runs, key_blocks, visits, *places, lse, delta, d_key, d_value, *strides, key.shape[1],
            *scales, **shape, VISITS=visits.shape[1],
        )  # fmt: skip
        return d_q, d_key, d_value, None, None, None


def _row_stride(runs: Tensor) -> int:
    """From one row of the batch to the next; 0 where all share their runs."""
    return 0 if runs.shape[0] == 1 else runs.stride(0)


def _places(distance: Distance | None, unread: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes, and places of queries and keys; where there are none, anything that a pointer can be made of."""
    if distance is None:
        return unread, unread, unread
    return distance.slopes.contiguous(), distance.queries.contiguous(), distance.keys.contiguous()


def _place_strides(distance: Distance | None) -> tuple[int, int]:
    """From one row's places to the next's, of queries and keys; 0 where all share them."""
    if distance is None:
        return 0, 0
    return tuple(0 if len(one) == 1 else one.shape[1] for one in (distance.queries, distance.keys))


def _shape(
    q: Tensor, key: Tensor, sight: Sight, distance: Distance | None, block_m: int, block_n: int
) -> dict[str, Any]:
    width = q.shape[3]
    return {
        "GROUP": q.shape[2] // key.shape[2], "COLUMNS": len(sight.columns), "D": width,
        "BLOCK_D": max(16, triton.next_power_of_2(width)), "BLOCK_M": block_m, "BLOCK_N": block_n,
        "WIDEN": interpreted(), "FALL": 0 if distance is None else 2 if distance.logarithmic else 1,
    }  # fmt: skip


def _query_blocks(sight: Sight, size: int) -> tuple[Tensor, Tensor]:
    """What queries see, int32, and the blocks that they are worked on in, int32 (blocks, 2: first, one past the last).

    No block spans two runs of queries.
    """
    blocks = torch.tensor(_cut(sight.asked, size), dtype=torch.int32).reshape(-1, 2)
    return sight.runs.to(torch.int32).contiguous(), blocks.to(sight.runs.device)


def _cut(counts: tuple[int, ...], size: int) -> list[tuple[int, int]]:
    ends = list(accumulate(counts))
    return [
        (start, min(start + size, end))
        for begin, end in zip([0, *ends], ends, strict=False)
        for start in range(begin, end, size)
    ]


def _visits(sight: Sight, block_m: int, block_n: int) -> tuple[Tensor, Tensor]:
    """Blocks of keys, int32 (blocks, 2: first row, one past the last), and which queries see each of them.

    The latter int32 (blocks, visits, 3: first and one past the last query that may, and in which column): a visit for
    each run of queries and each column that has runs of the block's level.
    """
    device, ends = sight.runs.device, list(accumulate(sight.levels))
    of_level = [
        [column for column, its in enumerate(sight.columns) if its == level]
        for level in range(len(sight.levels))
    ]
    most = max(map(len, of_level))
    blocks, found = [], []
    for level, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
        first_row = torch.arange(begin, end, block_n, device=device)
        blocks.append(torch.stack((first_row, (first_row + block_n).clamp_max(end)), dim=-1))
        visits = torch.zeros((len(first_row), len(sight.asked), most, 3), dtype=torch.int64, device=device)
        for place, column in enumerate(of_level[level]):
            visits[:, :, place, 2] = column
            queries = 0
            for run, count in enumerate(sight.asked):
                first, stop = sight.ordered[queries : queries + count, column].unbind(dim=-1)
                # Those whose run ends behind the block's first row, and begins before its end.
                low = torch.searchsorted(stop.contiguous(), blocks[-1][:, 0].contiguous(), right=True)
                high = torch.searchsorted(first.contiguous(), blocks[-1][:, 1].contiguous())
                visits[:, run, place, :2] = torch.stack((low, high), dim=-1) + queries
                queries += count
        found.append(visits.flatten(1, 2))
    return torch.cat(blocks).to(torch.int32), torch.cat(found).to(torch.int32).contiguous()


@triton.jit
def _tile(base, rows, stride, columns, row_ok, D: tl.constexpr):
    """Rows of one head, (rows, BLOCK_D); zeros beyond."""
    return tl.load(
        base + rows[:, None].to(tl.int64) * stride + columns[None, :],
        mask=row_ok[:, None] & (columns[None, :] < D), other=0.0,
    )  # fmt: skip


@triton.jit
def _scores(q, k, first, stop, node, place, node_place, slope, scale_log2, FALL: tl.constexpr):
    """Scores over ln 2, (queries, nodes), less what distance takes off: -inf where a query does not see."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
    if FALL:
        far = tl.maximum(place[:, None] - node_place[None, :], 0.0)
        # The logarithm of base 2 is the one that is wanted, over ln 2.
        scores -= slope * (tl.log2(1.0 + far) if FALL == 2 else far * 1.4426950408889634)
    allowed = (first[:, None] <= node[None, :]) & (node[None, :] < stop[:, None])
    return tl.where(allowed, scores, float("-inf"))


@triton.jit
def _forward(
    q_at, k_at, v_at, runs_at, blocks_at, slopes_at, places_at, node_places_at, out_at, lse_at,
    q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, runs_b, places_b, node_places_b, asked, heads, scale_log2,
    GROUP: tl.constexpr, COLUMNS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, WIDEN: tl.constexpr, FALL: tl.constexpr,
):  # fmt: skip
    block, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    begin, end = tl.load(blocks_at + 2 * block), tl.load(blocks_at + 2 * block + 1)
    query, column = begin + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    here = query < end
    q = _tile(q_at + row * q_b + head * q_h, query, q_t, column, here, D)
    keys, values = k_at + row * k_b + head // GROUP * k_h, v_at + row * v_b + head // GROUP * v_h
    if WIDEN:
        q = q.to(tl.float32)
    most = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    gathered = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    slope, place = 0.0, query
    if FALL:
        slope = tl.load(slopes_at + head)
        place = tl.load(places_at + row * places_b + query, mask=here, other=0.0)
    for seen in range(COLUMNS):
        run = runs_at + row * runs_b + (query.to(tl.int64) * COLUMNS + seen) * 2
        first, stop = tl.load(run, mask=here, other=0), tl.load(run + 1, mask=here, other=0)
        sees = first < stop
        low = tl.min(tl.where(sees, first, 2147483647))
        high = tl.max(tl.where(sees, stop, 0))
        for start in range(low, high, BLOCK_N):
            node = start + tl.arange(0, BLOCK_N)
            k = _tile(keys, node, k_t, column, node < high, D)
            v = _tile(values, node, v_t, column, node < high, D)
            if WIDEN:
                k, v = k.to(tl.float32), v.to(tl.float32)
            node_place = node
            if FALL:
                node_place = tl.load(node_places_at + row * node_places_b + node, mask=node < high, other=0.0)
            scores = _scores(q, k, first, stop, node, place, node_place, slope, scale_log2, FALL)
            higher = tl.maximum(most, tl.max(scores, axis=1))
            # Where nothing was seen yet the maximum is -inf, and -inf minus -inf is no number.
            origin = tl.where(higher == float("-inf"), 0.0, higher)
            weights = tl.exp2(scores - origin[:, None])
            kept = tl.exp2(most - origin)
            total = total * kept + tl.sum(weights, axis=1)
            gathered = gathered * kept[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
            most = higher
    safe = tl.where(total > 0, total, 1.0)
    at = row * asked + query.to(tl.int64)
    lse = tl.where(total > 0, (most + tl.log2(safe)) / 1.4426950408889634, float("-inf"))
    tl.store(lse_at + at * heads + head, lse, mask=here)
    tl.store(
        out_at + (at[:, None] * heads + head) * D + column[None, :],
        (gathered / safe[:, None]).to(out_at.dtype.element_ty),
        mask=here[:, None] & (column[None, :] < D),
    )


@triton.jit
def _weights(q, k, first, stop, node, place, node_place, slope, lse, scale_log2, FALL: tl.constexpr):
    """Softmax weights made again, (queries, nodes): zeros where a query does not see."""
    scores = _scores(q, k, first, stop, node, place, node_place, slope, scale_log2, FALL)
    known = tl.where(lse == float("-inf"), 0.0, lse * 1.4426950408889634)
    return tl.exp2(scores - known[:, None])


@triton.jit
def _backward_q(
    q_at, k_at, v_at, grad_at, runs_at, blocks_at, slopes_at, places_at, node_places_at, lse_at, delta_at, d_q_at,
    q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, g_b, g_t, g_h, runs_b, places_b, node_places_b, asked, heads, scale,
    scale_log2,
    GROUP: tl.constexpr, COLUMNS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, WIDEN: tl.constexpr, FALL: tl.constexpr,
):  # fmt: skip
    block, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    begin, end = tl.load(blocks_at + 2 * block), tl.load(blocks_at + 2 * block + 1)
    query, column = begin + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    here = query < end
    q = _tile(q_at + row * q_b + head * q_h, query, q_t, column, here, D)
    grad = _tile(grad_at + row * g_b + head * g_h, query, g_t, column, here, D)
    keys, values = k_at + row * k_b + head // GROUP * k_h, v_at + row * v_b + head // GROUP * v_h
    if WIDEN:
        q, grad = q.to(tl.float32), grad.to(tl.float32)
    at = row * asked + query.to(tl.int64)
    lse = tl.load(lse_at + at * heads + head, mask=here, other=float("-inf"))
    delta = tl.load(delta_at + at * heads + head, mask=here, other=0.0)
    d_q = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    slope, place = 0.0, query
    if FALL:
        slope = tl.load(slopes_at + head)
        place = tl.load(places_at + row * places_b + query, mask=here, other=0.0)
    for seen in range(COLUMNS):
        run = runs_at + row * runs_b + (query.to(tl.int64) * COLUMNS + seen) * 2
        first, stop = tl.load(run, mask=here, other=0), tl.load(run + 1, mask=here, other=0)
        sees = first < stop
        low = tl.min(tl.where(sees, first, 2147483647))
        high = tl.max(tl.where(sees, stop, 0))
        for start in range(low, high, BLOCK_N):
            node = start + tl.arange(0, BLOCK_N)
            k = _tile(keys, node, k_t, column, node < high, D)
            v = _tile(values, node, v_t, column, node < high, D)
            if WIDEN:
                k, v = k.to(tl.float32), v.to(tl.float32)
            node_place = node
            if FALL:
                node_place = tl.load(node_places_at + row * node_places_b + node, mask=node < high, other=0.0)
            weights = _weights(q, k, first, stop, node, place, node_place, slope, lse, scale_log2, FALL)
            d_weights = tl.dot(grad, tl.trans(v), input_precision="ieee")
            d_scores = weights * (d_weights - delta[:, None])
            d_q += tl.dot(d_scores.to(k.dtype), k, input_precision="ieee")
    tl.store(
        d_q_at + (at[:, None] * heads + head) * D + column[None, :], (d_q * scale).to(d_q_at.dtype.element_ty),
        mask=here[:, None] & (column[None, :] < D),
    )  # fmt: skip


@triton.jit
def _backward_keys(
    q_at, k_at, v_at, grad_at, runs_at, blocks_at, visits_at, slopes_at, places_at, node_places_at, lse_at, delta_at,
    d_k_at, d_v_at,
    q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, g_b, g_t, g_h, runs_b, places_b, node_places_b, asked, heads, rows,
    scale, scale_log2,
    GROUP: tl.constexpr, COLUMNS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, WIDEN: tl.constexpr, FALL: tl.constexpr, VISITS: tl.constexpr,
):  # fmt: skip
    block, shared, row = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    begin, end = tl.load(blocks_at + 2 * block), tl.load(blocks_at + 2 * block + 1)
    node, column = begin + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    there = node < end
    k = _tile(k_at + row * k_b + shared * k_h, node, k_t, column, there, D)
    v = _tile(v_at + row * v_b + shared * v_h, node, v_t, column, there, D)
    if WIDEN:
        k, v = k.to(tl.float32), v.to(tl.float32)
    d_k = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    d_v = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    node_place = node
    if FALL:
        node_place = tl.load(node_places_at + row * node_places_b + node, mask=there, other=0.0)
    for which in range(VISITS):
        visit = visits_at + (block * VISITS + which) * 3
        low, high, seen = tl.load(visit), tl.load(visit + 1), tl.load(visit + 2)
        for start in range(low, high, BLOCK_M):
            query = start + tl.arange(0, BLOCK_M)
            here = query < high
            run = runs_at + row * runs_b + (query.to(tl.int64) * COLUMNS + seen) * 2
            first, stop = tl.load(run, mask=here, other=0), tl.load(run + 1, mask=here, other=0)
            at = row * asked + query.to(tl.int64)
            slope, place = 0.0, query
            if FALL:
                place = tl.load(places_at + row * places_b + query, mask=here, other=0.0)
            for member in range(GROUP):
                head = shared * GROUP + member
                q = _tile(q_at + row * q_b + head * q_h, query, q_t, column, here, D)
                grad = _tile(grad_at + row * g_b + head * g_h, query, g_t, column, here, D)
                if WIDEN:
                    q, grad = q.to(tl.float32), grad.to(tl.float32)
                if FALL:
                    slope = tl.load(slopes_at + head)
                lse = tl.load(lse_at + at * heads + head, mask=here, other=float("-inf"))
                delta = tl.load(delta_at + at * heads + head, mask=here, other=0.0)
                weights = _weights(q, k, first, stop, node, place, node_place, slope, lse, scale_log2, FALL)
                d_v += tl.dot(tl.trans(weights.to(grad.dtype)), grad, input_precision="ieee")
                d_weights = tl.dot(grad, tl.trans(v), input_precision="ieee")
                d_scores = weights * (d_weights - delta[:, None])
                d_k += tl.dot(tl.trans(d_scores.to(q.dtype)), q, input_precision="ieee")
    at = ((row * rows + node.to(tl.int64))[:, None] * (heads // GROUP) + shared) * D + column[None, :]
    mask = there[:, None] & (column[None, :] < D)
    tl.store(d_k_at + at, (d_k * scale).to(d_k_at.dtype.element_ty), mask=mask)
    tl.store(d_v_at + at, d_v.to(d_v_at.dtype.element_ty), mask=mask)
