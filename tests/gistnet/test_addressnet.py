"""An address is a direction: of a block or of a question, whatever padding its row has."""

import pytest
import torch
from toys import VOCABULARY, K, stir

from megacontext.errors import ConfigError, ShapeError
from megacontext.gistnet.address import AddressNet, AddressNetConfig

LEFT = 4
CONFIG = AddressNetConfig(address_width=16, width=32, heads=2, left_tokens=LEFT, longest_question=20)


def make(seed=0):
    torch.manual_seed(seed)
    made = AddressNet(CONFIG, vocab_size=VOCABULARY, block_size=K)
    stir(made, seed)
    return made.eval()


@pytest.fixture(scope="module")
def net():
    return make()


def rows(count, length=LEFT + K, seed=0):
    # Id 0 stands nowhere, because it is what padding is turned into inside.
    return torch.randint(1, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", [AddressNet.BLOCK, AddressNet.QUESTION])
@pytest.mark.parametrize("length", [1, 2, K, LEFT + K, 20])
def test_addresses_have_unit_length(net, kind, length):
    torch.testing.assert_close(net(rows(5, length), kind).norm(dim=-1), torch.ones(5))


@pytest.mark.parametrize("padded", [[0], [0, 1, 2, 3], [11], [5, 8], [0, 4, 11], list(range(11))])
def test_what_stands_for_padding_is_ignored_wherever_it_stands(net, padded):
    ids = rows(3)
    ids[:, padded] = -1
    before = net(ids, AddressNet.BLOCK)
    other = make()
    with torch.no_grad():
        other.token.weight[0] += 10
        other.place[padded] += 10
    assert torch.equal(other(ids, AddressNet.BLOCK), before)
    assert not torch.allclose(other(rows(3), AddressNet.BLOCK), before)


def test_padding_on_the_right_changes_nothing(net):
    ids = rows(3, 9)
    longer = torch.cat((ids, torch.full((3, 7), -1)), dim=1)
    torch.testing.assert_close(net(longer, AddressNet.QUESTION), net(ids, AddressNet.QUESTION))


def test_every_token_counts_also_those_before_the_block(net):
    ids = rows(1)
    before = net(ids, AddressNet.BLOCK)
    for place in range(ids.shape[1]):
        changed = ids.clone()
        changed[0, place] = ids[0, place] % (VOCABULARY - 1) + 1
        assert not torch.allclose(net(changed, AddressNet.BLOCK), before, atol=1e-5), place


def test_a_block_and_a_question_of_the_same_tokens_have_different_addresses(net):
    ids = rows(4)
    assert not torch.allclose(net(ids, AddressNet.BLOCK), net(ids, AddressNet.QUESTION), atol=1e-3)


def test_an_address_does_not_depend_on_its_batch(net):
    ids = rows(6)
    together = net(ids, AddressNet.BLOCK)
    for row in range(6):
        torch.testing.assert_close(net(ids[row : row + 1], AddressNet.BLOCK)[0], together[row])


@pytest.mark.parametrize("shape", [(3, 21), (3, 0), (5,), (1, 2, 3)])
def test_rows_of_another_shape_are_refused(net, shape):
    with pytest.raises(ShapeError, match=r"needs ids \(N, T\) with 1 <= T <= 20, got"):
        net(torch.ones(shape, dtype=torch.long), AddressNet.QUESTION)


def test_a_row_of_padding_alone_is_refused_and_gives_no_nan(net):
    ids = rows(2)
    ids[1] = -1
    with pytest.raises(ShapeError, match="at least one token in every row"):
        net(ids, AddressNet.BLOCK)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"address_width": 0}, "at least 1"),
        ({"left_tokens": -1}, "must not be negative, got -1; use 0"),
        ({"width": 30, "heads": 4}, "multiple of address.heads, got 30 and 4"),
    ],
)
def test_a_wrong_size_is_named(wrong, message):
    with pytest.raises(ConfigError, match=message):
        AddressNetConfig(**wrong)
