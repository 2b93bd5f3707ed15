"""Facts about verifying and repairing: damage is found and named, and what is left is made whole."""

import numpy as np
import pytest
from tree_fakes import ArithmeticEncoder, assert_same, everything, identity_of, random_ids

from megacontext.errors import CorruptRecordError, TreeFormatError
from megacontext.spans import Span
from megacontext.tree import Memory, refresh
from megacontext.tree.forgetting import forget_span
from megacontext.tree.repair import repair
from megacontext.tree.verification import verify

COUNT = 32 * 1030 + 7
FILLER = 9
PAGE = 4096


@pytest.fixture
def held(tmp_path, encoder, identity):
    """A memory of two documents and what it holds."""
    ids = random_ids(COUNT)
    with Memory.create(tmp_path / "m", identity, encoder) as memory:
        with memory.document("a.txt", tags=("x",)):
            memory.append(ids[:5000])
        with memory.document("b.txt"):
            memory.append(ids[5000:])
        return tmp_path / "m", ids, everything(memory)


def data_file(path):
    return path / (path / "current").read_text().strip()


def change(path, edit):
    raw = bytearray(data_file(path).read_bytes())
    edit(raw)
    data_file(path).write_bytes(raw)


def page_of(raw, needle):
    """Number of the only page that holds these bytes."""
    assert raw.count(needle) == 1
    return raw.index(needle) // PAGE


def zero(raw, page):
    raw[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)


def block_bytes(ids, block):
    return ids[block * 32 : (block + 1) * 32].astype("<u2").tobytes()


def made_whole(path, identity, encoder):
    """Everything after sweeping, and the tokens."""
    with Memory.open(path, identity, encoder, writable=True) as memory:
        refresh.sweep(memory, memory.version.number, encoder)
        return everything(memory)


def tree_of(ids, encoder):
    memory = Memory.create(None, identity_of(encoder), encoder)
    memory.append(ids)
    return everything(memory)


def test_a_sound_memory_verifies_to_the_last_vector(held, identity, encoder):
    path, _, _ = held
    told = verify(path, identity, encoder)
    assert told.ok and told.num_tokens == COUNT
    assert told.recomputed == 1030 + 32 + 1
    # Tokens, addresses and gists, two documents with names, end and format.
    assert told.records == 3 * 1030 + 33 + 2 + 2 + 2


def test_a_flipped_bit_is_named_by_the_tokens_that_it_concerns(held, identity):
    path, ids, _ = held
    with Memory.open(path, identity) as memory:
        gist = memory.gists(2, [3]).astype("<f2").tobytes()
    needle = block_bytes(ids, 20)

    def flip(raw):
        raw[raw.index(needle) + 5] ^= 1
        at = raw.find(gist)
        while at >= 0:  # pages that were given up hold copies
            raw[at + 1] ^= 1
            at = raw.find(gist)

    change(path, flip)
    found = verify(path)
    assert {(one.kind, one.span) for one in found.damages} == {
        ("tokens", Span(640, 672)),
        ("gists", Span(3 * 1024, 4 * 1024)),
    }


def test_repair_says_exactly_which_tokens_are_lost_and_keeps_all_others(held, identity, encoder):
    path, ids, _ = held
    needle = block_bytes(ids, 500)
    change(path, lambda raw: zero(raw, page_of(raw, needle)))
    assert {one.kind for one in verify(path).damages} >= {"pages", "tokens"}
    with pytest.raises(CorruptRecordError, match="memory verify"):
        Memory.open(path, identity)
    told = repair(path, FILLER)
    (lost,) = told.lost
    assert lost.start % 32 == lost.stop % 32 == 0 and lost.start <= 500 * 32 < lost.stop
    assert lost.stop - lost.start == told.num_tokens - sum(
        1 for _ in range(told.num_tokens - (lost.stop - lost.start))
    )
    expected = ids.copy()
    expected[lost.start : lost.stop] = FILLER
    assert_same(made_whole(path, identity, encoder), tree_of(expected, encoder))
    assert verify(path, identity, encoder).ok
    with Memory.open(path, identity) as memory:
        assert memory.catalogue.lost == (tuple(lost),)
        assert [one.name for one in memory.documents] == ["a.txt", "b.txt"]
        assert memory.documents[0].tags == ("x",)
    assert told.kept_aside.is_file()


def test_the_loss_of_pages_above_the_records_loses_nothing(held, identity, encoder):
    path, _, before = held

    def zero_branches(raw):
        for page in range(2, len(raw) // PAGE):
            if int.from_bytes(raw[page * PAGE + 10 : page * PAGE + 12], "little") == 1:  # P_BRANCH
                zero(raw, page)

    change(path, zero_branches)
    assert not verify(path).ok
    told = repair(path, FILLER)
    assert told.lost == () and told.lost_documents == ()
    assert_same(made_whole(path, identity, encoder), before)


def test_without_meta_pages_everything_is_still_found(held, identity, encoder):
    path, _, before = held
    change(path, lambda raw: (zero(raw, 0), zero(raw, 1)))
    assert verify(path).damages[0].kind == "pages"
    told = repair(path, FILLER)
    assert told.lost == () and told.num_tokens == COUNT
    assert_same(made_whole(path, identity, encoder), before)


def test_a_truncated_file_gives_what_is_left(held, identity, encoder):
    path, ids, _ = held
    change(path, lambda raw: raw.__delitem__(slice(len(raw) * 2 // 3, None)))
    assert not verify(path).ok
    told = repair(path, FILLER)
    expected = ids[: told.num_tokens].copy()
    for span in told.lost:
        expected[span.start : span.stop] = FILLER
    assert_same(made_whole(path, identity, encoder), tree_of(expected, encoder))


def test_what_was_forgotten_does_not_come_back_by_repairing(tmp_path, encoder, identity):
    ids = random_ids(32 * 600)
    with Memory.create(tmp_path / "m", identity, encoder) as memory:
        memory.append(ids)
        forget_span(memory, 320, 32 * 300, FILLER)
        refresh.sweep(memory, 1, encoder)
        expected = everything(memory)

    def zero_branches(raw):
        for page in range(2, len(raw) // PAGE):
            if int.from_bytes(raw[page * PAGE + 10 : page * PAGE + 12], "little") == 1:
                zero(raw, page)

    change(tmp_path / "m", zero_branches)
    repair(tmp_path / "m", FILLER)
    # Where only loose pages are left, filler is all that a forgotten span may hold.
    swept = made_whole(tmp_path / "m", identity, encoder)
    np.testing.assert_array_equal(swept["tokens"], expected["tokens"])
    assert_same(swept, expected)


def test_a_lost_format_needs_the_parts(tmp_path, encoder, identity):
    ids = random_ids(100)
    with Memory.create(tmp_path / "m", identity, encoder) as memory:
        memory.append(ids)

    def wipe(raw):
        while b'"block_size"' in raw:
            at = raw.index(b'"block_size"')
            raw[at : at + 5] = b"xxxxx"

    change(tmp_path / "m", wipe)
    assert "format" in {one.kind for one in verify(tmp_path / "m").damages}
    before = data_file(tmp_path / "m").read_bytes()
    with pytest.raises(CorruptRecordError, match="give the model"):
        repair(tmp_path / "m", FILLER)
    assert data_file(tmp_path / "m").read_bytes() == before
    told = repair(tmp_path / "m", FILLER, identity)
    assert told.lost == ()
    with Memory.open(tmp_path / "m", identity, encoder, writable=True) as memory:
        refresh.sweep(memory, refresh.add_version(memory, identity, encoder).number, encoder)
    with Memory.open(tmp_path / "m", identity) as memory:
        assert_same(everything(memory), tree_of(ids, encoder))


def test_a_vector_that_is_whole_but_wrong_is_found_by_recomputing(held, identity, encoder):
    path, _, _ = held

    class Mistaken(ArithmeticEncoder):
        def encode_parents(self, children, lod):
            made = super().encode_parents(children, lod)
            made[5:6] += 1
            return made

    assert verify(path).ok
    (wrong,) = verify(path, identity, Mistaken()).damages
    assert (wrong.kind, wrong.span) == ("gists", Span(5 * 1024, 6 * 1024))


def test_a_memory_that_is_being_written_is_not_repaired(held, identity, encoder):
    path, _, _ = held
    with (
        Memory.open(path, identity, encoder, writable=True),
        pytest.raises(TreeFormatError, match="one writer at a time"),
    ):
        repair(path, FILLER)
