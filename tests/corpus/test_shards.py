"""A corpus is parquet shards, of which the last is for validation, or books; anything else is refused in a sentence."""

import polars as pl
import pytest
from toys import write_book

from megacontext.corpus.shards import CorpusConfig, open_corpus
from megacontext.errors import ConfigError


def write_shard(path, texts):
    pl.DataFrame({"text": texts, "url": ["x"] * len(texts)}).write_parquet(path)
    return path


def shards(folder, names=("b", "a", "c")):
    for name in names:
        write_shard(folder / f"{name}.parquet", [f"{name} one", "", f"{name} two"])
    return CorpusConfig(shards=str(folder))


def test_the_last_shard_by_name_is_for_validation(tmp_path):
    corpus = open_corpus(shards(tmp_path))
    assert [shard.name for shard in corpus.train] == ["a", "b"] and corpus.validation.name == "c"
    assert list(corpus.train[1].documents()) == ["b one", "b two"]


def test_a_shard_that_is_still_being_fetched_is_none(tmp_path):
    config = shards(tmp_path)
    (tmp_path / "z.parquet.tmp").write_bytes(b"half of a file")
    assert open_corpus(config).validation.name == "c"


def test_a_shard_that_was_written_again_has_another_fingerprint(tmp_path):
    config = shards(tmp_path)
    before = open_corpus(config).train[0].fingerprint
    write_shard(tmp_path / "a.parquet", ["something longer than what was there before"])
    assert open_corpus(config).train[0].fingerprint != before


def test_books_are_one_shard_and_those_held_out_another(tmp_path):
    one, two = write_book(tmp_path / "one.txt", 500), write_book(tmp_path / "two.txt", 400, start=5000)
    corpus = open_corpus(CorpusConfig(books=("persuasion", str(one)), held_out=(str(two),)))
    assert len(corpus.train) == 1 and list(corpus.train[0].documents())[1] == one.read_text()
    assert list(corpus.validation.documents()) == [two.read_text()]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "a folder of parquet shards or a list of books, got shards = '' and 0 books"),
        ({"shards": "x", "books": ("emma",)}, "got shards = 'x' and 1 books"),
        ({"books": ("emma",)}, "needs books to measure on; name at least one in corpus.held_out"),
        ({"books": ("emma",), "held_out": ("emma",)}, "'emma' is both; remove it from one"),
    ],
)
def test_what_is_no_corpus_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        CorpusConfig(**given)


def test_a_single_shard_cannot_be_split(tmp_path):
    with pytest.raises(
        ConfigError, match=r"at least two \.parquet files, the last one for validation, .* has 1"
    ):
        open_corpus(shards(tmp_path, ("a",)))


@pytest.mark.parametrize("wrong", ["no parquet", "no column", "no strings", "gone"])
def test_a_shard_that_cannot_be_read_is_named_when_it_is_read(wrong, tmp_path):
    config = shards(tmp_path)
    shard = open_corpus(config).train[0]
    path = tmp_path / "a.parquet"
    if wrong == "no parquet":
        path.write_bytes(b"PAR1 and nothing else")
    elif wrong == "no column":
        pl.DataFrame({"words": ["one"]}).write_parquet(path)
    elif wrong == "no strings":
        pl.DataFrame({"text": [1, 2]}).write_parquet(path)
    else:
        path.unlink()
    with pytest.raises(ConfigError, match=r"column 'text'.*a\.parquet"):
        list(shard.documents())
