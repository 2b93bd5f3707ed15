"""Facts about checking LMDB's pages without LMDB: healthy files pass, every kind of damage is found, and what passes
does the library no harm."""

import contextlib
import os
import random
import re
import signal
import struct
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from page_fakes import (
    NUMBERED,
    PAGE,
    anatomy,
    contents,
    deletes,
    drops,
    environment,
    leaf_nodes,
    puts,
    random_damage,
    rich,
    write,
)

from megacontext.errors import CorruptRecordError, MegaContextError, TreeFormatError
from megacontext.tree.page_file import NO_PAGE, Pages
from megacontext.tree.pages import SnapshotGone, check_metas, check_pages


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Bytes and anatomy of a `rich` file."""
    file = rich(tmp_path_factory.mktemp("rich") / "data")
    return file.read_bytes(), anatomy(file), Pages(file, PAGE)


def as_lmdb_counts(report):
    return {
        use.name: {
            "psize": report.page_bytes,
            "depth": use.depth,
            "branch_pages": use.branch_pages,
            "leaf_pages": use.leaf_pages,
            "overflow_pages": use.overflow_pages,
            "entries": use.entries,
        }
        for use in report.tables
    }


def assert_healthy(file):
    check_metas(file)
    report = check_pages(file)
    assert report.ok, report.faults
    records, stats = contents(file)
    assert as_lmdb_counts(report) == stats
    for use in report.tables:
        assert use.record_bytes == sum(len(key) + len(value) for key, value in records[use.name])
        assert use.page_bytes == PAGE * (use.branch_pages + use.leaf_pages + use.overflow_pages)
    return report


@pytest.mark.parametrize("value_bytes", [0, 1, 68, 2030, 3000, 20_000])
@pytest.mark.parametrize("count", [0, 1, 2, 31, 32, 33, 400])
def test_a_healthy_file_is_counted_as_lmdb_counts_it(count, value_bytes, tmp_path):
    report = assert_healthy(write(tmp_path / "data", puts("one", NUMBERED[:count], value_bytes)))
    assert [use.entries for use in report.tables] == [count]


def test_a_deep_tree_of_random_keys_is_counted_as_lmdb_counts_it(tmp_path):
    rng = random.Random(3)
    keys = [rng.randbytes(rng.choice([1, 9, 32, 500, 510, 511, 511])) for _ in range(3000)]
    file = write(tmp_path / "data", puts("wide", keys[:2000], 300), puts("wide", keys[2000:], 5))
    assert assert_healthy(file).tables[0].depth >= 4


def test_keys_that_begin_alike_are_in_order(tmp_path):
    keys = [b"a", b"a\0", b"a\0\0\0\0\0\0\0", b"a\0\0\0\0\0\0\0\0", b"a\0\0\0\0\0\0\0\1", b"a\1", b"ab", b"b"]
    assert_healthy(write(tmp_path / "data", puts("one", keys, 3)))


@pytest.mark.parametrize(
    "changes",
    [
        [deletes("one", NUMBERED[:1000])],
        [deletes("one", NUMBERED[:999])],
        [deletes("one", NUMBERED[100:900:3]), puts("one", NUMBERED[100:900:3], 2500)],
        [drops("one")],
        [drops("one"), puts("two", NUMBERED[:10], 100)],
        [puts("one", NUMBERED[:1000], 69)],
        [puts("two", [b"x"], 50_000), puts("two", [b"x"], 10), puts("two", [b"x"], 9000)],
    ],
)
def test_a_file_stays_healthy_through_changes(changes, tmp_path):
    file = write(tmp_path / "data", puts("one", NUMBERED[:1000], 68), *changes)
    assert assert_healthy(file).free_pages > 0


def test_a_file_without_a_commit_is_healthy(tmp_path):
    environment(tmp_path / "data").close()
    report = assert_healthy(tmp_path / "data")
    assert (report.num_pages, report.txn_id, report.tables) == (2, 0, ())


def test_a_file_may_end_before_pages_that_were_never_written(tmp_path):
    def takes_and_gives_back(opened, transaction):
        handle = opened.open_db(b"one", transaction)
        transaction.put(b"stays", bytes(50_000), db=handle)
        transaction.put(b"goes", bytes(90_000), db=handle)
        transaction.delete(b"goes", db=handle)

    before = [puts("one", NUMBERED[:3], 5 + length) for length in range(5)]
    file = write(tmp_path / "data", *before, takes_and_gives_back)
    report = assert_healthy(file)
    assert report.file_bytes < report.num_pages * PAGE


def test_a_value_may_own_more_pages_than_it_fills(tmp_path):
    def shrinks(opened, transaction):
        handle = opened.open_db(b"one", transaction)
        transaction.put(b"big", bytes(50_000), db=handle)
        transaction.put(b"big", b"small", db=handle)

    report = assert_healthy(write(tmp_path / "data", shrinks))
    assert report.tables[0].overflow_pages == 13 and report.tables[0].record_bytes == 8


def test_a_compacted_copy_is_healthy(tmp_path):
    opened = environment(rich(tmp_path / "data"))
    with open(tmp_path / "copy", "wb") as copy:
        opened.copyfd(copy.fileno(), compact=True)
    opened.close()
    assert assert_healthy(tmp_path / "copy").free_pages == 0


def random_history(file, seed, commits, on_commit):
    """Random puts, deletes and drops; `on_commit` gets each transaction that reads what was committed."""
    rng = random.Random(seed)
    opened = environment(file)
    lengths = rng.choice([[8], [9], [1, 8, 20, 32], [100, 511]])
    for _ in range(commits):
        with opened.begin(write=True) as transaction:
            for _ in range(rng.choice([1, 3])):
                handle = opened.open_db(rng.choice([b"a", b"b", b"c"]), transaction)
                keys = [bytes(key) for key in transaction.cursor(handle).iternext(values=False)]
                count, act = rng.choice([1, 3, 40, 300]), rng.random()
                if act < 0.08:
                    transaction.drop(handle, delete=rng.random() < 0.5)
                elif act < 0.35:
                    for key in rng.sample(keys, min(count, len(keys))):
                        transaction.delete(key, db=handle)
                else:
                    for _ in range(count):
                        size = rng.choice([0, 1, 20, 68, 260, 2040] if count > 3 else [10, 3000, 20_000])
                        transaction.put(rng.randbytes(rng.choice(lengths)), rng.randbytes(size), db=handle)
        with opened.begin() as transaction:
            on_commit(transaction)
    opened.close()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_history_of_writes_looks_like_damage(seed):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data"

        def check(transaction):
            check_metas(file)
            report = check_pages(file, transaction.id())
            assert report.ok, report.faults

        random_history(file, seed, commits=12, on_commit=check)
        assert_healthy(file)


def put(form, offset, value):
    """Damage: a number of that `struct` form written over what is at the offset."""
    return lambda raw: struct.pack_into("<" + form, raw, offset, value)


def xor(offset, bits):
    def flip(raw):
        raw[offset] ^= bits

    return flip


def nodes(at, pages, page):
    """Offset of node number `at` of a page."""
    return page * PAGE + struct.unpack("<H", pages.slice(page * PAGE + 16 + 2 * at, 2))[0]


PAGE_DAMAGE = {
    "own number": (lambda a, p: put("Q", a.leaves[3] * PAGE, 9), "calls itself page 9"),
    "flags": (lambda a, p: xor(a.leaves[3] * PAGE + 10, 0x10), "flags are 0x12 in place of 0x2"),
    "a leaf for a branch": (lambda a, p: put("H", a.trees["blocks"].root * PAGE + 10, 2), "flags are 0x2"),
    "lower bound beyond the page": (
        lambda a, p: put("H", a.leaves[3] * PAGE + 12, 65_534),
        "free space goes from",
    ),
    "lower bound in the header": (lambda a, p: put("H", a.leaves[3] * PAGE + 12, 4), "free space goes from"),
    "odd lower bound": (lambda a, p: xor(a.leaves[3] * PAGE + 12, 1), "free space goes from"),
    "no node": (lambda a, p: put("H", a.leaves[3] * PAGE + 12, 16), "free space goes from"),
    "a node fewer": (lambda a, p: xor(a.leaves[3] * PAGE + 12, 2), "overlap or leave gaps|begins at byte"),
    "upper bound": (lambda a, p: xor(a.leaves[3] * PAGE + 14, 2), "begins at byte|leave gaps|goes from"),
    "pointer at the end": (lambda a, p: put("H", a.leaves[3] * PAGE + 20, 4094), "begins at byte 4094"),
    "pointer in the header": (lambda a, p: put("H", a.leaves[3] * PAGE + 20, 8), "begins at byte 8"),
    "odd pointer": (lambda a, p: xor(a.leaves[3] * PAGE + 20, 1), "begins at byte"),
    "pointer to another": (
        lambda a, p: put("H", a.leaves[3] * PAGE + 20, nodes(5, p, a.leaves[3]) % PAGE),
        "overlap or leave gaps",
    ),
    "long value": (lambda a, p: put("I", nodes(2, p, a.leaves[3]), 60_000), "value of 60000 bytes"),
    "huge value": (lambda a, p: put("I", nodes(2, p, a.leaves[3]), 2**32 - 1), "value of 4294967295 bytes"),
    "value over the end": (lambda a, p: put("I", nodes(0, p, a.leaves[3]), 1000), "ends at byte"),
    "value into the next": (lambda a, p: put("I", nodes(2, p, a.leaves[3]), 70), "overlap or leave gaps"),
    "no key": (lambda a, p: put("H", nodes(2, p, a.leaves[3]) + 6, 0), "a key of 0 bytes"),
    "long key": (lambda a, p: put("H", nodes(2, p, a.leaves[3]) + 6, 512), "a key of 512 bytes"),
    "duplicates": (lambda a, p: put("H", nodes(2, p, a.leaves[3]) + 4, 4), "a node with flags 0x4"),
    "a table among records": (
        lambda a, p: put("H", nodes(2, p, a.leaves[3]) + 4, 2),
        "a node with flags 0x2",
    ),
    "keys out of order": (lambda a, p: put("Q", nodes(2, p, a.leaves[3]) + 8, NO_PAGE), "key 2 is not below"),
    "child out of the file": (
        lambda a, p: put("I", nodes(3, p, a.trees["blocks"].root), 10**9),
        "leads to page 1000000000, which the snapshot does not have",
    ),
    "child among the metas": (
        lambda a, p: put("I", nodes(3, p, a.trees["blocks"].root), 1),
        "leads to page 1, which the snapshot does not have",
    ),
    "a circle": (
        lambda a, p: put("I", nodes(3, p, a.trees["blocks"].root), a.trees["blocks"].root),
        "leads to it, and so does another",
    ),
    "a shared page": (
        lambda a, p: put("I", nodes(3, p, a.trees["blocks"].root), a.leaves[4]),
        "leads to it, and so does another",
    ),
    "a page of another table": (
        lambda a, p: put("I", nodes(3, p, a.trees["blocks"].root), a.trees["short"].root),
        "first key lies below|last key lies above|so does another|count",
    ),
    "low separator": (
        lambda a, p: put("B", nodes(3, p, a.trees["blocks"].root) + 15, 0),
        "is not below the next|last key lies above",
    ),
    "high separator": (
        lambda a, p: xor(nodes(3, p, a.trees["blocks"].root) + 14, 1),
        "first key lies below|last key lies above|not below the next",
    ),
    "value's page out of the file": (
        lambda a, p: put("Q", nodes(0, p, a.big_leaf) + 16, 10**6),
        "a value on page 1000000, which is not there",
    ),
    "value's page a leaf": (
        lambda a, p: put("Q", nodes(0, p, a.big_leaf) + 16, a.leaves[0]),
        "where page .* has a value of 3000 bytes",
    ),
    "value's page of another": (
        lambda a, p: put("Q", nodes(0, p, a.big_leaf) + 16, a.overflow + 1),
        "leads to it, and so does another|has a value of 3000 bytes",
    ),
    "value longer than its pages": (
        lambda a, p: put("I", nodes(0, p, a.big_leaf), 5000),
        "where page .* has a value of 5000 bytes",
    ),
    "overflow number": (lambda a, p: put("Q", a.overflow * PAGE, 3), "calls itself page 3 of 1"),
    "overflow flags": (lambda a, p: put("H", a.overflow * PAGE + 10, 2), "flags 0x2, where page"),
    "no overflow pages": (lambda a, p: put("I", a.overflow * PAGE + 12, 0), "of 0, flags 0x4"),
    "too many overflow pages": (lambda a, p: put("I", a.overflow * PAGE + 12, 2**31), "of 2147483648, flags"),
    "one overflow page more": (
        lambda a, p: put("I", a.overflow * PAGE + 12, 2),
        "so does another|counts|on the free",
    ),
    "depth": (lambda a, p: put("H", table_record(a, p, "blocks") + 6, 3), "flags are 0x2 in place of 0x1"),
    "lesser depth": (
        lambda a, p: put("H", table_record(a, p, "blocks") + 6, 1),
        "flags are 0x1 in place of 0x2",
    ),
    "no depth": (lambda a, p: put("H", table_record(a, p, "blocks") + 6, 0), "blocks is 0 pages deep"),
    "endless depth": (lambda a, p: put("H", table_record(a, p, "blocks") + 6, 33), "blocks is 33 pages deep"),
    "table's flags": (lambda a, p: put("H", table_record(a, p, "blocks") + 4, 4), "blocks has the flags 0x4"),
    "table's key length": (lambda a, p: put("I", table_record(a, p, "blocks"), 8), "keys of 8 bytes"),
    "entries": (lambda a, p: put("Q", table_record(a, p, "blocks") + 32, 1441), "LMDB counts"),
    "leaf pages": (lambda a, p: xor(table_record(a, p, "blocks") + 16, 1), "LMDB counts"),
    "all pages": (lambda a, p: put("Q", table_record(a, p, "blocks") + 16, 2**60), "blocks counts"),
    "table's root": (
        lambda a, p: put("Q", table_record(a, p, "blocks") + 40, 10**7),
        "begins at page 10000000",
    ),
    "table without a root": (
        lambda a, p: put("Q", table_record(a, p, "blocks") + 40, NO_PAGE),
        "is empty, yet counts pages or entries",
    ),
    "table for a record": (
        lambda a, p: put("H", table_record(a, p, "blocks") - 10, 0),
        "a node with flags 0x0",
    ),
    "free page in use": (
        lambda a, p: put("Q", free_record(a, p) + 8, max(a.leaves)),
        "in use and on the free list at once",
    ),
    "free page out of the file": (
        lambda a, p: put("Q", free_record(a, p) + 8, 10**6),
        "free pages that the snapshot does not have",
    ),
    "free page of another transaction": (
        lambda a, p: put("Q", free_record(a, p) + 8, a.newest_free_page),
        "on the free list twice",
    ),
    "free pages in disorder": (
        lambda a, p: put("Q", free_record(a, p) + 8, 2),
        "not in descending order",
    ),
    "free meta page": (
        lambda a, p: put("Q", free_record(a, p) + 8, 0),
        "it lists free pages that the snapshot does not have",
    ),
    "many free pages": (lambda a, p: put("Q", free_record(a, p), 10**6), "lists 1000000 free pages"),
    "few free pages": (lambda a, p: put("Q", free_record(a, p), 1), "lists 1 free pages"),
    "freed in the future": (
        lambda a, p: put("Q", free_record(a, p) - 8, 10**6),
        "which is still to come|not below the next",
    ),
    "freed at no time": (lambda a, p: put("Q", free_record(a, p) - 8, 0), "freed by transaction 0"),
}


def table_record(where, pages, name):
    """Offset of the record of a table."""
    return next(at + 8 + len(key) for key, _, at in leaf_nodes(pages, where.main) if key == name.encode())


def free_record(where, pages):
    """Offset of the value of the first record of the free list."""
    return nodes(0, pages, where.free_leaf) + 16


@pytest.mark.parametrize("name", PAGE_DAMAGE)
def test_damage_to_a_page_is_found(name, sound, tmp_path):
    raw, where, pages = sound
    damage, sentence = PAGE_DAMAGE[name]
    file = tmp_path / "data"
    damaged = bytearray(raw)
    damage(where, pages)(damaged)
    file.write_bytes(damaged)
    check_metas(file)
    report = check_pages(file)
    assert not report.ok
    assert any(re.search(sentence, fault.what) for fault in report.faults), report.faults


def meta_at(where, offset):
    """Offset of a field of the newest meta page."""
    return where.meta.page * PAGE + offset


META_DAMAGE = {
    "own number": (lambda a: put("Q", meta_at(a, 0), 7), "it calls itself page 7"),
    "flags": (lambda a: put("H", meta_at(a, 10), 2), "with flags 0x2, no meta page"),
    "magic": (lambda a: xor(meta_at(a, 16), 1), "its mark is 0xbeefc0df"),
    "version": (lambda a: put("I", meta_at(a, 20), 2), "version 2"),
    "address": (lambda a: put("Q", meta_at(a, 24), 1 << 40), "mapped at the fixed address"),
    "no map": (lambda a: put("Q", meta_at(a, 32), 0), "does not fit its map of 0 bytes"),
    "map too small": (lambda a: put("Q", meta_at(a, 32), 50 * PAGE), "does not fit its map of 204800 bytes"),
    "map too large": (lambda a: put("Q", meta_at(a, 32), 1 << 60), "does not fit its map"),
    "no page size": (lambda a: put("I", meta_at(a, 40), 0), "pages have 0 bytes where they have 4096"),
    "page size": (lambda a: put("I", meta_at(a, 40), 8192), "pages have 8192 bytes where they have 4096"),
    "odd page size": (lambda a: put("I", meta_at(a, 40), 4097), "pages have 4097 bytes where they have 4096"),
    "flags of the free list": (lambda a: xor(meta_at(a, 44), 4), "flags of the free list are 0x400c"),
    "a fixed map": (lambda a: xor(meta_at(a, 44), 1), "flags of the free list are 0x4009"),
    "depth of the free list": (lambda a: put("H", meta_at(a, 46), 99), "its free list is 99 pages deep"),
    "pages of the free list": (lambda a: put("Q", meta_at(a, 56), 1 << 50), "its free list counts"),
    "root of the free list": (lambda a: put("Q", meta_at(a, 80), 1 << 40), "its free list begins at page"),
    "no root of the free list": (
        lambda a: put("Q", meta_at(a, 80), NO_PAGE),
        "its free list is empty, yet counts",
    ),
    "flags of the tables": (lambda a: xor(meta_at(a, 92), 4), "flags of the table of tables are 0x4"),
    "keys of the tables": (lambda a: put("I", meta_at(a, 88), 8), "with keys of 8 bytes"),
    "depth of the tables": (lambda a: put("H", meta_at(a, 94), 0), "its table of tables is 0 pages deep"),
    "root of the tables": (lambda a: put("Q", meta_at(a, 128), 1), "its table of tables begins at page 1,"),
    "last page": (lambda a: put("Q", meta_at(a, 136), 20), "counts|begins at page"),
    "no last page": (lambda a: put("Q", meta_at(a, 136), 0), "its last page 0 does not fit"),
    "last page beyond the map": (lambda a: put("Q", meta_at(a, 136), 1 << 50), "does not fit its map"),
    "transaction": (lambda a: put("Q", meta_at(a, 144), a.meta.txn_id + 1), "belongs on the other meta page"),
    "a later transaction": (
        lambda a: put("Q", meta_at(a, 144), a.meta.txn_id + 2),
        "does not follow the other",
    ),
    "no transaction": (lambda a: put("Q", meta_at(a, 144), 0), "does not follow the other"),
    "older own number": (lambda a: put("Q", a.older.page * PAGE, 7), "it calls itself page 7"),
    "older root": (
        lambda a: put("Q", a.older.page * PAGE + 128, 1 << 40),
        "its table of tables begins at page",
    ),
}


@pytest.mark.parametrize("name", META_DAMAGE)
def test_damage_to_a_meta_page_is_found(name, sound, tmp_path):
    raw, where, _ = sound
    damage, sentence = META_DAMAGE[name]
    damaged = bytearray(raw)
    damage(where)(damaged)
    (tmp_path / "data").write_bytes(damaged)
    with pytest.raises(CorruptRecordError, match=sentence):
        check_metas(tmp_path / "data")
    report = check_pages(tmp_path / "data")
    assert any(re.search(sentence, fault.what) for fault in report.faults), report.faults


def test_a_snapshot_is_read_although_the_older_meta_page_is_damaged(sound, tmp_path):
    raw, where, _ = sound
    damaged = bytearray(raw)
    put("Q", where.older.page * PAGE + 128, 1 << 40)(damaged)
    (tmp_path / "data").write_bytes(damaged)
    report = check_pages(tmp_path / "data")
    assert {fault.page for fault in report.faults} == {where.older.page}
    assert as_lmdb_counts(report).keys() == where.trees.keys()


def test_a_last_page_that_was_raised_or_lowered_is_found(sound, tmp_path):
    raw, where, _ = sound
    for last_page in range(where.meta.last_page + 1, where.meta.last_page + 20):
        damaged = bytearray(raw)
        put("Q", meta_at(where, 136), last_page)(damaged)
        (tmp_path / "data").write_bytes(damaged)
        (fault,) = check_pages(tmp_path / "data").faults
        assert fault.page == where.meta.last_page + 1 and "the file ends before it" in fault.what
    for last_page in range(where.meta.last_page):
        put("Q", meta_at(where, 136), last_page)(damaged)
        (tmp_path / "data").write_bytes(damaged)
        assert not check_pages(tmp_path / "data").ok


def pages_in_use(raw, tmp_path):
    """Pages of a file that its newest snapshot reaches: all but the metas and those on the free list."""
    file = tmp_path / "sound"
    file.write_bytes(raw)
    free = set()
    for _, value, _ in leaf_nodes(Pages(file, PAGE), anatomy(file).free_leaf):
        free |= set(struct.unpack(f"<{len(value) // 8}Q", value)[1:])
    return [page for page in range(2, len(raw) // PAGE) if page not in free]


def test_any_page_zeroed_is_found_unless_it_is_free(sound, tmp_path):
    raw, where, _ = sound
    inside = {page for first, count in where.runs.items() for page in range(first + 1, first + count)}
    for page in pages_in_use(raw, tmp_path):
        damaged = bytearray(raw)
        damaged[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
        (tmp_path / "data").write_bytes(damaged)
        # The later pages of a big value are its bytes and nothing else: for checksums to find.
        assert check_pages(tmp_path / "data").ok == (page in inside)


def test_any_two_tree_pages_swapped_are_found(sound, tmp_path):
    raw, where, _ = sound
    inside = {page for first, count in where.runs.items() for page in range(first + 1, first + count)}
    used = [page for page in pages_in_use(raw, tmp_path) if page not in inside]
    for one, other in pairwise(used):
        damaged = bytearray(raw)
        damaged[one * PAGE : (one + 1) * PAGE] = raw[other * PAGE : (other + 1) * PAGE]
        damaged[other * PAGE : (other + 1) * PAGE] = raw[one * PAGE : (one + 1) * PAGE]
        (tmp_path / "data").write_bytes(damaged)
        assert {fault.page for fault in check_pages(tmp_path / "data").faults} & {one, other}


@pytest.mark.parametrize("lost_bytes", [1, 100, PAGE, 3 * PAGE + 5, 60 * PAGE])
def test_a_file_cut_off_is_found(lost_bytes, sound, tmp_path):
    raw, _, _ = sound
    (tmp_path / "data").write_bytes(raw[:-lost_bytes])
    assert not check_pages(tmp_path / "data").ok


@pytest.mark.parametrize("content", [b"", b"short", bytes(8191), bytes(3 * PAGE), b"no database " * 2000])
def test_what_is_no_file_of_lmdb_is_refused_with_a_sentence(content, tmp_path):
    (tmp_path / "data").write_bytes(content)
    for check in (check_metas, check_pages):
        with pytest.raises(TreeFormatError, match=r"must be LMDB's.* has no meta page; check the path"):
            check(tmp_path / "data")
        with pytest.raises(FileNotFoundError):
            check(tmp_path / "nowhere")


def test_another_version_of_the_format_is_named(sound, tmp_path):
    damaged = bytearray(sound[0])
    put("I", 20, 2)(damaged)
    put("I", PAGE + 20, 2)(damaged)
    (tmp_path / "data").write_bytes(damaged)
    with pytest.raises(TreeFormatError, match=r"format 1, .* is of 2"):
        check_metas(tmp_path / "data")


def test_no_more_faults_are_listed_than_were_asked_for(sound, tmp_path):
    raw, where, _ = sound
    damaged = bytearray(raw)
    for page in where.leaves:
        put("Q", page * PAGE, 0)(damaged)
    (tmp_path / "data").write_bytes(damaged)
    assert len(check_pages(tmp_path / "data", max_faults=5).faults) == 5
    assert len(check_pages(tmp_path / "data", max_faults=100).faults) == len(where.leaves)


def test_a_snapshot_that_is_held_open_is_checked_while_others_write(tmp_path):
    file = write(tmp_path / "data", puts("one", NUMBERED[:500], 68))
    opened = environment(file)
    one = opened.open_db(b"one")
    with opened.begin() as reader:
        before = check_pages(file, reader.id())
        with opened.begin(write=True) as writer:
            writer.drop(one, delete=False)
        report = check_pages(file, reader.id())
        assert report.ok and report.tables == before.tables
        assert check_pages(file).tables[0].entries == 0
        with opened.begin(write=True) as writer:
            writer.put(b"x", b"y", db=one)
        with pytest.raises(SnapshotGone, match=f"names transaction {reader.id()} any more"):
            check_pages(file, reader.id())
    opened.close()


def write_until_killed(file):
    opened = environment(file)
    table = opened.open_db(b"one")
    for number in range(1000, 10**9):
        with opened.begin(write=True, db=table) as transaction:
            transaction.put(struct.pack(">Q", number), bytes(random.choice([68, 5000])))
            transaction.delete(struct.pack(">Q", number - 50))
            transaction.delete(struct.pack(">Q", random.randrange(number)))


def test_a_writer_in_another_process_never_looks_like_damage(tmp_path):
    file = write(tmp_path / "data", puts("one", NUMBERED[:200], 68))
    child = os.fork()
    if child == 0:
        try:
            write_until_killed(file)
        finally:
            os._exit(1)
    try:
        opened = environment(file, readonly=True)
        began, seen = time.monotonic(), set()
        # A second and a half, or as long as a busy machine takes to let the writer come between.
        while (passed := time.monotonic() - began) < 1.5 or (len(seen) <= 5 and passed < 60):
            with opened.begin() as reader:
                try:
                    report = check_pages(file, reader.id())
                except SnapshotGone:
                    continue
            assert report.ok, report.faults
            seen.add(report.txn_id)
        assert len(seen) > 5
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def sources(folder):
    """Small files of several shapes, for damage at random."""
    longer = [number.to_bytes(20, "big") for number in range(60)]
    return [
        rich(folder / "rich").read_bytes(),
        write(folder / "tiny", puts("one", NUMBERED[:5], 68), puts("two", [b"tail"], 9000)).read_bytes(),
        write(
            folder / "wide",
            puts("one", longer, 300),
            puts("one", longer[20:40], 2500),
            deletes("one", longer[5:30]),
        ).read_bytes(),
    ]


@pytest.mark.parametrize("trials", [400, pytest.param(20_000, marks=pytest.mark.long)])
def test_no_damage_makes_the_check_itself_stumble(trials, tmp_path):
    rng, raws, found = random.Random(trials), sources(tmp_path), 0
    for _ in range(trials):
        raw = bytearray(rng.choice(raws))
        for _ in range(rng.choice([1, 1, 3])):
            random_damage(raw, rng)
        (tmp_path / "data").write_bytes(raw)
        try:
            check_metas(tmp_path / "data")
            found += not check_pages(tmp_path / "data").ok
        except MegaContextError:
            found += 1
            with contextlib.suppress(TreeFormatError):
                check_pages(tmp_path / "data")
    assert found > trials / 4


def exercise(file):
    """All that LMDB can be asked to do with a file: read every record in both ways, write, delete, commit."""
    opened = lmdb.open(os.fspath(file), subdir=False, max_dbs=16, map_size=1 << 24)
    with opened.begin() as transaction:
        names = [bytes(name) for name in transaction.cursor().iternext(values=False)]
    tables = [opened.open_db(name, create=False) for name in names]
    for table in tables:
        with opened.begin(db=table) as transaction:
            for key, value in transaction.cursor():
                assert transaction.get(key) == value
    for round_ in range(3):
        with opened.begin(write=True) as transaction:
            for table in tables:
                keys = [bytes(key) for key in transaction.cursor(table).iternext(values=False)]
                transaction.put(b"new key %d" % round_, bytes(random.choice([1, 100, 5000])), db=table)
                for key in keys[round_::7]:
                    assert transaction.delete(key, db=table)
                for key in keys[round_ + 1 :: 9]:
                    transaction.put(key, bytes(120), db=table)
    opened.close()


def survives(file):
    """Whether a process that exercises the file ends, and ends well; a hang ends by SIGALRM."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        code = 1
        try:
            exercise(file)
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("trials", [60, pytest.param(1500, marks=pytest.mark.long)])
def test_what_passes_does_lmdb_no_harm(trials, tmp_path):
    rng, raws, passed = random.Random(trials + 1), sources(tmp_path), 0
    while passed < trials:
        raw = bytearray(rng.choice(raws))
        random_damage(raw, rng)
        file = tmp_path / "data"
        file.write_bytes(raw)
        (tmp_path / "data-lock").unlink(missing_ok=True)
        try:
            check_metas(file)
        except TreeFormatError:
            continue
        if check_pages(file).ok:
            passed += 1
            assert survives(file)
