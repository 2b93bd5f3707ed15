"""An index follows its history: grown = made at once, found again = made anew, and never older than the memory."""

import multiprocessing
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_checks import SMALL, answers, assert_close, both, memory_of, naive_answers, said
from toys import K

from megacontext.errors import StaleGistError
from megacontext.index import AddressIndex, WordIndex
from megacontext.index.following import LEAST_IN_FILE, MOST, RADIX, cut
from megacontext.tree import Memory, refresh
from megacontext.tree.forgetting import compact, forget_span

FILLER = 9


@given(num_blocks=st.integers(0, 400_000))
def test_a_history_is_cut_into_aligned_runs_that_shrink(num_blocks):
    runs = cut(num_blocks)
    assert [first for first, _ in runs] == [0, *(stop for _, stop in runs)][:-1]
    assert (runs[-1][1] if runs else 0) == num_blocks
    sizes = [stop - first for first, stop in runs]
    assert sizes == sorted(sizes, reverse=True) and all(first % (b - first) == 0 for first, b in runs)
    assert all(sizes.count(size) < RADIX for size in set(sizes) - {MOST})
    assert sum(size for size in sizes if size < LEAST_IN_FILE) < LEAST_IN_FILE, "what stays in RAM"


@pytest.fixture(scope="module")
def ids(tokenizer):
    return said(tokenizer, 101 * K + 3)


@pytest.mark.parametrize(
    "tokens", [0, 1, K - 1, K, K + 1, 4 * K, 16 * K - 1, 16 * K, 21 * K, 64 * K, 101 * K + 3]
)
def test_an_index_finds_what_the_formulas_find(tokens, ids, encoder, tokenizer):
    memory = memory_of(encoder, ids[:tokens])
    assert_close(answers(memory, tokenizer), naive_answers(memory, tokenizer))


@settings(max_examples=15)
@given(pieces=st.lists(st.integers(0, 30 * K), max_size=8))
def test_grown_piece_by_piece_is_made_at_once(pieces, ids, encoder, tokenizer):
    memory = memory_of(encoder, ids[:0])
    indexes, done = both(memory, tokenizer), 0
    for piece in pieces:
        memory.append(ids[done : done + piece])
        done = min(done + piece, len(ids))
        answers(memory, tokenizer, indexes)
    fresh = both(memory_of(encoder, ids[:done]), tokenizer)
    for one, other in zip(indexes, fresh, strict=True):
        one.follow()
        other.follow()
        assert [(s.first, s.stop) for s in one.segments] == cut(done // K, SMALL["most"])
        for a, b in zip(one.segments, other.segments, strict=True):
            assert a.arrays.keys() == b.arrays.keys()
            for name in a.arrays:
                np.testing.assert_array_equal(a.arrays[name], b.arrays[name])


def noting(made, make, first, stop):
    made.append((first, stop))
    return make(first, stop)


def test_growing_by_a_block_reads_that_block_alone(ids, encoder, tokenizer, monkeypatch):
    memory = memory_of(encoder, ids[: 85 * K])
    index = WordIndex(memory, tokenizer, **SMALL)
    index.follow()
    made = []
    monkeypatch.setattr(index, "make", partial(noting, made, index.make))
    for block in range(85, 97):
        memory.append(ids[block * K : (block + 1) * K])
        index.follow()
        index.follow()
    assert made == [(block, block + 1) for block in range(85, 97)]


def derived(path):
    return sorted(file.name for file in (path / "derived").glob("*")) if (path / "derived").exists() else []


def test_the_writer_keeps_its_files_and_finds_them_again(tmp_path, ids, encoder, tokenizer, monkeypatch):
    path = tmp_path / "m"
    with memory_of(encoder, ids, path) as memory:
        before = answers(memory, tokenizer)
    names = derived(path)
    assert names == [f"{kind}-{a}-{b}.segment" for kind in ("addresses-1", "words")
                     for a, b in ((0, 64), (64, 80), (80, 96), (96, 100))]  # fmt: skip
    # Opened again, by writer or reader, only the one block that is in no file is made.
    for writable in (True, False):
        with Memory.open(path, encoder.identity(), encoder, writable=writable) as memory:
            indexes, made = both(memory, tokenizer), []
            for index in indexes:
                monkeypatch.setattr(index, "make", partial(noting, made, index.make))
            for one, other in zip(before, answers(memory, tokenizer, indexes), strict=True):
                np.testing.assert_array_equal(one, other)
            assert made == [(100, 101)] * 2
        assert derived(path) == names


def test_a_reader_without_files_leaves_none(tmp_path, ids, encoder, tokenizer):
    path = tmp_path / "m"
    memory_of(encoder, ids, path).close()
    with Memory.open(path, encoder.identity()) as memory:
        assert_close(answers(memory, tokenizer), naive_answers(memory, tokenizer))
    assert derived(path) == []


def test_a_reader_follows_a_writer(tmp_path, ids, encoder, tokenizer):
    path = tmp_path / "m"
    memory_of(encoder, ids[: 70 * K], path).close()
    context = multiprocessing.get_context("spawn")
    with Memory.open(path, encoder.identity()) as memory:
        indexes = both(memory, tokenizer)
        assert len(answers(memory, tokenizer, indexes)[0]) == 70
        writer = context.Process(target=_write_tokens, args=(path, ids[70 * K :]))
        writer.start()
        writer.join()
        assert writer.exitcode == 0
        assert_close(answers(memory, tokenizer, indexes), naive_answers(memory, tokenizer))
        assert indexes[1].num_blocks == 101


def _write_tokens(path, ids):
    from megacontext.tree import Memory

    class Plain:
        fingerprint, block_size, gist_width, address_width, left_tokens = "", K, 32, 16, 4

        def encode_blocks(self, tokens, left):
            return np.ones((len(tokens), 32), np.float32), np.ones((len(tokens), 16), np.float32)

        def encode_parents(self, children, lod):
            return children[:, 0]

    with Memory.open(path) as memory:
        identity = memory.identity
    Plain.fingerprint = identity.encoder
    with Memory.open(path, identity, Plain(), writable=True) as memory:
        memory.append(ids)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone", "swapped"])
def test_a_damaged_file_is_made_again(damage, tmp_path, ids, encoder, tokenizer):
    path = tmp_path / "m"
    with memory_of(encoder, ids, path) as memory:
        answers(memory, tokenizer)
    names = derived(path)
    for kind in ("addresses-1", "words"):
        file = path / "derived" / f"{kind}-64-80.segment"
        whole = file.read_bytes()
        changed = {
            "flip": whole[:-70] + bytes([whole[-70] ^ 1]) + whole[-69:],
            "cut": whole[:-64],
            "empty": b"",
            "gone": None,
            "swapped": (path / "derived" / f"{kind}-80-96.segment").read_bytes(),
        }[damage]
        file.unlink() if changed is None else file.write_bytes(changed)
    for writable in (False, True):
        with Memory.open(path, encoder.identity(), encoder, writable=writable) as memory:
            assert_close(answers(memory, tokenizer), naive_answers(memory, tokenizer))
    assert derived(path) == names


def test_files_of_another_history_are_not_taken(tmp_path, ids, encoder, tokenizer):
    for name, told in (("a", ids), ("b", ids[::-1].copy())):
        with memory_of(encoder, told, tmp_path / name) as memory:
            answers(memory, tokenizer)
    for file in (tmp_path / "a" / "derived").iterdir():
        (tmp_path / "b" / "derived" / file.name).write_bytes(file.read_bytes())
    with Memory.open(tmp_path / "b", encoder.identity(), encoder, writable=True) as memory:
        assert_close(answers(memory, tokenizer), naive_answers(memory, tokenizer))


def test_forgetting_takes_the_files_and_what_was_mapped_and_the_index_is_made_anew(
    tmp_path, ids, encoder, tokenizer
):
    path = tmp_path / "m"
    with memory_of(encoder, ids, path) as memory:
        indexes = AddressIndex.of(memory), WordIndex.of(memory, tokenizer)
        small = both(memory, tokenizer)
        answers(memory, tokenizer, small)
        kept = [file.read_bytes() for file in (path / "derived").iterdir()]
        assert kept and indexes[0].num_blocks == 101
        forget_span(memory, 3 * K, 90 * K, FILLER)
        assert derived(path) == [] and not (path / "derived").exists()
        assert all(index.num_blocks == 0 for index in indexes), "they let go at once"
        with pytest.raises(StaleGistError, match="holes"):
            answers(memory, tokenizer, small)
        refresh.sweep(memory, 1, encoder)
        assert_close(answers(memory, tokenizer, small), naive_answers(memory, tokenizer))
        assert derived(path) and all(file.read_bytes() not in kept for file in (path / "derived").iterdir())


def test_a_reader_drops_what_was_forgotten_at_its_next_question(tmp_path, ids, encoder, tokenizer):
    path = tmp_path / "m"
    with memory_of(encoder, ids, path) as memory:
        reader = memory.reading(1)
        indexes = both(reader, tokenizer)
        answers(reader, tokenizer, indexes)
        assert indexes[1].scores(["quince"]).any()
        forget_span(memory, 0, len(ids), FILLER)
        refresh.sweep(memory, 1, encoder)
        assert_close(answers(reader, tokenizer, indexes), naive_answers(memory, tokenizer))
        assert not indexes[1].scores(["quince"]).any()


def test_files_that_survived_a_forgetting_are_not_taken_and_removed(tmp_path, ids, encoder, tokenizer):
    path = tmp_path / "m"
    with memory_of(encoder, ids, path) as memory:
        answers(memory, tokenizer)
        kept = {file.name: file.read_bytes() for file in (path / "derived").iterdir()}
        forget_span(memory, 3 * K, 90 * K, FILLER)
        refresh.sweep(memory, 1, encoder)
    # As a backup would bring them back.
    (path / "derived").mkdir()
    for name, raw in kept.items():
        (path / "derived" / name).write_bytes(raw)
    (path / "derived" / "words-0-256.segment").write_bytes(b"of a longer history")
    (path / "derived" / "words-0-4.segment.tmp").write_bytes(b"cut off while it was written")
    for writable in (False, True):
        with Memory.open(path, encoder.identity(), encoder, writable=writable) as memory:
            assert_close(answers(memory, tokenizer), naive_answers(memory, tokenizer))
    assert derived(path) == sorted(kept)
    assert all((path / "derived" / name).read_bytes() != raw for name, raw in kept.items())


def test_compaction_takes_the_files_too(tmp_path, ids, encoder, tokenizer):
    with memory_of(encoder, ids, tmp_path / "m") as memory:
        before = answers(memory, tokenizer)
        compact(memory)
        assert derived(tmp_path / "m") == []
        for one, other in zip(before, answers(memory, tokenizer), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_memory_has_one_index_of_a_kind(ids, encoder, tokenizer):
    memory = memory_of(encoder, ids)
    assert AddressIndex.of(memory) is AddressIndex.of(memory)
    assert WordIndex.of(memory, tokenizer) is WordIndex.of(memory, tokenizer)
    memory.append(ids)
    assert AddressIndex.of(memory).num_blocks == memory.num_blocks
