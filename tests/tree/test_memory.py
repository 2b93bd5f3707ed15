"""Facts about the tree of one history."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_fakes import AWKWARD_SIZES, ArithmeticEncoder, assert_same, everything, identity_of, random_ids

from megacontext.errors import ConfigError, NodeMissingError, ShapeError, TreeFormatError
from megacontext.spans import complete_counts
from megacontext.tree import NO_TOKEN, Memory, appending


def in_ram(encoder):
    return Memory.create(None, identity_of(encoder), encoder)


def built(ids, encoder):
    memory = in_ram(encoder)
    memory.append(ids)
    return memory


@pytest.mark.parametrize("count", [*AWKWARD_SIZES, 32_767, 32_769])
def test_one_by_one_equals_at_once(count, encoder):
    ids = random_ids(count)
    slowly = in_ram(encoder)
    for token in ids:
        slowly.append([token])
    assert_same(everything(slowly), everything(built(ids, encoder)))


@pytest.mark.parametrize("count", [*AWKWARD_SIZES, 32_767, 32_768, 32_769])
def test_ram_equals_disk_also_after_reopening(count, encoder, identity, tmp_path):
    ids = random_ids(count)
    with Memory.create(tmp_path / "m", identity, encoder) as memory:
        memory.append(ids[: count // 3])
        memory.append(ids[count // 3 :])
        written = everything(memory)
    with Memory.open(tmp_path / "m", identity) as memory:
        assert_same(everything(memory), written)
    assert_same(written, everything(built(ids, encoder)))


@given(cuts=st.lists(st.integers(0, 700), max_size=8), left_tokens=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_any_pieces_give_the_same_tree(cuts, left_tokens):
    encoder = ArithmeticEncoder(block_size=4, left_tokens=left_tokens)
    ids = random_ids(700, seed=left_tokens)
    pieces = in_ram(encoder)
    for piece in np.split(ids, sorted(cuts)):
        pieces.append(piece)
    assert_same(everything(pieces), everything(built(ids, encoder)))


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 15, 16, 17, 64, 65, 255, 256, 257, 1021])
def test_every_complete_node_of_every_level_exists(count):
    memory = built(random_ids(count), ArithmeticEncoder(block_size=4))
    counts = complete_counts(count, 4)
    assert [memory.count(lod) for lod in range(len(counts))] == counts
    for lod in range(1, len(counts)):
        assert memory.gists(lod, np.arange(counts[lod])).shape == (counts[lod], 6)
    assert memory.addresses().shape == (count // 4, 4)
    assert (memory.num_tokens, memory.num_blocks) == (count, count // 4)


def test_vectors_are_the_encoders_rounded_to_half_precision(encoder):
    ids = random_ids(1024 + 32)
    memory = built(ids, encoder)
    blocks = ids.reshape(-1, 32)
    left = np.stack([memory.left_of(block) for block in range(33)])
    gists, addresses = encoder.encode_blocks(blocks, left)
    half = gists.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(memory.gists(1, np.arange(33)), half)
    np.testing.assert_array_equal(memory.addresses(), addresses.astype(np.float16).astype(np.float32))
    parents = encoder.encode_parents(half[None, :32], 2)
    np.testing.assert_array_equal(memory.gists(2, [0]), parents.astype(np.float16).astype(np.float32))


def test_large_appends_come_in_chunks_and_give_the_same_tree(monkeypatch):
    ids = random_ids(997)
    encoder = ArithmeticEncoder(block_size=4)
    whole = everything(built(ids, encoder))
    monkeypatch.setattr(appending, "CHUNK_BLOCKS", 7)
    encoder.largest_batch = 0
    assert_same(everything(built(ids, encoder)), whole)
    assert encoder.largest_batch == 7


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 0), (0, 1), (5, 37), (31, 33), (32, 64), (60, 71), (65, 71), (71, 71), (0, 71)]
)
def test_any_slice_of_tokens_reads_back(start, stop, encoder):
    ids = random_ids(71)
    read = built(ids, encoder).tokens(start, stop)
    assert read.dtype == np.int32
    np.testing.assert_array_equal(read, ids[start:stop])


def test_blocks_and_gists_come_in_the_order_asked_for(encoder):
    ids = random_ids(32 * 40)
    memory = built(ids, encoder)
    order = [7, 3, 3, 39, 0]
    np.testing.assert_array_equal(memory.blocks(order), ids.reshape(-1, 32)[order])
    np.testing.assert_array_equal(memory.gists(1, order), memory.gists(1, np.arange(40))[order])
    assert memory.gists(1, []).shape == (0, 6)
    lod, index = np.array([1, 2, 1, 2, 1]), np.array([38, 0, 0, 0, 5])
    mixed = memory.gists_at(lod, index)
    for row, level, place in zip(mixed, lod, index, strict=True):
        np.testing.assert_array_equal(row, memory.gists(level, [place])[0])
    assert memory.blocks([]).shape == (0, 32)


def test_ids_above_two_bytes_survive_beside_narrow_ones(encoder):
    ids = random_ids(32 * 6 + 3)
    ids[40] = 65536
    ids[130] = 2**31 - 1
    ids[-1] = 2**31 - 1
    ids[70] = 65535
    np.testing.assert_array_equal(built(ids, encoder).tokens(0, len(ids)), ids)


def test_left_of_pads_before_the_history_and_stops_at_its_block(encoder):
    ids = random_ids(70)
    memory = built(ids, encoder)
    assert memory.left_of(0).tolist() == [NO_TOKEN] * 5
    assert memory.left_of(2).tolist() == ids[59:64].tolist()
    wide = built(ids, ArithmeticEncoder(left_tokens=40))
    assert wide.left_of(1).tolist() == [NO_TOKEN] * 8 + ids[:32].tolist()


def test_addresses_are_extended_and_not_read_again(encoder, monkeypatch):
    ids = random_ids(32 * 50)
    memory = in_ram(encoder)
    asked = []
    read = memory.store.read
    monkeypatch.setattr(
        memory.store, "read", lambda table, keys: asked.append((table, len(keys))) or read(table, keys)
    )
    for stop in (320, 330, 1600):
        memory.append(ids[memory.num_tokens : stop])
        kept = memory.addresses()
        memory.addresses()
    assert [count for table, count in asked if table == "addresses.1"] == [10, 40]
    np.testing.assert_array_equal(kept, built(ids, encoder).addresses())
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 1


def test_causality_a_later_token_changes_no_earlier_vector(encoder):
    ids = random_ids(1024 * 2)
    changed = ids.copy()
    changed[1024 + 64 :] += 1
    before, after = everything(built(ids, encoder)), everything(built(changed, encoder))
    np.testing.assert_array_equal(before["gists1"][:34], after["gists1"][:34])
    np.testing.assert_array_equal(before["addresses"][:34], after["addresses"][:34])
    np.testing.assert_array_equal(before["gists2"][0], after["gists2"][0])
    assert (before["gists1"][34:] != after["gists1"][34:]).any(axis=1).all()


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda m: m.tokens(0, 72), r"\[0, 71\)"),
        (lambda m: m.tokens(-1, 3), r"\[0, 71\)"),
        (lambda m: m.tokens(9, 3), r"\[9, 3\)"),
        (lambda m: m.gists(1, [0, 2]), r"\[0, 2\), got 2"),
        (lambda m: m.gists(1, [-1]), "got -1"),
        (lambda m: m.gists(2, [0]), "LOD2"),
        (lambda m: m.gists(0, [0]), "lod >= 1"),
        (lambda m: m.blocks([2]), "got 2"),
        (lambda m: m.left_of(3), "got 3"),
    ],
)
def test_what_is_not_there_is_never_clamped(ask, says, encoder):
    with pytest.raises(NodeMissingError, match=says):
        ask(built(random_ids(71), encoder))


@pytest.mark.parametrize("ids", [[-1], [2**31], [1.5], [[1, 2]], 3, ["a"]])
def test_ids_that_are_no_row_of_token_ids_are_refused_and_change_nothing(ids, encoder):
    memory = built(random_ids(40), encoder)
    with pytest.raises(ShapeError, match="token ids"):
        memory.append(ids)
    assert memory.num_tokens == 40


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e5])
def test_vectors_that_half_precision_cannot_hold_are_refused_before_anything_is_written(value, encoder):
    encoder.encode_blocks = lambda tokens, left: (
        np.full((len(tokens), 6), value, np.float32),
        np.zeros((len(tokens), 4), np.float32),
    )
    memory = built(random_ids(31), encoder)
    with pytest.raises(ShapeError, match="finite"):
        memory.append([1])
    assert memory.num_tokens == 31


def test_vectors_of_a_wrong_shape_are_refused(encoder):
    encoder.encode_blocks = lambda tokens, left: (np.zeros((1, 7)), np.zeros((1, 4)))
    with pytest.raises(ShapeError, match=r"\(1, 6\), got \(1, 7\)"):
        built(random_ids(32), encoder)


def test_an_existing_path_is_not_overwritten(encoder, identity, tmp_path):
    with pytest.raises(ConfigError, match="does not exist yet"):
        Memory.create(tmp_path, identity, encoder)


def test_an_encoder_that_the_identity_does_not_name_is_refused(identity, tmp_path):
    with pytest.raises(ConfigError, match="arithmetic-1 with blocks of 32, got other"):
        Memory.create(tmp_path / "m", identity, ArithmeticEncoder(fingerprint="other"))
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("name", ["tokenizer", "embedding", "encoder", "block_size"])
def test_another_identity_is_refused_by_the_name_of_what_differs(name, encoder, identity, tmp_path):
    Memory.create(tmp_path / "m", identity, encoder).close()
    other = type(identity)(**{**vars(identity), name: 16 if name == "block_size" else "b"})
    with pytest.raises(
        TreeFormatError, match=rf"{name} is .* there and .* here; use those parts,.* or ingest"
    ) as told:
        Memory.open(tmp_path / "m", other)
    # Gists can be made anew beside the old ones, ids cannot.
    assert ("memory refresh" in str(told.value)) == (name in ("embedding", "encoder"))
    with Memory.open(tmp_path / "m", None) as memory:
        assert memory.identity == identity


def test_an_encoder_of_other_widths_is_refused(encoder, identity, tmp_path):
    Memory.create(tmp_path / "m", identity, encoder).close()
    with pytest.raises(TreeFormatError, match="gist_width is 6 there and 8 here"):
        Memory.open(tmp_path / "m", identity, ArithmeticEncoder(gist_width=8))


def test_a_memory_open_for_reading_takes_no_tokens(encoder, identity, tmp_path):
    Memory.create(tmp_path / "m", identity, encoder).close()
    with (
        Memory.open(tmp_path / "m", identity, encoder) as memory,
        pytest.raises(ConfigError, match="writable=True"),
    ):
        memory.append([1])
    with pytest.raises(ConfigError, match="needs the identity that it belongs to"):
        Memory.open(tmp_path / "m", None, encoder)


def test_store_bytes_grow_with_the_history(encoder, identity, tmp_path):
    memory = in_ram(encoder)
    empty = memory.store_bytes
    memory.append(random_ids(3200))
    # A block: 64 bytes of ids, 12 of gist, 8 of address, three checksums and three keys.
    assert memory.store_bytes - empty == 100 * (64 + 12 + 8 + 3 * (8 + 4)) + 3 * (8 + 12 + 4)
    with Memory.create(tmp_path / "m", identity, encoder) as stored:
        stored.append(random_ids(3200))
        assert stored.store_bytes == (tmp_path / "m" / "tree-1.mdb").stat().st_size
