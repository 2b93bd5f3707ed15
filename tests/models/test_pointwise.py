"""The hand-written steps give PyTorch's values and derivatives, and notice when an operand was still needed."""

import pytest
import torch
import torch.nn.functional as F

from megacontext.models.pointwise import cap, rms_norm, squared_relu

STEPS = {
    "rms_norm": (rms_norm, lambda x: F.rms_norm(x, (x.shape[-1],))),
    "squared_relu": (squared_relu, lambda x: F.relu(x).square()),
    "cap": (lambda x: cap(x, 1.5), lambda x: 1.5 * torch.tanh(x / 1.5)),
}
SHAPES = [(1,), (3, 1), (2, 5, 7), (1, 1, 2, 16), (0, 4)]


@pytest.fixture(params=STEPS)
def step(request):
    return STEPS[request.param]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_with_and_without_a_gradient_are_pytorchs(step, shape, dtype):
    ours, plain = step
    x = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0)) * 2
    expected = plain(x)
    tolerance = 10 * torch.finfo(dtype).eps
    torch.testing.assert_close(ours(x.clone()), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(ours(x.clone().requires_grad_() * 1), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
def test_derivatives_are_pytorchs(step, shape):
    ours, plain = step
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
    weight = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = []
    for function in (ours, plain):
        leaf = x.clone().requires_grad_()
        (function(leaf * 1) * weight).sum().backward()
        found.append(leaf.grad)
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_a_vector_of_zeros_is_normed_to_zeros():
    x = torch.zeros(2, 4, requires_grad=True)
    rms_norm(x).sum().backward()
    assert torch.equal(rms_norm(x), torch.zeros(2, 4)) and torch.isfinite(x.grad).all()


@pytest.mark.parametrize("overwrites", [squared_relu, lambda x: cap(x, 2.0)])
def test_an_operand_that_was_still_needed_is_noticed(overwrites):
    leaf = torch.randn(3, requires_grad=True)
    kept = leaf.exp()  # its derivative reads its result
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        overwrites(kept).sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_goes_pytorchs_way(step, dtype):
    ours, plain = step
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(ours(x.clone()), plain(x)) and ours(x.clone()).dtype == dtype


def test_a_traced_graph_holds_the_plain_formulae(step):
    ours, plain = step
    x = torch.randn(3, 8)
    traced = torch.compile(lambda x: ours(x * 1), backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(x), plain(x))
