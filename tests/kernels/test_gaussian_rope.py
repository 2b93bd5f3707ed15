"""An uncertain place turns by the mean of all it may be; a certain one turns as ever, at any distance."""

import numpy as np
import pytest
import torch
from agreement import relative
from interpreted import interpret, needs_triton

from megakernels.errors import BackendUnavailableError, KernelShapeError
from megakernels.gaussian_rope import gaussian_rope

BASE = 10_000.0


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def turned_plainly(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """RoPE as it is written down: angles in float64, products in x's type."""
    width = x.shape[-1]
    angles = positions[..., None, None] * BASE ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_variance_zero_is_plain_rope_bit_for_bit(dtype: torch.dtype) -> None:
    x, mean = drawn(2, 33, 3, 16, dtype=dtype), torch.rand(1, 33, dtype=torch.float64) * 1e6
    assert torch.equal(gaussian_rope(x, mean, torch.zeros(1, 33), base=BASE), turned_plainly(x, mean))


def test_an_uncertain_place_turns_by_the_mean_over_all_places() -> None:
    x, mean = drawn(1, 5, 2, 16), torch.linspace(0, 40, 5, dtype=torch.float64)[None]
    deviation = torch.tensor([[0.0, 0.5, 1.0, 3.0, 6.0]], dtype=torch.float64)
    # The mean under a normal distribution, by quadrature: exact here to far more digits than are asked for.
    points, weights = np.polynomial.hermite_e.hermegauss(120)
    expected = sum(
        weight * turned_plainly(x, mean + point * deviation)
        for point, weight in zip(points, weights / weights.sum(), strict=True)
    )
    found = gaussian_rope(x, mean, deviation**2, base=BASE)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_the_wider_a_span_the_less_is_left_and_slow_pairs_keep_most() -> None:
    x, variance = torch.ones(1, 6, 1, 16), torch.tensor([[0.0, 0.1, 1.0, 10.0, 85.25, 1e5]])
    out = gaussian_rope(x, torch.zeros(1, 6), variance, base=BASE)[0, :, 0]
    left = (out[:, :8] ** 2 + out[:, 8:] ** 2).sqrt()  # of each pair
    assert (left.diff(dim=0) <= 0).all() and (left.diff(dim=1) >= 0).all()
    assert left[4, 0] < 1e-12 and left[4, -1] > 0.99 * left[0, -1]


@pytest.mark.parametrize(("position", "radians"), [(1e6, 1e-5), (1e8, 1e-3)])
def test_angles_far_from_the_origin_are_exact(position: float, radians: float) -> None:
    x = torch.cat((torch.ones(1, 3, 1, 32), torch.zeros(1, 3, 1, 32)), dim=-1)
    mean = torch.tensor([[position, position + 1, position + 0.5]], dtype=torch.float64)
    cos, minus_sin = gaussian_rope(x, mean, torch.zeros(1, 3), base=BASE)[0, :, 0].double().chunk(2, dim=-1)
    exponents = np.arange(0, 64, 2, dtype=np.longdouble) / 64
    angles = mean[0].numpy().astype(np.longdouble)[:, None] * np.longdouble(BASE) ** -exponents
    apart = np.arctan2(-minus_sin.numpy(), cos.numpy()) - angles
    apart -= 2 * np.longdouble(np.pi) * np.round(apart / (2 * np.longdouble(np.pi)))
    assert np.abs(apart).max() <= radians


def test_gradients_reach_what_is_turned_and_the_variance() -> None:
    x, mean = drawn(2, 4, 3, 8).requires_grad_(), drawn(1, 4)
    for shape in ((1, 4), (2, 4)):
        variance = drawn(*shape).abs().requires_grad_()
        assert torch.autograd.gradcheck(
            lambda x, variance: gaussian_rope(x, mean, variance, base=BASE), (x, variance)
        )


def test_half_precision_is_worked_on_in_float32() -> None:
    x, mean, variance = drawn(2, 9, 2, 32), torch.arange(9.0)[None] * 1000, torch.rand(2, 9) * 9
    half = x.bfloat16()
    assert relative(gaussian_rope(half, mean, variance, base=BASE),
                    gaussian_rope(half.double(), mean, variance, base=BASE)) <= 2e-2  # fmt: skip


@needs_triton
def test_the_turn_interpreted_gives_what_the_reference_gives() -> None:
    interpret(
        "import torch\n"
        "from agreement import check\n"
        "from megakernels.gaussian_rope import gaussian_rope\n"
        "def compare(batch, entries, heads, width, rows, dtype):\n"
        "    chance = torch.Generator().manual_seed(entries)\n"
        "    x = torch.randn(batch, entries, heads, width, generator=chance)\n"
        "    mean = torch.rand(rows, entries, generator=chance, dtype=torch.float64) * 1e6\n"
        "    variance = torch.rand(rows, entries, generator=chance) * 20\n"
        "    variance[:, ::3] = 0\n"
        "    def turn(backend):\n"
        "        return lambda x, variance: (gaussian_rope(x, mean, variance, base=1e4, backend=backend),)\n"
        "    weigh = torch.randn(x.shape, generator=chance)\n"
        "    check(turn('triton'), turn('reference'), (x, variance), weigh, dtype)\n"
        "compare(1, 1, 1, 32, 1, torch.float32)\n"
        "compare(2, 7, 9, 34, 1, torch.float32)\n"
        "compare(2, 5, 3, 64, 2, torch.float32)\n"
        "compare(1, 5, 2, 32, 1, torch.bfloat16)\n"
        "x = torch.randn(1, 6, 5, 32).transpose(1, 2)[:, :, ::2]\n"
        "mean, still = torch.arange(5.0)[None] + 1e8, torch.zeros(1, 5)\n"
        "mine, other = (gaussian_rope(x, mean, still, base=1e4, backend=one) for one in ('triton', 'reference'))\n"
        "assert (mine - other).abs().max() <= 1e-5\n"
        "assert gaussian_rope(x[:, :0], mean[:, :0], still[:, :0], base=1e4, backend='triton').shape == (1, 0, 3, 32)\n"
    )


def test_what_does_not_belong_together_is_refused() -> None:
    x, mean = torch.ones(2, 5, 1, 8), torch.ones(1, 5)
    for wrong in (
        (x[..., :7], mean, mean),
        (x, mean[:, 1:], mean),
        (x, mean, torch.ones(3, 5)),
        (x[0], mean, mean),
    ):
        with pytest.raises(KernelShapeError, match="turning needs"):
            gaussian_rope(*wrong, base=BASE)
    with pytest.raises(BackendUnavailableError, match="the backend 'triton'"):
        gaussian_rope(x, mean, mean, base=BASE, backend="triton")
