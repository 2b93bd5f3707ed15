"""Facts about forgetting: what is taken out leaves no trace, and the rest stays what and where it was."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_fakes import ArithmeticEncoder, assert_same, everything, identity_of, random_ids

from megacontext.errors import ConfigError, CorruptRecordError, NodeMissingError, StaleGistError
from megacontext.tree import Memory, refresh
from megacontext.tree.forgetting import compact, forget_document, forget_span
from megacontext.tree.store import Batch

FILLER = 9


def whole(ids, encoder):
    memory = Memory.create(None, identity_of(encoder), encoder)
    memory.append(ids)
    return everything(memory)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_after_forgetting_and_sweeping_the_tree_is_that_of_the_filled_history(data):
    encoder = ArithmeticEncoder(block_size=4, left_tokens=data.draw(st.integers(0, 9)))
    ids = random_ids(data.draw(st.integers(1, 700)))
    memory = Memory.create(None, identity_of(encoder), encoder)
    memory.append(ids)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(ids) - 1))
        stop = data.draw(st.integers(start + 1, len(ids)))
        forget_span(memory, start, stop, FILLER)
        ids[start:stop] = FILLER
    if data.draw(st.booleans()):
        memory.append(ids[:50])
        ids = np.concatenate([ids, ids[:50]])
    refresh.sweep(memory, 1, encoder)
    assert_same(everything(memory), whole(ids, encoder))
    assert memory.version.holes == () and memory.version.frontier is None


def test_no_vector_that_knew_the_tokens_is_left_before_the_sweep(encoder, identity):
    memory = Memory.create(None, identity, encoder)
    memory.append(random_ids(32 * 1030))
    forget_span(memory, 32 * 3 + 30, 32 * 4, FILLER)
    # Block 3 held them; the address of block 4 had seen five tokens in front of it.
    assert np.flatnonzero(~memory.covers(1, range(1030))).tolist() == [3, 4]
    assert np.flatnonzero(~memory.covers(2, range(32))).tolist() == [0]
    assert not memory.covers(3, [0]).any()
    for ask in (lambda: memory.gists(1, [3]), lambda: memory.gists(3, [0]), lambda: memory.addresses(4, 5)):
        with pytest.raises(StaleGistError, match="1 holes"):
            ask()
    memory.gists(2, range(1, 32))


def test_a_forgotten_document_leaves_its_place_and_nothing_else(tmp_path, encoder, identity):
    secret = random_ids(32 * 50 + 11, seed=5)
    with Memory.create(tmp_path / "m", identity, encoder) as memory:
        for name, ids in (("a", random_ids(70)), ("secret.txt", secret), ("b", random_ids(100, seed=2))):
            with memory.document(name, tags=("private",)):
                memory.append(ids)
        other = ArithmeticEncoder(fingerprint="two", left_tokens=0)
        refresh.sweep(memory, refresh.add_version(memory, identity_of(other), other).number, other)
        held = memory.tokens(0, memory.num_tokens)
        vectors = [memory.gists(1, [20]), memory.addresses(20, 21)]
        forget_document(memory, 1, FILLER)
        assert (memory.tokens(70, 70 + len(secret)) == FILLER).all()
        after = memory.tokens(0, memory.num_tokens)
        np.testing.assert_array_equal(
            np.delete(after, range(70, 70 + len(secret))), np.delete(held, range(70, 70 + len(secret)))
        )
        document = memory.documents[1]
        assert (document.state, document.name, document.tags) == ("forgotten", "", ())
        assert memory.documents.named("secret.txt") is None
        assert [str(one) for one in memory.cite(60, 80)] == [
            "a, tokens 60-70",
            "document 1, forgotten, tokens 0-10",
        ]
        assert memory.catalogue.forgotten == ((70, 70 + len(secret)),)
        with pytest.raises(NodeMissingError, match="forgotten once"):
            forget_document(memory, 1, FILLER)
        refresh.sweep(memory, 1, encoder)
        compact(memory)
        assert_same(everything(memory), whole(after, encoder))
        stored = (tmp_path / "m" / "tree-2.mdb").read_bytes()
    needles = [
        secret[i : i + 8].astype(kind).tobytes()
        for i in range(0, len(secret) - 8, 8)
        for kind in ("<u2", "<i4")
    ]
    needles += [vector.astype("<f2").tobytes() for vector in vectors] + [b"secret.txt", b'private", "private']
    assert not [needle for needle in needles if needle in stored]
    assert sorted(path.name for path in (tmp_path / "m").glob("tree-*")) == ["tree-2.mdb", "tree-2.mdb-lock"]


def test_before_compacting_the_pages_still_hold_what_was_deleted(tmp_path, encoder, identity):
    ids = random_ids(32 * 300)
    with Memory.create(tmp_path / "m", identity, encoder) as memory:
        memory.append(ids)
        forget_span(memory, 0, 32 * 200, FILLER)
    # Else the test above would pass whatever `compact` did.
    assert ids[320:352].astype("<u2").tobytes() in (tmp_path / "m" / "tree-1.mdb").read_bytes()


def test_compacting_makes_a_fragmented_file_dense_and_keeps_everything(tmp_path, encoder, identity):
    with Memory.create(tmp_path / "m", identity, encoder) as memory:
        memory.append(random_ids(32 * 2000 + 3))
        forget_span(memory, 0, 32 * 900, FILLER)
        held = memory.tokens(0, memory.num_tokens)
        told = []
        before, after = compact(memory, told.append)
        assert after < before and told[-1] > 2000
        np.testing.assert_array_equal(memory.tokens(0, memory.num_tokens), held)
        memory.append([1] * 64)
    with Memory.open(tmp_path / "m", identity) as memory:
        np.testing.assert_array_equal(memory.tokens(0, len(held)), held)
        assert memory.catalogue.versions[0].holes == ((0, 901),)


def test_compacting_stops_at_a_damaged_record_and_leaves_the_file(tmp_path, encoder, identity):
    with Memory.create(tmp_path / "m", identity, encoder) as memory:
        memory.append(random_ids(320))
        batch = Batch()
        batch.put("tokens", [(b"12345678", b"no checksum")])
        memory.store.write(batch)
        with pytest.raises(CorruptRecordError, match="3132333435363738 of tokens"):
            compact(memory)
        assert len(memory.tokens(0, 320)) == 320
    assert not list((tmp_path / "m").glob("*.tmp*"))


@pytest.mark.parametrize("span", [(0, 0), (5, 3), (-1, 4), (0, 41)])
def test_only_tokens_that_are_there_can_be_forgotten(span, encoder, identity):
    memory = Memory.create(None, identity, encoder)
    memory.append(random_ids(40))
    with pytest.raises(NodeMissingError, match=r"\[0, 40\)"):
        forget_span(memory, *span, FILLER)
    with pytest.raises(ConfigError, match="memory on disk"):
        compact(memory)
