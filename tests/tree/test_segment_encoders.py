"""Gists that know what stands before them in their segment: every route makes the same, and forgetting finds them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_fakes import (
    ArithmeticEncoder,
    ArithmeticSegments,
    assert_same,
    everything,
    identity_of,
    random_ids,
)

from megacontext.errors import TreeFormatError
from megacontext.tree import Identity, Memory, refresh
from megacontext.tree.encoder import GistEncoder, SegmentEncoder, segment_blocks
from megacontext.tree.forgetting import forget_span
from megacontext.tree.verification import recompute


def whole(ids, encoder):
    memory = Memory.create(None, identity_of(encoder), encoder)
    memory.append(ids)
    return everything(memory)


def beside_addresses(ids, encoder):
    """A memory that keeps up with addresses alone, and `encoder`'s gists beside them, none made yet."""
    addresses = ArithmeticEncoder(encoder.block_size, gist_width=0, fingerprint="addresses-1")
    memory = Memory.create(None, identity_of(addresses), addresses)
    memory.append(ids)
    identity = Identity(
        tokenizer="bpe-a",
        embedding="table-a",
        encoder=encoder.fingerprint,
        block_size=encoder.block_size,
    )
    return memory, refresh.add_version(memory, identity, encoder).number


def test_the_two_kinds_of_encoders_are_told_apart():
    assert isinstance(ArithmeticSegments(), SegmentEncoder) and segment_blocks(ArithmeticSegments()) == 3
    assert not isinstance(ArithmeticEncoder(), SegmentEncoder)
    assert isinstance(ArithmeticEncoder(), GistEncoder) and segment_blocks(ArithmeticEncoder()) == 1


@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=10),
    together=st.integers(1, 9),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=40, deadline=None)
def test_appended_swept_and_made_on_read_they_are_the_same(sizes, together, order):
    encoder = ArithmeticSegments(segment_blocks=together)
    ids = random_ids(sum(sizes))
    expected = whole(ids, encoder)
    pieces = Memory.create(None, identity_of(encoder), encoder)
    for at, size in zip(np.cumsum(sizes) - sizes, sizes, strict=True):
        pieces.append(ids[at : at + size])
    assert_same(everything(pieces), expected)
    assert recompute(pieces, encoder)[0] == []
    memory, number = beside_addresses(ids, encoder)
    gists = memory.reading(number, encoder)
    for lod in order.sample([1, 2, 3], 3):
        nodes = order.sample(range(memory.count(lod)), memory.count(lod))
        if nodes:
            np.testing.assert_array_equal(gists.gists(lod, nodes), expected[f"gists{lod}"][nodes])
    refresh.sweep(memory, number, encoder)
    assert_same(everything(memory.reading(number)), expected)


def test_one_gist_makes_its_whole_segment_once_and_no_other():
    encoder = ArithmeticSegments(block_size=4, segment_blocks=5)
    memory, number = beside_addresses(random_ids(4 * 23 + 1), encoder)
    gists = memory.reading(number, encoder)
    gists.gists(1, [7])
    assert encoder.segments_read == 1
    kept = memory.history.has("gists.2", 1, np.arange(23))
    assert np.flatnonzero(kept).tolist() == [5, 6, 7, 8, 9]
    gists.gists(1, [9, 5, 6, 9])
    assert encoder.segments_read == 1, "what was made is kept"
    gists.gists(1, [4, 21, 10, 0])
    assert encoder.segments_read == 4
    # The last segment is not whole yet, so a later block needs it again.
    memory.append(random_ids(8, seed=1))
    gists.gists(1, [23])
    assert encoder.segments_read == 5


def test_a_reader_makes_them_anew_and_keeps_nothing(tmp_path):
    encoder = ArithmeticSegments()
    addresses = ArithmeticEncoder(4, gist_width=0, fingerprint="addresses-1")
    with Memory.create(tmp_path / "m", identity_of(addresses), addresses) as memory:
        memory.append(random_ids(60))
        number = refresh.add_version(memory, identity_of(encoder), encoder).number
    for writable in (False, True):
        with Memory.open(tmp_path / "m", identity_of(addresses), addresses, writable) as memory:
            one = memory.reading(number, encoder).gists(2, [1])
            assert memory.history.has("gists.2", 2, np.array([1])).all() == writable
            np.testing.assert_array_equal(one, whole(random_ids(60), encoder)["gists2"][[1]])


@given(start=st.integers(0, 199), length=st.integers(1, 60), together=st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_after_forgetting_no_gist_is_left_that_knew_the_tokens(start, length, together):
    encoder, ids = ArithmeticSegments(segment_blocks=together), random_ids(200)
    memory, number = beside_addresses(ids, encoder)
    gists = memory.reading(number, encoder)
    for lod in (1, 2, 3):
        gists.gists(lod, range(memory.count(lod)))
    stop = min(200, start + length)
    forget_span(memory, start, stop, 9)
    ids[start:stop] = 9
    filled = whole(ids, encoder)
    for lod in (1, 2, 3):
        nodes = np.arange(memory.count(lod))
        np.testing.assert_array_equal(gists.gists(lod, nodes), filled[f"gists{lod}"])


def test_an_encoder_that_did_not_make_a_version_is_refused():
    memory, number = beside_addresses(random_ids(30), ArithmeticSegments())
    with pytest.raises(TreeFormatError, match="is made by the encoder segments-1, got arithmetic-1"):
        memory.reading(number, ArithmeticEncoder(4))
    with pytest.raises(TreeFormatError, match="gist_width is 6 there and 7 here"):
        memory.reading(number, ArithmeticSegments(gist_width=7))
    with pytest.raises(TreeFormatError, match="got 3; pick one"):
        memory.reading(3, ArithmeticSegments())


def test_a_version_of_addresses_alone_has_gists_without_numbers():
    memory, _ = beside_addresses(random_ids(4 * 20), ArithmeticSegments())
    assert memory.gists(1, [3, 4]).shape == (2, 0) and memory.gist_width == 0
    assert memory.addresses().shape == (20, 4)
