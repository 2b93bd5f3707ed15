"""Every backend gives the reference's answer: outputs, the softmax's sum, and gradients."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from agreement import check, relative
from interpreted import interpret, needs_triton
from pyramids import SMALL, USUAL, check_backend, distances, draw
from torch.nn.attention import flex_attention

from megakernels.errors import BackendUnavailableError, KernelShapeError
from megakernels.pyramid_attention import Pyramid, Queries, pyramid_attention
from megakernels.pyramid_attention.cost import whole_sight
from megakernels.pyramid_attention.flex import attend as flex_attend
from megakernels.pyramid_attention.sight import sight

AWKWARD = (1, 31, 33, 1023, 1025, 4097)


@pytest.mark.parametrize(
    ("tokens", "dtype"),
    [(tokens, torch.float32) for tokens in AWKWARD] + [(tokens, torch.bfloat16) for tokens in AWKWARD[:-1]],
)
def test_pieces_give_what_the_whole_gives(tokens: int, dtype: torch.dtype) -> None:
    check_backend("chunked", USUAL, tokens, dtype, heads=1, width=16)


def test_heads_share_keys_and_rows_end_where_they_end() -> None:
    check_backend("chunked", SMALL, 131, batch=3, heads=4, shared=2, lengths=[131, 70, 0])


def test_slots_are_seen_by_every_query_and_learn_from_all() -> None:
    check_backend("chunked", replace(SMALL, slots=3), 131, heads=4, shared=2, batch=2, lengths=[131, 0])


LOOSE = replace(SMALL, edges=3, slots=2)


def test_edges_and_overshoot_are_seen_as_the_whole_sees_them() -> None:
    check_backend("chunked", LOOSE, 331, heads=4, shared=2)
    check_backend("chunked", replace(LOOSE, overshoot=True), 331, batch=3, lengths=[331, 297, 0])


@pytest.mark.parametrize("fall", ["linear", "log"])
def test_what_distance_takes_off_is_taken_off_in_pieces_too(fall: str) -> None:
    check_backend("chunked", replace(SMALL, slots=2), 331, heads=4, shared=2, batch=2, fall=fall)


@pytest.mark.parametrize(
    ("logarithmic", "weight"),
    [(False, lambda far: math.exp(-0.5 * far)), (True, lambda far: (1 + far) ** -0.5)],
)
def test_equal_scores_are_weighed_by_distance_alone(
    logarithmic: bool, weight: Callable[[int], float]
) -> None:
    rule, tokens = Pyramid(window=50, block=4, spans=()), 20
    far = distances(rule, tokens, heads=1, logarithmic=logarithmic)
    q, key = torch.zeros(1, 1, 1, 25).double(), torch.zeros(1, 25, 1, 25).double()
    value = torch.eye(25).double()[None, :, None, :]  # what comes out are the weights
    wanted = torch.tensor([weight(19 - place) for place in range(20)]).double()
    out, lse = pyramid_attention(
        q,
        key,
        value,
        rule,
        tokens,
        queries=[Queries(0, 19, 1)],
        distance=replace(far, queries=far.queries[:, 19:20]),
    )
    torch.testing.assert_close(out[0, 0, 0, :20], wanted / wanted.sum())
    torch.testing.assert_close(lse[0, 0, 0], wanted.sum().log())


def test_distances_far_from_the_origin_are_as_exact_as_near_it() -> None:
    (q, key, value), _ = draw(SMALL, 131)
    near = distances(SMALL, 131, heads=2, logarithmic=False)
    far = replace(near, queries=near.queries + 1e8, keys=near.keys + 1e8)
    outs = [
        pyramid_attention(q.float(), key.float(), value.float(), SMALL, 131, distance=one)[0]
        for one in (near, far)
    ]
    torch.testing.assert_close(*outs, atol=1e-6, rtol=0)


def test_distances_that_do_not_belong_are_refused() -> None:
    inputs, _ = draw(SMALL, 40)
    right = distances(SMALL, 40, heads=2, logarithmic=False)
    with pytest.raises(KernelShapeError, match=r"distances need slopes \(2,\)"):
        pyramid_attention(*inputs, SMALL, 40, distance=distances(SMALL, 40, heads=3, logarithmic=False))
    with pytest.raises(KernelShapeError, match=r"keys \(1 or 1, 52\)"):
        pyramid_attention(*inputs, SMALL, 40, distance=replace(right, keys=right.keys[:, 1:]))
    with pytest.raises(KernelShapeError, match="distances are not learnt"):
        pyramid_attention(*inputs, SMALL, 40, distance=replace(right, slopes=right.slopes.requires_grad_()))


def test_logits_far_above_eighty_neither_overflow_nor_vanish() -> None:
    inputs, _ = draw(SMALL, 131, scale=30.0)
    scores = torch.einsum("bthd,bmhd->bthm", inputs[0], inputs[1].expand(-1, -1, 2, -1)) * 32**-0.5
    assert scores.max() > 80
    check_backend("chunked", SMALL, 131, scale=30.0)


def test_a_row_without_tokens_gets_zeros_and_minus_infinity() -> None:
    inputs, _ = draw(SMALL, 40, batch=2)
    out, lse = pyramid_attention(*inputs, SMALL, 40, lengths=torch.tensor([40, 0]))
    assert not out[1].any() and (lse[1] == float("-inf")).all() and torch.isfinite(lse[0]).all()


@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_nothing_computed_for_a_token_depends_on_what_comes_after(backend: str) -> None:
    tokens, at = 150, 97
    (q, key, value), _ = draw(SMALL, tokens)
    counts = SMALL.count(tokens)
    attend = partial(pyramid_attention, rule=SMALL, num_tokens=tokens, backend=backend)
    before, _ = attend(q, key, value)
    other, row = torch.Generator().manual_seed(1), 0
    for level, count in enumerate(counts):
        # Every token behind `at`, and every summary that knows one of those.
        late = slice(row + (at + 1) // SMALL.block**level, row + count)
        for changed in (q, key, value):
            changed[:, late] = torch.randn(changed[:, late].shape, dtype=changed.dtype, generator=other)
        row += count
    after, _ = attend(q, key, value)
    assert torch.equal(before[:, : at + 1], after[:, : at + 1]) and not torch.equal(before, after)


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 200])
def test_one_more_token_behind_a_cache_sees_what_it_would_have_seen(tokens: int) -> None:
    (q, key, value), _ = draw(SMALL, tokens)
    whole, lse = pyramid_attention(q, key, value, SMALL, tokens)
    for start in {0, tokens // 2, tokens - 1}:
        asked = [Queries(0, start, tokens - start)]
        last, last_lse = pyramid_attention(q[:, start:tokens], key, value, SMALL, tokens, queries=asked)
        assert relative(last, whole[:, start:tokens]) < 1e-12
        assert relative(last_lse, lse[:, start:tokens]) < 1e-12


def test_without_summaries_in_sight_it_is_plain_causal_attention() -> None:
    rule = Pyramid(window=200, block=4, spans=(24,))
    (q, key, value), _ = draw(rule, 150, heads=2, shared=2)
    mine, _ = pyramid_attention(q[:, :150], key, value, rule, 150, queries=[Queries(0, 0, 150)])
    plain = torch.nn.functional.scaled_dot_product_attention(
        *(one[:, :150].transpose(1, 2) for one in (q, key, value)), is_causal=True
    )
    assert relative(mine, plain.transpose(1, 2)) < 1e-12


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("logarithmic", [False, True])
def test_flex_attention_is_told_the_same_mask_and_the_same_distances(logarithmic: bool) -> None:
    inputs, _ = draw(SMALL, 131, batch=2, heads=4, shared=2)
    lengths = torch.tensor([131, 77])
    queries = [Queries(level, 0, count) for level, count in enumerate(SMALL.count(131))]
    far = distances(SMALL, 131, heads=4, logarithmic=logarithmic, batch=2)
    told = sight(SMALL, 131, queries, lengths, torch.device("cpu"))
    out, lse = flex_attend(
        *(one.float() for one in inputs), told, 32**-0.5,
        far.counted(4, inputs[0].shape[1], inputs[1].shape[1], 2, torch.float32), compiled=False,
    )  # fmt: skip
    wanted, wanted_lse = pyramid_attention(
        *inputs, SMALL, 131, lengths=lengths, distance=far, backend="reference"
    )
    seen = torch.isfinite(wanted_lse)
    assert relative(out[seen], wanted[seen]) < 1e-4 and relative(lse[seen], wanted_lse[seen]) < 1e-4


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_refuses_gradients_on_a_cpu_and_would_have_the_right_ones(monkeypatch) -> None:
    """The refusal is PyTorch's, for its compiled kernel; its derivative of the dense form runs where it is lifted."""
    inputs, weigh = draw(SMALL, 131, heads=4, shared=2)
    told, distance = whole_sight(SMALL, 131), distances(SMALL, 131, heads=4, logarithmic=True)
    far = distance.counted(4, inputs[0].shape[1], inputs[1].shape[1], 1, torch.float32)
    attend = partial(flex_attend, sight=told, scale=32**-0.5, distance=far, compiled=False)
    with pytest.raises(NotImplementedError, match="does not support backward on CPU"):
        attend(*(one.float().requires_grad_() for one in inputs))
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    right = partial(pyramid_attention, rule=SMALL, num_tokens=131, distance=distance, backend="reference")
    check(attend, right, inputs, weigh, torch.float32)


@needs_triton
@pytest.mark.slow
def test_the_kernel_interpreted_gives_what_the_reference_gives_whatever_the_strides() -> None:
    """In one process, because bringing up torch takes longer than any of the cases."""
    interpret(
        "from dataclasses import replace\n"
        "import torch\n"
        "from megakernels.pyramid_attention import Pyramid, pyramid_attention\n"
        "from pyramids import SMALL, USUAL, check_backend, draw\n"
        "check_backend('triton', SMALL, 1)\n"
        "check_backend('triton', SMALL, 31)\n"
        "check_backend('triton', SMALL, 33, torch.bfloat16)\n"
        "check_backend('triton', SMALL, 51, heads=4, shared=2, batch=2, lengths=[51, 30])\n"
        "check_backend('triton', replace(SMALL, slots=2), 45)\n"
        "check_backend('triton', replace(SMALL, edges=3, slots=1), 200, heads=1)\n"
        "check_backend('triton', replace(SMALL, edges=2, overshoot=True), 150, heads=1, batch=2, lengths=[150, 129])\n"
        "check_backend('triton', replace(SMALL, slots=1), 70, heads=4, shared=2, fall='linear')\n"
        "check_backend('triton', SMALL, 60, lengths=[51], fall='log')\n"
        "check_backend('triton', SMALL, 60, width=80)\n"
        "check_backend('triton', USUAL, 257, width=64)\n"
        "check_backend('triton', SMALL, 61, scale=30.0)\n"
        "check_backend('triton', SMALL, 20, batch=2, lengths=[20, 0])\n"
        "check_backend('triton', Pyramid(window=5, block=2, spans=(6, 8)), 75)\n"
        "(q, k, v), _ = draw(SMALL, 45, heads=2, shared=2)\n"
        "q, k, v = (one.float().transpose(1, 2).contiguous().transpose(1, 2) for one in (q, k, v))\n"
        "wide = torch.stack((k, v), dim=-2).flatten(-2)[..., :32], torch.cat((v, k), dim=1)[:, : v.shape[1]]\n"
        "for key, value in ((k, v), wide):\n"
        "    mine, _ = pyramid_attention(q, key, value, SMALL, 45, backend='triton')\n"
        "    other, _ = pyramid_attention(q, key, value, SMALL, 45, backend='reference')\n"
        "    assert torch.allclose(mine, other, atol=1e-5), (mine - other).abs().max()\n"
    )


@needs_triton
@pytest.mark.long
@pytest.mark.parametrize("tokens", AWKWARD)
def test_the_kernel_interpreted_is_right_at_every_awkward_size(tokens: int) -> None:
    both = (
        ""
        if tokens == AWKWARD[-1]
        else f"check_backend('triton', USUAL, {tokens}, torch.bfloat16, **small)\n"
    )
    interpret(
        "import torch\n"
        "from pyramids import USUAL, check_backend\n"
        "small = {'heads': 1, 'width': 16}\n"
        f"check_backend('triton', USUAL, {tokens}, **small)\n" + both
    )


def test_a_backend_that_cannot_run_here_says_so() -> None:
    inputs, _ = draw(SMALL, 40)
    for name in ("triton", "flex"):
        with pytest.raises(BackendUnavailableError, match=f"the backend '{name}'"):
            pyramid_attention(*inputs, SMALL, 40, backend=name)
    with pytest.raises(KernelShapeError, match="a backend is one of"):
        pyramid_attention(*inputs, SMALL, 40, backend="cuda")


def test_tensors_that_do_not_belong_together_are_refused() -> None:
    (q, key, value), _ = draw(SMALL, 40)
    for wrong in (
        (q[:, 1:], key, value),
        (q, key[:, 1:], value),
        (q, key, value.float()),
        (q, key[..., :16], value),
    ):
        with pytest.raises(KernelShapeError, match="attention needs queries"):
            pyramid_attention(*wrong, SMALL, 40)
    with pytest.raises(KernelShapeError, match="has read at most the 40"):
        pyramid_attention(q[:, :1], key, value, SMALL, 40, queries=[Queries(0, 40, 1)])
    with pytest.raises(KernelShapeError, match="lengths must be"):
        pyramid_attention(q, key, value, SMALL, 40, lengths=torch.tensor([1.0]))
