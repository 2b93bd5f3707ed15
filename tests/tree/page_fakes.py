"""Data files of LMDB's to be looked at page by page: healthy ones of many shapes, their anatomy, and damage to them."""

import os
import random
import struct
from pathlib import Path
from typing import NamedTuple

import lmdb
import numpy as np

from megacontext.tree.page_file import Meta, Pages, Tree, read_metas

PAGE = 4096
NUMBERED = tuple(struct.pack(">Q", number) for number in range(4000))


def environment(file, **options):
    """The file opened by LMDB, without syncs: nobody pulls the plug here."""
    options = dict(subdir=False, max_dbs=16, map_size=1 << 27, sync=False, metasync=False) | options
    return lmdb.open(os.fspath(file), **options)


def write(file, *transactions):
    """Each of `transactions` is a function of an environment and of a write transaction that it is to use."""
    opened = environment(file)
    for change in transactions:
        with opened.begin(write=True) as transaction:
            change(opened, transaction)
    opened.close()
    Path(f"{file}-lock").unlink()
    return file


def puts(table, keys, value_bytes, seed=0):
    """A transaction that puts random values of that length, in the order of the keys."""

    def change(opened, transaction):
        rng = np.random.default_rng(seed)
        handle = opened.open_db(table.encode(), transaction)
        for key in keys:
            transaction.put(key, rng.bytes(value_bytes), db=handle)

    return change


def deletes(table, keys):
    def change(opened, transaction):
        handle = opened.open_db(table.encode(), transaction)
        for key in keys:
            assert transaction.delete(key, db=handle)

    return change


def drops(table):
    return lambda opened, transaction: transaction.drop(opened.open_db(table.encode(), transaction))


def contents(file):
    """Every record of every table, in order, and what LMDB says of the tables, read by LMDB."""
    opened = environment(file, readonly=True, lock=False)
    records, stats = {}, {}
    with opened.begin() as transaction:
        for name in [bytes(name) for name in transaction.cursor().iternext(values=False)]:
            handle = opened.open_db(name, transaction, create=False)
            records[name.decode()] = [(bytes(k), bytes(v)) for k, v in transaction.cursor(handle)]
            stats[name.decode()] = transaction.stat(handle)
    opened.close()
    return records, stats


def rich(file):
    """Two levels of small records, big values, short keys of all lengths, a dropped table, and a free list."""
    shuffled = random.Random(1).sample(NUMBERED[:600], 600)
    return write(
        file,
        puts("blocks", NUMBERED[:1500], 68),
        puts("big", NUMBERED[:7], 3000),
        puts("big", NUMBERED[7:12], 20_000),
        puts("shuffled", shuffled, 40),
        puts("short", [b"%d" % number for number in range(30)], 11),
        puts("gone", NUMBERED[:200], 200),
        drops("gone"),
        deletes("blocks", NUMBERED[100:160]),
        puts("blocks", NUMBERED[700:702], 69),
    )


class Anatomy(NamedTuple):
    """Where things are in a `rich` file: pages by number, the metas by page."""

    meta: Meta
    older: Meta
    main: int
    trees: dict[str, Tree]
    leaves: list[int]
    big_leaf: int
    overflow: int
    runs: dict[int, int]
    """Pages of each big value, by the first."""
    free_leaf: int
    newest_free_page: int


def anatomy(file) -> Anatomy:
    _, metas = read_metas(file)
    older, meta = sorted(metas, key=lambda meta: meta.txn_id)
    pages = Pages(file, PAGE)
    nodes = {bytes(key): value for key, value, _ in leaf_nodes(pages, meta.main.root)}
    trees = {key.decode(): Tree.read(value) for key, value in nodes.items()}
    assert trees["blocks"].depth == 2 and trees["big"].depth == 1 and meta.free.depth == 1
    leaves = [child for child, _ in branch_nodes(pages, trees["blocks"].root)]
    big = trees["big"].root
    firsts = [int.from_bytes(value, "little") for _, value, _ in leaf_nodes(pages, big)]
    runs = {first: int.from_bytes(pages.slice(first * PAGE + 12, 4), "little") for first in firsts}
    *_, (_, freed, _) = leaf_nodes(pages, meta.free.root)
    newest_free = int.from_bytes(freed[8:16], "little")
    return Anatomy(
        meta, older, meta.main.root, trees, leaves, big, firsts[0], runs, meta.free.root, newest_free
    )


def node_offsets(pages, page):
    lower = struct.unpack("<H", pages.slice(page * PAGE + 12, 2))[0]
    return [page * PAGE + int(p) for p in pages.halves[page * PAGE // 2 + 8 : page * PAGE // 2 + lower // 2]]


def leaf_nodes(pages, page):
    """Key, value or overflow page, and offset of each node."""
    for at in node_offsets(pages, page):
        length, flags, key_bytes = struct.unpack("<IHH", pages.slice(at, 8))
        value = pages.slice(at + 8 + key_bytes, 8 if flags & 1 else length)
        yield pages.slice(at + 8, key_bytes), value, at


def branch_nodes(pages, page):
    """Child and offset of each node."""
    for at in node_offsets(pages, page):
        low, high, _ = struct.unpack("<IHH", pages.slice(at, 8))
        yield low | high << 32, at


def random_damage(raw: bytearray, rng: random.Random) -> None:
    """Change a data file somewhere, most often where LMDB would mind."""
    count = len(raw) // PAGE
    if not count:
        return
    page = rng.randrange(count) * PAGE
    kind = rng.randrange(8)
    if kind == 0:
        raw[page : page + PAGE] = bytes(PAGE)
    elif kind == 1:
        other = rng.randrange(count) * PAGE
        raw[page : page + PAGE], raw[other : other + PAGE] = (
            raw[other : other + PAGE],
            raw[page : page + PAGE],
        )
    elif kind == 2:
        other = rng.randrange(count) * PAGE
        raw[page : page + PAGE] = raw[other : other + PAGE]
    elif kind == 3:
        del raw[rng.choice([page, rng.randrange(len(raw))]) :]
    else:
        for _ in range(rng.choice([1, 1, 1, 2, 5])):
            raw[_place(raw, page, kind, rng)] ^= 1 << rng.randrange(8)


def _place(raw: bytearray, page: int, kind: int, rng: random.Random) -> int:
    """Offset of a byte: anywhere in the file, in a page's header and pointers, in a node's header, in a meta page."""
    if kind == 4:
        return rng.randrange(len(raw))
    if kind == 5:
        return page + rng.randrange(40)
    if kind == 6:
        (lower,) = struct.unpack_from("<H", raw, page + 12)
        slots = range(16, min(lower, PAGE - 2), 2)
        (node,) = struct.unpack_from("<H", raw, page + rng.choice(slots or [16]))
        return min(page + node + rng.randrange(24), len(raw) - 1)
    return min(rng.randrange(2) * PAGE + 8 + rng.randrange(144), len(raw) - 1)
