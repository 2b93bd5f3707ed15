"""A block pooled into one vector a head: a mean, or weighed by a softmax."""

import pytest
import torch
from interpreted import interpret, needs_triton

from megakernels.errors import BackendUnavailableError, KernelShapeError
from megakernels.gist_pool import gist_pool


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def test_without_logits_and_with_equal_ones_it_is_the_mean() -> None:
    x = drawn(5, 31, 3, 8)
    torch.testing.assert_close(gist_pool(x), x.mean(dim=1))
    torch.testing.assert_close(gist_pool(x, torch.full((5, 31, 3), 7.0)), x.mean(dim=1), check_dtype=False)


def test_each_head_pools_by_its_own_weights() -> None:
    x, logits = drawn(4, 6, 2, 8), torch.zeros(4, 6, 2, dtype=torch.float64)
    logits[:, 2, 0], logits[:, 5, 1] = 1000, 1000
    pooled = gist_pool(x, logits)
    assert torch.equal(pooled[:, 0], x[:, 2, 0]) and torch.equal(pooled[:, 1], x[:, 5, 1])


def test_a_block_of_one_is_that_one() -> None:
    x = drawn(3, 1, 2, 4)
    assert torch.equal(gist_pool(x, drawn(3, 1, 2)), x[:, 0])


def test_gradients_reach_members_and_weights() -> None:
    x, logits = drawn(3, 5, 2, 4).requires_grad_(), drawn(3, 5, 2).requires_grad_()
    assert torch.autograd.gradcheck(gist_pool, (x, logits)) and torch.autograd.gradcheck(gist_pool, (x,))


@needs_triton
def test_the_sums_interpreted_give_what_the_reference_gives() -> None:
    interpret(
        "import torch\n"
        "from agreement import check\n"
        "from megakernels.gist_pool import gist_pool\n"
        "def pools(backend):\n"
        "    return lambda *given: (gist_pool(*given, backend=backend),)\n"
        "def compare(blocks, members, heads, width, dtype, scale=1.0):\n"
        "    chance = torch.Generator().manual_seed(members)\n"
        "    x = torch.randn(blocks, members, heads, width, generator=chance)\n"
        "    logits = scale * torch.randn(blocks, members, heads, generator=chance)\n"
        "    weigh = torch.randn(blocks, heads, width, generator=chance)\n"
        "    for given in ((x, logits), (x,)):\n"
        "        check(pools('triton'), pools('reference'), given, weigh, dtype)\n"
        "compare(2, 1, 1, 4, torch.float32)\n"
        "compare(3, 31, 2, 33, torch.float32)\n"
        "compare(2, 32, 1, 300, torch.float32, scale=5.0)\n"
        "compare(2, 33, 2, 16, torch.bfloat16)\n"
        "x, logits = torch.randn(2, 3, 7, 8).transpose(1, 2), torch.randn(2, 3, 7).transpose(1, 2)\n"
        "assert torch.allclose(*(gist_pool(x, logits, backend=one) for one in ('triton', 'reference')), atol=1e-6)\n"
        "sharp = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0)).transpose(1, 2) * 1000\n"
        "assert torch.allclose(*(gist_pool(x, sharp, backend=one) for one in ('triton', 'reference')), atol=1e-6)\n"
        "assert gist_pool(x[:0], backend='triton').shape == (0, 3, 8)\n"
    )


def test_what_does_not_belong_together_is_refused() -> None:
    x = torch.ones(2, 4, 1, 8)
    for wrong in ((x[0], None), (x[:, :0], None), (x, torch.ones(2, 4)), (x, torch.ones(2, 3, 1))):
        with pytest.raises(KernelShapeError, match="pooling needs"):
            gist_pool(*wrong)
    with pytest.raises(BackendUnavailableError, match="the backend 'triton'"):
        gist_pool(x, backend="triton")
