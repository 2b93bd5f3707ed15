"""A pooled cache starts as the mean, can choose one token exactly, and every one of its numbers learns."""

import pytest
import torch

from megacontext.errors import ConfigError, ShapeError
from megacontext.gistnet.constant import ConstantPrefix
from megacontext.gistnet.pooled import PooledCache, PooledCacheConfig

L, N, K, H, D = 2, 3, 8, 2, 4
SHAPE = (L, H, D)


def turn(keys, positions):
    """A rotation in the plane of the first and the second half."""
    first, second = keys.chunk(2, dim=-1)
    cos, sin = positions[..., None].cos(), positions[..., None].sin()
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def rows(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, L, N, K, H, D, generator=generator).unbind()


def made(**options):
    torch.manual_seed(0)
    return PooledCache(PooledCacheConfig(**options), entry_shape=SHAPE, block_size=K)


@pytest.mark.parametrize("hidden", [0, 5])
def test_it_starts_as_the_mean_of_keys_and_of_values(hidden):
    keys, values = rows()
    key, value = made(hidden=hidden)(keys, values, turn)
    torch.testing.assert_close(key, keys.mean(dim=2))
    torch.testing.assert_close(value, values.mean(dim=2))


@pytest.mark.parametrize("chosen", [0, 3, K - 1])
@pytest.mark.parametrize("lod", [1, 2])
def test_a_head_that_chooses_one_token_has_its_key_where_it_stood(chosen, lod):
    """The gist stands at the middle of its span; put there, its key is the chosen one's at its own place."""
    keys, values = rows()
    net = made(levels=2)
    with torch.no_grad():
        net.levels[lod - 1].place[..., chosen] = 60.0
    key, value = net(keys, values, turn, lod=lod)
    apart = K ** (lod - 1)
    middle, place = (
        torch.full(key.shape[:-1], apart * (K - 1) / 2),
        torch.full(key.shape[:-1], 1.0 * apart * chosen),
    )
    torch.testing.assert_close(turn(key, middle), turn(keys[:, :, chosen], place), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(value, values[:, :, chosen])


def test_every_layer_and_head_weighs_for_itself():
    keys, values = rows()
    net = made()
    with torch.no_grad():
        net.levels[0].place[1, 0, 2] = 60.0
    weights = net.levels[0].weights(keys, values)
    assert weights.shape == (L, N, K, H)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(L, N, H))
    assert (weights[1, :, 2, 0] > 0.99).all()
    torch.testing.assert_close(weights[0], torch.full((N, K, H), 1 / K))
    torch.testing.assert_close(weights[1, :, :, 1], torch.full((N, K), 1 / K))


def test_every_number_of_it_learns():
    keys, values = rows()
    net = made()
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    before = {name: one.detach().clone() for name, one in net.named_parameters()}
    wanted = keys[:, :, 1], values[:, :, 1]
    losses = []
    for _ in range(30):
        found = net(keys, values, turn)
        loss = sum(((one - other) ** 2).mean() for one, other in zip(found, wanted, strict=True))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    for name, one in net.named_parameters():
        assert (one != before[name]).any(dim=-1).all(), name


def test_a_level_of_its_own_and_the_last_one_for_all_above():
    keys, values = rows()
    net = made(levels=2)
    with torch.no_grad():
        net.levels[1].value_scale.fill_(2.0)
    low, high, higher = (net(keys, values, turn, lod=lod)[1] for lod in (1, 2, 3))
    torch.testing.assert_close(high, 2 * low)
    torch.testing.assert_close(higher, high)


def test_a_level_that_is_new_begins_as_the_one_below_with_places_that_count_anew():
    keys, values = rows()
    below = made()
    with torch.no_grad():
        for one in below.parameters():
            one.uniform_(-0.5, 0.5)
    net = made(levels=2)
    net.begin_from(below)
    for first, second in zip(net(keys, values, turn), below(keys, values, turn), strict=True):
        assert torch.equal(first, second)
    assert not net.levels[1].place.any() and below.levels[0].place.any()
    assert torch.equal(net.levels[1].linear, below.levels[0].linear)


def test_what_does_not_fit_is_refused():
    keys, values = rows()
    net = made()
    for wrong in ((keys[:1], values[:1]), (keys[:, :, 1:], values[:, :, 1:]), (keys, values[..., 1:])):
        with pytest.raises(ShapeError, match=r"keys and values \(2, N, 8, 2, 4\)"):
            net(*wrong, turn)
    with pytest.raises(ShapeError, match="lod 0"):
        net(keys, values, turn, lod=0)
    for options in ({"hidden": -1}, {"levels": 0}, {"sharpness": 0.0}):
        with pytest.raises(ConfigError, match="pooled caches need"):
            made(**options)


def test_a_constant_prefix_gives_its_last_entries():
    keys, values = (one[:, :, 0] for one in rows())
    prefix = ConstantPrefix(keys, values)
    torch.testing.assert_close(prefix(2)[0], keys[:, 1:])
    with pytest.raises(ShapeError, match="has 3 entries, got 4"):
        prefix(4)
