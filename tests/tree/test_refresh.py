"""Facts about gist versions: beside one another, swept, made on read, switched to, removed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_fakes import ArithmeticEncoder, assert_same, everything, identity_of, random_ids

from megacontext.errors import ConfigError, StaleGistError, TreeFormatError
from megacontext.tree import Memory, appending, refresh

OTHER = dict(fingerprint="arithmetic-2", left_tokens=3)


class OtherEncoder(ArithmeticEncoder):
    """Same widths, other numbers."""

    def __init__(self, **changes):
        super().__init__(**{**OTHER, **changes})

    def encode_blocks(self, tokens, left):
        gists, addresses = super().encode_blocks(tokens, left)
        return gists + 1, addresses + 1


def whole(ids, encoder):
    memory = Memory.create(None, identity_of(encoder), encoder)
    memory.append(ids)
    return everything(memory)


@pytest.fixture
def held(tmp_path, encoder, identity):
    """A memory on disk of 1,100 blocks and a tail, its ids, and the encoder of a second version."""
    ids = random_ids(32 * 1100 + 5)
    with Memory.create(tmp_path / "m", identity, encoder) as memory:
        memory.append(ids)
    return tmp_path / "m", ids, OtherEncoder()


def test_two_versions_live_side_by_side(held, identity, encoder):
    path, ids, other = held
    with Memory.open(path, identity, encoder, writable=True) as memory:
        added = refresh.add_version(memory, identity_of(other), other)
        assert refresh.add_version(memory, identity_of(other), other) == added, "asking twice adds one"
        assert refresh.sweep(memory, added.number, other) == 1100
        assert refresh.sweep(memory, added.number, other) == 0
        assert memory.catalogue.active == 1
    with Memory.open(path, identity) as memory:
        assert_same(everything(memory), whole(ids, encoder))
    with Memory.open(path, identity_of(other), other) as memory:
        assert_same(everything(memory), whole(ids, other))


def test_the_switch_is_for_those_who_open_afterwards(held, identity, encoder):
    path, ids, other = held
    with Memory.open(path, identity, encoder, writable=True) as memory:
        number = refresh.add_version(memory, identity_of(other), other).number
        with pytest.raises(TreeFormatError, match=r"lacks 1,100 blocks; finish its sweep"):
            refresh.switch(memory, number)
        refresh.sweep(memory, number, other)
        refresh.switch(memory, number)
        assert_same(everything(memory), whole(ids, encoder))
        with pytest.raises(ConfigError, match="active gist version cannot be removed"):
            refresh.drop_version(memory, number)
        refresh.drop_version(memory, 1)
        with pytest.raises(StaleGistError, match="has been removed; open the memory again"):
            memory.gists(1, [0])
    with Memory.open(path) as memory:
        assert memory.identity == identity_of(other)
        assert_same(everything(memory), whole(ids, other))


@pytest.mark.parametrize("stop_after", [1, 2, 5])
def test_a_sweep_that_was_cut_off_goes_on_where_it_stopped(stop_after, held, identity, encoder, monkeypatch):
    path, _, other = held
    monkeypatch.setattr(appending, "CHUNK_BLOCKS", 64)
    told = []

    def interrupt(done, total):
        told.append((done, total))
        if len(told) == stop_after:
            raise KeyboardInterrupt

    with Memory.open(path, identity, encoder, writable=True) as memory:
        number = refresh.add_version(memory, identity_of(other), other).number
        with pytest.raises(KeyboardInterrupt):
            refresh.sweep(memory, number, other, interrupt)
    assert told[-1] == (64 * stop_after, 1100)
    with Memory.open(path, identity_of(other), other, writable=True) as memory:
        memory.append(random_ids(70, seed=9))  # tokens only: its version does not keep up yet
        with pytest.raises(StaleGistError, match=f"reaches token {64 * 32 * stop_after:,} of"):
            memory.gists(1, [64 * stop_after])
        assert refresh.sweep(memory, number, other) == 1102 - 64 * stop_after
        memory.append(random_ids(32 * 40, seed=8))  # and now it follows again
        assert_same(everything(memory), whole(memory.tokens(0, memory.num_tokens), other))
    with Memory.open(path, identity) as memory, pytest.raises(StaleGistError):
        memory.gists(1, [1100])


def test_stale_gists_are_given_only_to_those_who_ask(held, identity, encoder, monkeypatch):
    path, _, other = held
    monkeypatch.setattr(appending, "CHUNK_BLOCKS", 32)
    with Memory.open(path, identity, encoder, writable=True) as memory:
        number = refresh.add_version(memory, identity_of(other), other).number
        refresh._sweep_chunk(memory, number, other)
        old, old_addresses = memory.gists(1, range(64)), memory.addresses(0, 64)
    with Memory.open(path, identity_of(other)) as memory:
        assert memory.covers(1, range(64)).tolist() == [True] * 32 + [False] * 32
        assert memory.covers(2, [0, 1]).tolist() == [True, False]
        for ask in (lambda m: m.gists(1, [0, 40]), lambda m: m.gists(2, [1]), lambda m: m.addresses()):
            with pytest.raises(StaleGistError, match="version 2 reaches token 1,024 of 35,205"):
                ask(memory)
        mixed = memory.gists(1, range(64), stale=True)
        np.testing.assert_array_equal(mixed[32:], old[32:])
        assert (mixed[:32] != old[:32]).any(axis=1).all()
        np.testing.assert_array_equal(memory.addresses(0, 64, stale=True)[32:], old_addresses[32:])


@pytest.mark.parametrize("writable", [False, True])
def test_gists_made_on_read_are_those_of_a_sweep(writable, held, identity, encoder):
    path, ids, other = held
    with Memory.open(path, identity, encoder, writable=True) as memory:
        number = refresh.add_version(memory, identity_of(other), other).number
    expected = whole(ids, other)
    with Memory.open(path, identity_of(other), other, writable, lazy=True) as memory:
        np.testing.assert_array_equal(memory.gists(3, [0]), expected["gists3"])
        np.testing.assert_array_equal(
            memory.gists(1, [900, 3, 3, 1099]), expected["gists1"][[900, 3, 3, 1099]]
        )
        np.testing.assert_array_equal(memory.addresses(5, 900), expected["addresses"][5:900])
        other.largest_batch = 0
        memory.gists(2, range(10))
        assert (other.largest_batch == 0) == writable, "what a writer made is kept"
    with Memory.open(path, identity, encoder, writable=True) as memory:
        refresh.sweep(memory, number, other)
    with Memory.open(path, identity_of(other)) as memory:
        assert_same(everything(memory), expected)


def test_a_memory_of_tokens_alone_gets_its_gists_later(tmp_path, encoder, identity):
    ids = random_ids(32 * 33)
    with Memory.create(tmp_path / "m", identity, None) as memory:
        memory.append(ids)
        np.testing.assert_array_equal(memory.tokens(0, len(ids)), ids)
        with pytest.raises(StaleGistError, match="holds tokens and no gists yet"):
            memory.gists(1, [0])
    with Memory.open(tmp_path / "m", identity, encoder, writable=True) as memory:
        refresh.sweep(memory, refresh.add_version(memory, identity, encoder).number, encoder)
    with Memory.open(tmp_path / "m", identity) as memory:
        assert_same(everything(memory), whole(ids, encoder))


@given(
    sizes=st.lists(st.tuples(st.booleans(), st.integers(0, 90)), min_size=1, max_size=12),
    chunk=st.sampled_from([4, 8, 2048]),
)
@settings(max_examples=40, deadline=None)
def test_any_mixture_of_following_and_sweeping_gives_the_same_tree(sizes, chunk):
    one, two = ArithmeticEncoder(block_size=4), OtherEncoder(block_size=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(appending, "CHUNK_BLOCKS", chunk)
        memory = Memory.create(None, identity_of(one), one)
        number = refresh.add_version(memory, identity_of(two), two).number
        for swept, size in sizes:
            memory.append(random_ids(size, seed=size))
            if swept:
                refresh.sweep(memory, number, two)
        refresh.sweep(memory, number, two)
    ids = memory.tokens(0, memory.num_tokens)
    assert_same(everything(memory), whole(ids, one))
    second = Memory(memory.store, "RAM", number, two, True)
    assert_same(everything(second), whole(ids, two))


def test_another_tokenizer_is_refused_and_a_foreign_encoder_does_not_sweep(held, identity, encoder):
    path, _, other = held
    foreign = type(identity)(**{**vars(identity_of(other)), "tokenizer": "bpe-b"})
    with Memory.open(path, identity, encoder, writable=True) as memory:
        with pytest.raises(TreeFormatError, match="tokenizer is 'bpe-a' there and 'bpe-b' here"):
            refresh.add_version(memory, foreign, other)
        with pytest.raises(ConfigError, match="swept by its own encoder"):
            refresh.sweep(memory, 1, other)
        assert len(memory.catalogue.versions) == 1
    with (
        Memory.open(path, identity, encoder) as memory,
        pytest.raises(ConfigError, match="writable=True"),
    ):
        refresh.add_version(memory, identity_of(other), other)
