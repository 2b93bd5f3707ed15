"""Facts about memories on disk: crashes, damage, growth, and several processes at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import lmdb
import numpy as np
import pytest
from tree_fakes import ArithmeticEncoder, assert_same, everything, identity_of, random_ids

from megacontext.errors import CorruptRecordError, TreeFormatError
from megacontext.tree import Memory
from megacontext.tree.records import META, node_keys, seal

PRELUDE = f"""
import sys, time
sys.path[:0] = [{str(Path(__file__).parents[2])!r}, {str(Path(__file__).parent)!r}]
from tree_fakes import *
from megacontext.tree import Memory
from megacontext.errors import MegaContextError
encoder = ArithmeticEncoder()
path = sys.argv[1]
"""
APPEND_FOREVER = """
with Memory.create(path, identity_of(encoder), encoder, map_bytes=1 << 16) as memory:
    ids = random_ids(200_000)
    while memory.num_tokens < len(ids):
        memory.append(ids[memory.num_tokens : memory.num_tokens + 117])
        print(memory.num_tokens, flush=True)
"""


def process(script, path):
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def stored(path, count):
    encoder = ArithmeticEncoder()
    with Memory.create(path, identity_of(encoder), encoder) as memory:
        memory.append(random_ids(count))
    return path


@pytest.mark.parametrize("delay_s", [0.0, 0.02, 0.07, 0.15])
def test_a_killed_writer_loses_no_acknowledged_token(delay_s, tmp_path, encoder, identity):
    writer = process(APPEND_FOREVER, tmp_path / "m")
    acknowledged = int(writer.stdout.readline())
    time.sleep(delay_s)
    writer.send_signal(signal.SIGKILL)
    acknowledged = max([acknowledged, *(int(line) for line in writer.stdout.read().split("\n")[:-1])])
    writer.wait()
    # The next writer is let in at once, whatever the lock file says, and goes on from there.
    with Memory.open(tmp_path / "m", identity, encoder, writable=True) as memory:
        kept = memory.num_tokens
        assert kept >= acknowledged
        memory.append(random_ids(200_000)[kept : kept + 1000])
        survived = everything(memory)
    whole = Memory.create(None, identity, encoder)
    whole.append(random_ids(200_000)[: kept + 1000])
    assert_same(survived, everything(whole))


def test_a_reader_in_another_process_follows_a_writer(tmp_path, encoder, identity):
    reading = """
    with Memory.open(path, identity_of(encoder)) as memory:
        ids, seen = random_ids(120_000), []
        while not seen or seen[-1] < len(ids):
            count = memory.num_tokens
            assert not seen or count >= seen[-1]
            assert (memory.tokens(max(0, count - 999), count) == ids[max(0, count - 999) : count]).all()
            blocks = memory.num_blocks
            assert len(memory.addresses()) >= blocks
            memory.gists(1, range(max(0, blocks - 40), blocks))
            if memory.count(2):
                memory.gists(2, range(memory.count(2)))
            if not seen:
                print("ready", flush=True)
            if not seen or count > seen[-1]:
                seen.append(count)
        print(len(seen))
    """
    ids = random_ids(120_000)
    # A map of 64 KiB: the reader meets a dozen growths on the way.
    with Memory.create(tmp_path / "m", identity, encoder, map_bytes=1 << 16) as memory:
        memory.append(ids[:10])
        reader = process("if True:" + reading, tmp_path / "m")
        assert reader.stdout.readline() == "ready\n"
        for stop in range(700, 120_001, 700):
            memory.append(ids[memory.num_tokens : stop])
        memory.append(ids[memory.num_tokens :])
        output, _ = reader.communicate(timeout=60)
    assert reader.returncode == 0, output
    assert int(output) > 5


def test_a_second_writer_is_told_the_process_that_writes(tmp_path, encoder, identity):
    script = """
    try:
        Memory.open(path, identity_of(encoder), encoder, writable=True)
    except MegaContextError as error:
        print(error)
    """
    with Memory.create(tmp_path / "m", identity, encoder):
        refused, _ = process("if True:" + script, tmp_path / "m").communicate(timeout=30)
        assert f"is being written by process {os.getpid()}; wait for it, or open" in refused
        with pytest.raises(TreeFormatError, match=f"process {os.getpid()}"):
            Memory.open(tmp_path / "m", identity, encoder, writable=True)
    Memory.open(tmp_path / "m", identity, encoder, writable=True).close()


def test_a_memory_opened_twice_in_one_process_says_so(tmp_path, identity):
    stored(tmp_path / "m", 10)
    with Memory.open(tmp_path / "m", identity), pytest.raises(TreeFormatError, match="open already"):
        Memory.open(tmp_path / "m", identity)
    Memory.open(tmp_path / "m", identity).close()


@pytest.mark.parametrize("map_bytes", [1 << 16, 1 << 17])
def test_a_tiny_map_grows_without_anybody_noticing(map_bytes, tmp_path, encoder, identity):
    ids = random_ids(32 * 3000)
    with Memory.create(tmp_path / "m", identity, encoder, map_bytes=map_bytes) as memory:
        memory.append(ids[:5])
        memory.append(ids[5:])
        held = everything(memory)
        assert memory.store_bytes > 8 * map_bytes / 2
    with Memory.open(tmp_path / "m", identity, encoder, writable=True, map_bytes=map_bytes) as memory:
        memory.append([1])
        np.testing.assert_array_equal(memory.tokens(0, len(ids)), ids)
        assert_same({**everything(memory), "tokens": ids}, held)


def flip(path, needle, offset=0):
    """Change one bit of the data file, inside the only place that holds `needle`."""
    raw = bytearray((path / "tree-1.mdb").read_bytes())
    assert raw.count(needle) == 1
    raw[raw.index(needle) + offset] ^= 4
    (path / "tree-1.mdb").write_bytes(raw)


def needles(path, identity):
    with Memory.open(path, identity) as memory:
        return {
            "tokens": memory.tokens(32 * 20, 32 * 21).astype("<u2").tobytes(),
            "gists": memory.gists(1, [20]).astype("<f2").tobytes(),
            "parents": memory.gists(2, [0]).astype("<f2").tobytes(),
            "addresses": memory.addresses()[20].astype("<f2").tobytes(),
            "tail": memory.tokens(32 * 40, 32 * 40 + 7).astype("<i4").tobytes(),
        }


@pytest.mark.parametrize(
    ("part", "ask"),
    [
        ("tokens", lambda m: m.tokens(32 * 19, 32 * 21)),
        ("tokens", lambda m: m.blocks([3, 20])),
        ("gists", lambda m: m.gists(1, range(40))),
        ("parents", lambda m: m.gists(2, [0])),
        ("addresses", lambda m: m.addresses()),
        ("tail", lambda m: m.tokens(0, 32 * 40 + 7)),
    ],
)
def test_a_flipped_bit_is_found_when_its_record_is_read(part, ask, tmp_path, identity):
    path = stored(tmp_path / "m", 32 * 40 + 7)
    needle = needles(path, identity)[part]
    for offset in (0, len(needle) - 1):
        flip(path, needle, offset)
        with pytest.raises(CorruptRecordError, match="checksum"), Memory.open(path, identity) as memory:
            ask(memory)
        flip(path, needle[:offset] + bytes([needle[offset] ^ 4]) + needle[offset + 1 :], offset)
    with Memory.open(path, identity) as memory:
        ask(memory)


def key_of(index, lod=1):
    return node_keys(lod, np.array([index]), 32)[0]


def rewrite(path, table, change):
    """Edit records behind the memory's back: `change` gets a transaction of that table."""
    environment = lmdb.open(str(path / "tree-1.mdb"), subdir=False, max_dbs=20)
    with environment.begin(write=True, db=environment.open_db(table)) as transaction:
        change(transaction)
    environment.close()


def test_records_swapped_between_keys_are_found(tmp_path, identity):
    path = stored(tmp_path / "m", 32 * 40)
    first, second = key_of(3), key_of(4)

    def swap(transaction):
        values = transaction.get(first), transaction.get(second)
        transaction.put(first, values[1])
        transaction.put(second, values[0])

    rewrite(path, b"tokens", swap)
    with Memory.open(path, identity) as memory, pytest.raises(CorruptRecordError, match=first.hex()):
        memory.tokens(0, 640)


def test_missing_and_shortened_records_are_found(tmp_path, identity):
    path = stored(tmp_path / "m", 32 * 40)
    rewrite(path, b"gists.1", lambda t: t.delete(key_of(5)))
    rewrite(path, b"addresses.1", lambda t: t.put(key_of(5), b"short"))
    rewrite(path, b"tokens", lambda t: t.put(key_of(5), b""))
    with Memory.open(path, identity) as memory:
        assert memory.gists(1, [4, 6]).shape == (2, 6)
        with pytest.raises(CorruptRecordError, match="missing"):
            memory.gists(1, range(40))
        with pytest.raises(CorruptRecordError, match="equally long"):
            memory.addresses()
        with pytest.raises(CorruptRecordError, match="64 or 128 bytes"):
            memory.tokens(0, 640)


@pytest.mark.parametrize("content", [None, b"", b"no database" * 2000])
def test_what_is_no_memory_is_refused_with_a_sentence(content, tmp_path, identity):
    if content is not None:
        (tmp_path / "tree-1.mdb").write_bytes(content)
        (tmp_path / "current").write_text("tree-1.mdb")
    for writable in (False, True):
        with pytest.raises(TreeFormatError, match=str(tmp_path)):
            Memory.open(tmp_path, identity, ArithmeticEncoder(), writable=writable)
    with pytest.raises(TreeFormatError, match="check the path"):
        Memory.open(tmp_path / "nowhere", identity)
    assert not (tmp_path / "nowhere").exists()


def test_a_memory_of_another_format_or_never_finished_is_refused(tmp_path, identity):
    path = stored(tmp_path / "m", 10)
    rewrite(path, b"meta", lambda t: t.put(b"format", seal(META, b"format", b'{"format": 3}')))
    with pytest.raises(TreeFormatError, match=r"format 2, .* has 3"):
        Memory.open(path, identity)
    rewrite(path, b"meta", lambda t: t.delete(b"format"))
    with pytest.raises(TreeFormatError, match="must say how it was made"):
        Memory.open(path, identity)


def test_reading_leaves_the_data_file_as_it_is(tmp_path, identity):
    path = stored(tmp_path / "m", 32 * 40 + 7)
    before = (path / "tree-1.mdb").read_bytes()
    with Memory.open(path, identity) as memory:
        everything(memory)
    assert (path / "tree-1.mdb").read_bytes() == before
