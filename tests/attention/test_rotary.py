"""Rotary positions: relative, norm-preserving, and exact far out on the timeline."""

import numpy as np
import pytest
import torch

from megacontext.attention.rotary import rotary_tables, rotate
from megacontext.errors import ShapeError


@pytest.mark.parametrize("position", [0, 1, 1023, 1_000_000, 100_000_000])
@pytest.mark.parametrize("base", [10_000.0, 100_000.0])
def test_angles_are_right_to_1e_5_however_far_out(position, base):
    cos, sin = rotary_tables(torch.tensor([[position]]), 32, base)
    angle = position * base ** -(np.arange(16) * 2 / 32)
    np.testing.assert_allclose(cos.flatten().numpy(), np.cos(angle), atol=1e-5)
    np.testing.assert_allclose(sin.flatten().numpy(), np.sin(angle), atol=1e-5)


def test_position_zero_turns_nothing():
    x = torch.randn(2, 3, 4, 8)
    assert torch.equal(rotate(x, rotary_tables(torch.zeros(2, 3), 8, 10_000.0)), x)


def test_the_halves_turn_as_nanochat_turns_them():
    x = torch.randn(1, 5, 2, 8)
    cos, sin = tables = rotary_tables(torch.arange(5.0)[None], 8, 10_000.0)
    first, second = x[..., :4], x[..., 4:]
    expected = torch.cat((first * cos + second * sin, -first * sin + second * cos), dim=-1)
    torch.testing.assert_close(rotate(x, tables), expected)
    torch.testing.assert_close(rotate(x, tables).norm(dim=-1), x.norm(dim=-1))


def test_a_product_depends_on_the_distance_alone():
    q, k = torch.randn(2, 1, 1, 1, 32, dtype=torch.float64)

    def product(q_position, k_position):
        turned = [
            rotate(x, rotary_tables(torch.tensor([[position]]), 32, 10_000.0))
            for x, position in ((q, q_position), (k, k_position))
        ]
        return (turned[0] * turned[1]).sum().item()

    assert product(1_000_017, 1_000_010) == pytest.approx(product(7, 0), abs=1e-5)
    assert product(7.5, 0.25) == pytest.approx(product(1007.5, 1000.25), abs=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 5, 3, 8), (3, 4, 1, 6)])
def test_the_derivative_is_the_rotation_back(shape):
    positions = torch.rand(shape[:2], generator=torch.Generator().manual_seed(0)) * 1000
    tables = rotary_tables(positions, shape[-1], 10_000.0)
    x, grad = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    leaf = x.clone().requires_grad_()
    rotate(leaf, tables).backward(grad)
    torch.testing.assert_close(leaf.grad, rotate(grad, rotary_tables(-positions, shape[-1], 10_000.0)))
    double = x.double().requires_grad_()
    rotate(double, tables).backward(grad.double())
    torch.testing.assert_close(leaf.grad, double.grad.float())


def test_rows_that_share_their_positions_share_their_tables():
    positions = torch.arange(7.0)
    cos, sin = rotary_tables(positions.expand(4, 7), 8, 10_000.0)
    assert cos.shape == sin.shape == (1, 7, 1, 4)
    x = torch.randn(4, 7, 2, 8)
    assert torch.equal(rotate(x, (cos, sin)), rotate(x, rotary_tables(positions.repeat(4, 1), 8, 10_000.0)))


def test_tables_made_while_inferring_serve_training_afterwards():
    with torch.inference_mode():
        rotary_tables(torch.arange(3.0)[None], 10, 12_345.0)
    x = torch.randn(1, 3, 1, 10, requires_grad=True)
    rotate(x, rotary_tables(torch.arange(3.0)[None], 10, 12_345.0)).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_half_precision_comes_back_in_its_own_type():
    x = torch.randn(1, 3, 1, 8).bfloat16()
    assert rotate(x, rotary_tables(torch.arange(3.0)[None], 8, 10_000.0)).dtype == torch.bfloat16


def test_an_odd_head_is_refused():
    with pytest.raises(ShapeError, match="even head dimension, got 7; change n_embd or n_head"):
        rotary_tables(torch.zeros(1, 1), 7, 10_000.0)
