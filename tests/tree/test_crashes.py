"""Facts about memories whose process is killed, whose disk is full, or whose file is damaged at random."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tree_fakes import ArithmeticEncoder, assert_same, everything, identity_of, random_ids

from megacontext.errors import MegaContextError, StorageError
from megacontext.tree import Memory, refresh
from megacontext.tree.forgetting import compact
from megacontext.tree.repair import repair
from megacontext.tree.verification import verify

LENGTH, FILLER = 400_000, 9
PRELUDE = f"""
import random, sys
sys.path[:0] = [{str(Path(__file__).parents[2])!r}, {str(Path(__file__).parent)!r}]
from tree_fakes import *
from megacontext.tree import Memory, appending, refresh
from megacontext.tree.forgetting import compact, forget_span
from megacontext.errors import MegaContextError
appending.CHUNK_BLOCKS = 64
encoder, other = ArithmeticEncoder(), ArithmeticEncoder(fingerprint="two", left_tokens=3)
path, rng = sys.argv[1], random.Random(int(sys.argv[2]))
memory = Memory.open(path, identity_of(encoder), encoder, writable=True)
ids = random_ids({LENGTH})

def grow(most):
    with memory.document(f"d{{memory.num_tokens}}"):
        told = memory.append(ids[memory.num_tokens : memory.num_tokens + rng.randrange(1, most)])
    print(told.durable_tokens, flush=True)

print(memory.num_tokens, flush=True)
"""
WORK = {
    "ingest": "while memory.num_tokens < len(ids): grow(900)",
    # One transaction a hundred: the kill falls into the middle of large ones.
    "bulk ingest": "while memory.num_tokens < len(ids): grow(9000)",
    "gist building": """
while True:
    number = refresh.add_version(memory, identity_of(other), other).number
    refresh.sweep(memory, number, other)
    refresh.sweep(memory, memory.version.number, encoder)
    refresh.switch(memory, memory.version.number)  # a refresh that was killed may have left the other one active
    refresh.drop_version(memory, number)
    grow(4000)
""",
    "refresh": """
while True:
    for one in (other, encoder):
        number = refresh.add_version(memory, identity_of(one), one).number
        refresh.sweep(memory, number, one)
        refresh.switch(memory, number)
    grow(4000)
""",
    "compact": """
while True:
    grow(2000)
    compact(memory)
""",
    "forget": """
while True:
    grow(2000)
    start = rng.randrange(memory.num_tokens)
    forget_span(memory, start, min(memory.num_tokens, start + rng.randrange(1, 700)), 9)
    refresh.sweep(memory, 1, encoder)
""",
}


def kill_once(path, work, seed, rng):
    """Let a process work on the memory, kill it at a random instant; returns the last length it acknowledged."""
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + WORK[work], str(path), str(seed)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    begun = process.stdout.readline()
    assert begun.strip().isdigit(), begun + process.communicate()[0]
    time.sleep(rng.random() ** 2 * 0.4)
    process.send_signal(signal.SIGKILL)
    lines = [begun, *process.stdout.read().splitlines(keepends=True)]
    process.wait()
    # 0: it was done before the kill.
    assert process.returncode in (-signal.SIGKILL, 0), lines[-20:]
    return max(int(line) for line in lines if line.endswith("\n"))


def check_survivor(path, acknowledged):
    """Every acknowledged token is there, once and in order; gists are those of a new computation; nothing is amiss."""
    encoder = ArithmeticEncoder()
    found = verify(path)
    assert found.ok, found.damages
    with Memory.open(path, identity_of(encoder), encoder, writable=True) as memory:
        assert memory.num_tokens >= acknowledged
        expected = random_ids(LENGTH)[: memory.num_tokens]
        for start, stop in memory.catalogue.forgotten:
            expected[start:stop] = FILLER
        np.testing.assert_array_equal(memory.tokens(0, memory.num_tokens), expected)
        documents = list(memory.documents)
        assert [one.start for one in documents[1:]] == [one.stop for one in documents[:-1]]
        refresh.sweep(memory, memory.version.number, encoder)
        survived = everything(memory)
    whole = Memory.create(None, identity_of(encoder), encoder)
    whole.append(expected)
    assert_same(survived, everything(whole))


def rounds_of_killing(path, rounds, seed):
    rng = random.Random(seed)
    encoder = ArithmeticEncoder()
    Memory.create(path, identity_of(encoder), encoder, map_bytes=1 << 16).close()
    counts = dict.fromkeys(WORK, 0)
    for number in range(rounds):
        work = list(WORK)[number % len(WORK)]
        check_survivor(path, kill_once(path, work, seed + number, rng))
        counts[work] += 1
        with Memory.open(path) as memory:
            nearly_done = memory.num_tokens > LENGTH // 2
        if nearly_done:
            shutil.rmtree(path)
            Memory.create(path, identity_of(encoder), encoder, map_bytes=1 << 16).close()
    return counts


@pytest.mark.slow
def test_twenty_kills_lose_nothing(tmp_path):
    assert sum(rounds_of_killing(tmp_path / "m", 20, seed=0).values()) == 20


@pytest.mark.long
@pytest.mark.parametrize("seed", [1000, 2000, 3000])
def test_hundreds_of_kills_lose_nothing(seed, tmp_path):
    counts = rounds_of_killing(tmp_path / "m", 120, seed)
    print(json.dumps(counts))


# A full disk.


def in_a_child(work):
    """Run `work` in a forked process; returns its exit status, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = work() or 0
        finally:
            os._exit(code)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")


REFUSED = 3


@pytest.mark.parametrize("room", [40_000, 90_000, 300_000, 700_000])
def test_a_disk_that_refuses_is_told_in_a_sentence_and_loses_nothing(room, tmp_path, encoder, identity):
    path = tmp_path / "m"
    with Memory.create(path, identity, encoder) as memory:
        memory.append(random_ids(320))
    acknowledged = tmp_path / "acknowledged"

    def fill():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limit = (path / "tree-1.mdb").stat().st_size + room
        with Memory.open(path, identity, encoder, writable=True) as memory:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            ids = random_ids(LENGTH)
            try:
                while True:
                    memory.append(ids[memory.num_tokens : memory.num_tokens + 1500])
                    acknowledged.write_text(str(memory.num_tokens))
            except StorageError as problem:
                assert "make room" in str(problem)
                # What is there can still be read by the same process.
                assert (memory.tokens(0, memory.num_tokens) == ids[: memory.num_tokens]).all()
                try:
                    compact(memory)
                except StorageError:
                    return REFUSED
                return REFUSED

    assert in_a_child(fill) == REFUSED
    check_survivor(path, int(acknowledged.read_text()) if acknowledged.exists() else 320)
    assert not list(path.glob("*.tmp"))


def test_a_disk_that_is_really_full(tmp_path, encoder, identity):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs to be root")
    try:
        ids = random_ids(LENGTH)
        with Memory.create(disk / "m", identity, encoder) as memory:
            with pytest.raises(StorageError, match=r"No space left.*make room"):
                while True:
                    memory.append(ids[memory.num_tokens : memory.num_tokens + 1500])
            kept = memory.num_tokens
            assert kept > 1500
            np.testing.assert_array_equal(memory.tokens(0, kept), ids[:kept])
        check_survivor(disk / "m", kept)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# Damage at random.


def damage(rng, files):
    """Do something to a file of the memory: what a bad disk, a bad copy or a bad joke would do."""
    file = rng.choice(files)
    raw = bytearray(file.read_bytes())
    page = 4096
    kind = rng.randrange(6)
    if kind == 0:
        for _ in range(rng.choice([1, 1, 3, 40])):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        start = rng.randrange(len(raw)) // page * page
        raw[start : start + page] = bytes(min(page, len(raw) - start))
    elif kind == 2 and len(raw) >= 2 * page:
        one, two = rng.sample(range(len(raw) // page), 2)
        held = raw[one * page : (one + 1) * page]
        raw[one * page : (one + 1) * page] = raw[two * page : (two + 1) * page]
        raw[two * page : (two + 1) * page] = held
    elif kind == 3:
        del raw[rng.randrange(len(raw)) :]
    elif kind == 4:
        start = rng.randrange(len(raw))
        raw[start : start + 64] = rng.randbytes(min(64, len(raw) - start))
    else:
        # The first bytes: headers of pages, of the format, of the stamp.
        for _ in range(rng.choice([1, 4])):
            raw[rng.randrange(min(len(raw), 200))] = rng.randrange(256)
    file.write_bytes(raw)


FOUND, HARMLESS = 4, 5


def look(path, held):
    """Read everything: either it is what was written, or a typed error says that it is not."""
    encoder = ArithmeticEncoder()
    try:
        with Memory.open(path, identity_of(encoder)) as memory:
            assert_same(everything(memory), held)
            assert [one.name for one in memory.documents] == ["a", "b"]
        return HARMLESS
    except MegaContextError:
        return FOUND


def mend(path, held):
    """Verify, repair and read: whatever is not lost is what was written."""
    encoder = ArithmeticEncoder()
    found = verify(path)
    try:
        told = repair(path, FILLER, identity_of(encoder))
    except MegaContextError:
        assert not found.ok
        return FOUND
    with Memory.open(path, writable=True) as memory:
        refresh.sweep(memory, refresh.add_version(memory, identity_of(encoder), encoder).number, encoder)
        expected = held["tokens"][: memory.num_tokens].copy()
        for start, stop in told.lost:
            expected[start:stop] = FILLER
        assert (memory.tokens(0, memory.num_tokens) == expected[: memory.num_tokens]).all()
    assert verify(path).ok
    return HARMLESS


def rounds_of_damage(tmp_path, rounds, seed):
    encoder, rng = ArithmeticEncoder(), random.Random(seed)
    with Memory.create(tmp_path / "whole", identity_of(encoder), encoder) as memory:
        for name in ("a", "b"):
            with memory.document(name):
                memory.append(random_ids(32 * 300 + 5))
        held = everything(memory)
    outcomes = {FOUND: 0, HARMLESS: 0}
    for number in range(rounds):
        path = tmp_path / f"m{number}"
        shutil.copytree(tmp_path / "whole", path)
        files = [path / "tree-1.mdb"] * 6 + [path / "stamp", path / "current", path / "tree-1.mdb-lock"]
        damage(rng, [file for file in files if file.stat().st_size])
        outcome = in_a_child(lambda path=path: look(path, held))
        assert outcome in outcomes, f"reading round {number} of seed {seed} ended with {outcome}"
        outcomes[outcome] += 1
        mended = in_a_child(lambda path=path: mend(path, held))
        assert mended in outcomes, f"mending round {number} of seed {seed} ended with {mended}"
        shutil.rmtree(path)
    return outcomes


@pytest.mark.slow
def test_no_damage_crashes_hangs_or_gives_a_wrong_token(tmp_path):
    outcomes = rounds_of_damage(tmp_path, 60, seed=0)
    assert outcomes[FOUND] > 10 and outcomes[HARMLESS] > 5, outcomes


@pytest.mark.long
@pytest.mark.parametrize("seed", [10, 20])
def test_no_damage_of_a_thousand_does(seed, tmp_path):
    print(rounds_of_damage(tmp_path, 500, seed))


# A reader beside a writer, for as long as one likes.

FOLLOW = """
with Memory.open(path, identity_of(encoder)) as memory:
    ids, rng, looks, last = random_ids(LENGTH), random.Random(0), 0, 0
    print("ready", flush=True)
    while last < LENGTH:
        count = memory.num_tokens
        assert count >= last, (count, last)
        last = count
        start = rng.randrange(max(1, count - 500))
        stop = min(count, start + 500)
        assert (memory.tokens(start, stop) == ids[start:stop]).all()
        blocks = count // 32
        if blocks:
            memory.gists(1, [rng.randrange(blocks) for _ in range(32)])
            memory.addresses(max(0, blocks - 20), blocks)
        if count >= 1024:
            memory.gists(2, [rng.randrange(count // 1024)])
        if count:
            memory.cite(start, stop)
        looks += 1
    print(looks, flush=True)
"""


def follow_for(seconds, tmp_path):
    """Two readers follow a writer that appends, compacts and refreshes; returns how often they looked."""
    encoder, other = ArithmeticEncoder(), ArithmeticEncoder(fingerprint="two")
    path = tmp_path / "m"
    script = PRELUDE.split("memory = Memory.open")[0] + f"LENGTH = {LENGTH}\n" + FOLLOW
    with Memory.create(path, identity_of(encoder), encoder, map_bytes=1 << 16) as memory:
        memory.append(random_ids(LENGTH)[:10])
        readers = [
            subprocess.Popen(
                [sys.executable, "-c", script, str(path), "0"],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for _ in range(2)
        ]
        assert [reader.stdout.readline() for reader in readers] == ["ready\n"] * 2
        ids, begun, steps = random_ids(LENGTH), time.monotonic(), 0
        while memory.num_tokens < LENGTH:
            share = (time.monotonic() - begun) / seconds
            until = min(LENGTH, max(memory.num_tokens + 1, int(share * LENGTH)))
            with memory.document(f"d{steps}"):
                memory.append(ids[memory.num_tokens : until])
            steps += 1
            if steps % 50 == 0:
                compact(memory)
                number = refresh.add_version(memory, identity_of(other), other).number
                refresh.sweep(memory, number, other)
                refresh.drop_version(memory, number)
            time.sleep(seconds / 2000)
        looks = [reader.communicate(timeout=120)[0] for reader in readers]
    assert all(reader.returncode == 0 for reader in readers), looks
    return steps, [int(look) for look in looks]


@pytest.mark.slow
def test_two_readers_follow_a_writer_through_compaction_and_refresh(tmp_path):
    steps, looks = follow_for(6, tmp_path)
    assert steps > 50 and min(looks) > 100


@pytest.mark.long
def test_two_readers_follow_a_writer_for_ten_minutes(tmp_path):
    print(follow_for(600, tmp_path))
