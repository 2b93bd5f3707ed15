"""Muon in float32 is torch's Muon but for the rounding of bfloat16, and its updates are nearly orthogonal."""

import pytest
import torch

from megacontext.train.muon import FloatMuon, orthogonalised
from megacontext.train.optimisers import OptimiserConfig, Optimisers


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (8, 8), (16, 31), (31, 16)])
def test_singular_values_come_near_one_and_singular_vectors_stay(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    made = orthogonalised(matrix)
    inside = left.T @ made @ right.T
    assert torch.allclose(inside, torch.diag(inside.diagonal()), atol=1e-9)
    # Jordan's iteration ends anywhere between .7 and 1.2 for what is not vanishingly small beside the rest.
    clear = values > 0.02 * values.norm()
    assert clear.any() and inside.diagonal()[clear].min() > 0.6 and inside.diagonal().max() < 1.25


@pytest.mark.parametrize("shape", [(24, 8), (8, 24)])
def test_it_takes_the_steps_of_torch(shape):
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(shape, generator=generator)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.2}
    one, other = FloatMuon([ours], **settings), torch.optim.Muon([theirs], **settings)
    for _ in range(4):
        grad = torch.randn(shape, generator=generator)
        ours.grad, theirs.grad = grad.clone(), grad.clone()
        one.step()
        other.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved, "bfloat16 has 8 bits"
    assert (ours - start).norm() > 0.5
    state, same = one.state[ours]["momentum_buffer"], other.state[theirs]["momentum_buffer"]
    assert torch.equal(state, same)


def test_a_recipe_asks_for_it_by_its_precision():
    net = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.Linear(8, 8)])})
    for precision, kind in (("bfloat16", torch.optim.Muon), ("float32", FloatMuon)):
        made = Optimisers(OptimiserConfig(matrix_precision=precision).groups([net]))
        assert [type(one) for one in made._all] == [torch.optim.AdamW, kind]
        before = net["layers"][0].weight.detach().clone()
        net["layers"][0](torch.randn(3, 8)).sum().backward()
        made.step(1.0)
        assert not torch.equal(before, net["layers"][0].weight)
