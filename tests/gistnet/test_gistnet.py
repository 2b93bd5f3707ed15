"""GistNet begins as the mean of its children and learns what to add, one net for every level."""

import pytest
import torch
from toys import K, stir

from megacontext.errors import ConfigError, ShapeError
from megacontext.gistnet.gist import GistNet, GistNetConfig

WIDTH = 32


def net(stirred=True):
    torch.manual_seed(0)
    made = GistNet(GistNetConfig(heads=2), width=WIDTH, block_size=K)
    if stirred:
        stir(made, seed=0)
    return made


@pytest.mark.parametrize("lod", [1, 2, 3, 9])
@pytest.mark.parametrize("count", [0, 1, 17])
def test_an_untrained_gist_is_the_mean_of_its_children_exactly(lod, count):
    children = torch.randn(count, K, WIDTH)
    assert torch.equal(net(stirred=False)(children, lod), children.mean(dim=1))


def test_a_trained_gist_depends_on_every_child_and_on_their_order():
    trained, children = net(), torch.randn(1, K, WIDTH)
    gist = trained(children, 1)
    correction = gist - children.mean(dim=1)
    for child in range(K):
        changed = children.clone()
        changed[:, child] *= -1
        assert not torch.allclose(trained(changed, 1) - changed.mean(dim=1), correction, atol=1e-4)
    assert not torch.allclose(trained(children.flip(1), 1), gist, atol=1e-4)


def test_tokens_and_gists_are_told_apart_and_all_higher_levels_are_alike():
    children = torch.randn(3, K, WIDTH)
    assert not torch.allclose(net()(children, 1), net()(children, 2))
    assert torch.equal(net()(children, 2), net()(children, 5))


def test_a_gist_does_not_depend_on_its_batch():
    children = torch.randn(5, K, WIDTH)
    together = net()(children, 1)
    for row in range(5):
        torch.testing.assert_close(net()(children[row : row + 1], 1)[0], together[row])


@pytest.mark.parametrize(
    ("shape", "lod"), [((2, K - 1, WIDTH), 1), ((2, K, WIDTH + 1), 1), ((K, WIDTH), 1), ((2, K, WIDTH), 0)]
)
def test_children_of_another_shape_or_level_are_refused(shape, lod):
    with pytest.raises(
        ShapeError, match=rf"lod >= 1 needs children \(N, {K}, {WIDTH}\), got .* for lod {lod}"
    ):
        net()(torch.zeros(shape), lod)


def test_sizes_below_one_are_refused():
    for name in ("layers", "heads", "expansion"):
        with pytest.raises(ConfigError, match="at least 1; raise the one that is not"):
            GistNetConfig(**{name: 0})
