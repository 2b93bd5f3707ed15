"""Rows come in one order for any number of processes, each token of an epoch once, and a place is enough to go on."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from megacontext.corpus.rows import Place, RowReader, validation_rows
from megacontext.corpus.shards import Shard
from megacontext.corpus.token_files import token_file
from megacontext.errors import ConfigError

T = 16
WORDS = "the quick brown fox jumps over the lazy dog and then some more of the same".split()  # noqa: SIM905


def shard(name, documents):
    """A shard of so many documents of different lengths."""
    rng = np.random.default_rng(len(name) + documents)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(3, 60))) for _ in range(documents)]
    return Shard(name, f"{name}{documents}", lambda: iter(texts))


@pytest.fixture
def shards():
    return [shard("one", 12), shard("two", 7), shard("three", 9)]


@pytest.fixture
def reader(shards, tokenizer, tmp_path):
    def make(place=None, seed=0, row_tokens=T):
        return RowReader(shards, tokenizer, tmp_path, row_tokens=row_tokens, seed=seed, place=place)

    return make


def epoch_of(reader, epoch=0):
    rows = []
    while True:
        # Looking at the place before the row: the row that crosses into the next epoch is not of this one.
        reader_place = reader.place
        row = reader.read(1)[0]
        if reader.place.epoch > epoch:
            return np.array(rows), reader_place
        rows.append(row)


def test_the_tokens_of_a_shard_are_its_documents_each_behind_a_mark(tokenizer, tmp_path):
    one = shard("one", 5)
    ids = token_file(one, tokenizer, tmp_path)
    expected = [token for text in one.documents() for token in (tokenizer.bos_id, *tokenizer.encode(text))]
    assert ids.dtype == np.uint16 and ids.tolist() == expected


def test_a_shard_is_tokenised_once(tokenizer, tmp_path):
    one = shard("one", 5)
    token_file(one, tokenizer, tmp_path)
    gone = Shard(one.name, one.fingerprint, lambda: pytest.fail("it was read again"))
    assert len(token_file(gone, tokenizer, tmp_path))
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".lock", ".npy"]


def test_a_shard_without_text_leaves_nothing_behind(tokenizer, tmp_path):
    with pytest.raises(ConfigError, match="a shard must hold text, none holds none"):
        token_file(Shard("none", "0", lambda: iter(())), tokenizer, tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_processes_that_ask_at_once_get_the_same_whole_file(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    code = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]!r}
from pathlib import Path
from megacontext.corpus.shards import Shard
from megacontext.corpus.token_files import token_file
from megacontext.tokenizer import Tokenizer
texts = ["a text of some length, again and again. " * 40] * 300
folder = Path({str(tmp_path)!r})
ids = token_file(Shard("s", "1", lambda: iter(texts)), Tokenizer.load(folder / "tokenizer.json"), folder)
print(len(ids), int(ids.astype("int64").sum()))
"""
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    answers = {process.communicate(timeout=60)[0] for process in running}
    assert len(answers) == 1 and int(answers.pop().split()[0]) > 10_000


def test_an_epoch_reads_every_row_of_every_shard_once_and_neighbours_share_a_token(
    reader, shards, tokenizer, tmp_path
):
    rows, _ = epoch_of(reader())
    expected = []
    for number, one in enumerate(shards):
        ids = token_file(one, tokenizer, tmp_path).astype(np.int64)
        spare = len(ids) - 1 - T
        offset = int(np.random.default_rng((0, 0, number)).integers(min(T, spare + 1)))
        expected += [tuple(ids[start : start + T + 1]) for start in range(offset, len(ids) - T, T)]
    assert sorted(map(tuple, rows)) == sorted(expected)


def test_every_epoch_has_another_order_and_every_seed_too(reader):
    first, place = epoch_of(reader())
    later, _ = epoch_of(reader(Place(epoch=1)), epoch=1)
    other, _ = epoch_of(reader(seed=1))
    assert len(first) > 20 and place.epoch == 0
    for rows in (later, other):
        assert not np.array_equal(rows[:20], first[:20])


@pytest.mark.parametrize("world", [2, 3, 4])
def test_processes_together_read_what_one_would_have_read(world, reader):
    count, alone = 2, reader()
    together = [reader() for _ in range(world)]
    for _ in range(30):
        expected = alone.read(count * world)
        parts = [one.read(count, rank, world) for rank, one in enumerate(together)]
        assert np.array_equal(np.concatenate(parts), expected)
        assert {one.place for one in together} == {alone.place}


@pytest.mark.parametrize("before", [0, 1, 7, 50, 101])
def test_a_place_is_enough_to_go_on(before, reader):
    one = reader()
    for _ in range(before):
        one.read(1)
    assert np.array_equal(reader(one.place).read(40), one.read(40))


def test_a_shard_that_is_shorter_than_a_row_is_refused(reader):
    with pytest.raises(ConfigError, match=r"a row of 5,001 tokens, one has \d+; give more text or lower"):
        reader(row_tokens=5000)


def test_a_place_outside_of_the_corpus_is_refused(reader):
    with pytest.raises(ConfigError, match="one of the corpus's 3 shards, got shard 3"):
        reader(Place(shard=3))


@pytest.mark.parametrize(("most", "rows"), [(1, 1), (T, 1), (2 * T, 2), (3 * T - 1, 2), (10**6, None)])
def test_validation_reads_the_beginning_in_plain_order(most, rows, tokenizer, tmp_path):
    one = shard("one", 12)
    ids = token_file(one, tokenizer, tmp_path).astype(np.int64)
    found = validation_rows(one, tokenizer, tmp_path, row_tokens=T, most_tokens=most)
    assert len(found) == (rows or (len(ids) - 1) // T)
    assert np.array_equal(found[:, :-1].flatten(), ids[: len(found) * T])
    assert np.array_equal(found[:, 1:].flatten(), ids[1 : len(found) * T + 1])
