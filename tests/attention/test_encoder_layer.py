"""The encoder layer knows no order, and sees exactly what its mask lets it see."""

import pytest
import torch

from megacontext.attention.encoder import EncoderLayer
from megacontext.errors import ConfigError


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return EncoderLayer(16, 4)


def test_the_order_of_the_entries_does_not_matter(layer):
    x, order = torch.randn(2, 7, 16), torch.randperm(7)
    torch.testing.assert_close(layer(x)[:, order], layer(x[:, order]))


def test_an_entry_that_is_masked_changes_no_other(layer):
    x = torch.randn(1, 5, 16)
    mask = torch.ones(1, 1, 5, 5, dtype=torch.bool)
    mask[..., 3] = False
    changed = x.clone()
    changed[:, 3] *= -1
    others = [0, 1, 2, 4]
    assert torch.equal(layer(x, mask)[:, others], layer(changed, mask)[:, others])
    assert not torch.allclose(layer(x)[:, others], layer(changed)[:, others])


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match="multiple of its heads, got 16 and 3"):
        EncoderLayer(16, 3)
