"""Tokens from their table and gists as they were stored, in one row."""

import pytest
import torch
from interpreted import interpret, needs_triton

from megakernels.errors import BackendUnavailableError, KernelShapeError
from megakernels.gather_entries import gather_entries

TABLE = torch.arange(20.0).view(5, 4)


def test_entries_come_in_their_order_each_from_where_it_lies() -> None:
    stored = torch.tensor([[0.5] * 4, [-2.0] * 4], dtype=torch.float16)
    out = gather_entries(torch.tensor([3, -1, -2, 0, -1]), TABLE, stored)
    assert out.dtype == TABLE.dtype
    assert torch.equal(out, torch.stack((TABLE[3], torch.full((4,), 0.5), torch.full((4,), -2.0), TABLE[0],
                                         torch.full((4,), 0.5))))  # fmt: skip


def test_bytes_are_scaled_gist_by_gist_in_float32() -> None:
    stored = torch.tensor([[127, -128, 0, 1], [1, 2, 3, 4]], dtype=torch.int8)
    scale = torch.tensor([0.01, 3.0], dtype=torch.float16)
    out = gather_entries(torch.tensor([-2, -1]), TABLE, stored, scale)
    assert torch.equal(out, (stored.float() * scale.float()[:, None]).flip(0))


def test_the_result_has_the_type_that_is_asked_for() -> None:
    out = gather_entries(torch.tensor([1, -1]), TABLE, torch.ones(1, 4), dtype=torch.bfloat16)
    assert out.dtype == torch.bfloat16 and torch.equal(out[0], TABLE[1].bfloat16())


def test_a_context_of_one_kind_or_none_is_a_context() -> None:
    no_gists, no_tokens = torch.empty(0, 4), torch.empty(0, 4)
    assert torch.equal(gather_entries(torch.tensor([4, 0]), TABLE, no_gists), TABLE[[4, 0]])
    assert torch.equal(gather_entries(torch.tensor([-1]), no_tokens, torch.ones(1, 4)), torch.ones(1, 4))
    assert gather_entries(torch.empty(0, dtype=torch.int64), TABLE, no_gists).shape == (0, 4)


@needs_triton
def test_the_copy_interpreted_gives_what_the_reference_gives() -> None:
    interpret(
        "import torch\n"
        "from megakernels.gather_entries import gather_entries\n"
        "chance = torch.Generator().manual_seed(0)\n"
        "for width in (1, 33, 1500):\n"
        "    table = torch.randn(7, 2 * width, generator=chance)[:, ::2]\n"
        "    source = torch.randint(-5, 7, (23,), generator=chance)\n"
        "    vectors, scale = torch.randn(5, width, generator=chance), torch.rand(5, generator=chance)\n"
        "    number = (vectors * 40).to(torch.int8)\n"
        "    for given in ((vectors,), (vectors.half(),), (vectors.half(), scale), (number, scale.half())):\n"
        "        for dtype in (torch.float32, torch.float16):\n"
        "            one, other = (gather_entries(source, table, *given, dtype=dtype, backend=backend)\n"
        "                          for backend in ('triton', 'reference'))\n"
        "            assert one.dtype == dtype and torch.equal(one, other), (width, given[0].dtype, dtype)\n"
        "assert gather_entries(source[:0], table, vectors, backend='triton').shape == (0, 1500)\n"
    )


def test_what_does_not_belong_together_is_refused() -> None:
    source, stored = torch.tensor([0]), torch.ones(2, 4)
    for wrong in ((source.float(), TABLE, stored), (source[None], TABLE, stored), (source, TABLE, stored[:, 1:]),
                  (source, TABLE, stored.to(torch.int8)), (source, TABLE, stored.double()),
                  (source, TABLE, stored, torch.ones(3))):  # fmt: skip
        with pytest.raises(KernelShapeError, match="gathering needs"):
            gather_entries(*wrong)
    with pytest.raises(BackendUnavailableError, match="the backend 'triton'"):
        gather_entries(source, TABLE, stored, backend="triton")
