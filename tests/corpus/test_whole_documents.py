"""Segments hold whole stretches of one document each; the library's modules are split for good."""

import numpy as np
import pytest

from megacontext.corpus.documents import Document, cut_segments, load_documents
from megacontext.errors import ConfigError, UnknownVariantError


def encode(text):
    return [ord(letter) for letter in text]


def documents(*lengths):
    return [Document(str(number), 1000 * number + np.arange(length)) for number, length in enumerate(lengths)]


def test_segments_follow_one_another_and_never_cross_documents():
    found = cut_segments(documents(10, 3, 8), 4)
    assert [(one.name, one.ids.tolist()) for one in found] == [
        ("0", [0, 1, 2, 3]),
        ("0", [4, 5, 6, 7]),
        ("2", [2000, 2001, 2002, 2003]),
        ("2", [2004, 2005, 2006, 2007]),
    ]


@pytest.mark.parametrize("length", [4, 5, 7, 8, 30])
def test_a_random_beginning_loses_less_than_a_segment(length):
    for seed in range(20):
        found = cut_segments(documents(length), 4, np.random.default_rng(seed))
        assert all(np.array_equal(np.diff(one.ids), np.ones(3)) for one in found)
        assert found[0].ids[0] < 4 and len(found) >= length // 4 - 1 and len(found) >= 1


def test_no_document_that_is_long_enough_is_an_error():
    with pytest.raises(ConfigError, match="has 9 tokens and no document is as long"):
        cut_segments(documents(8, 3), 9)


def test_names_stand_for_books_files_and_the_library(tmp_path):
    (tmp_path / "own.txt").write_text("four", encoding="utf-8")
    book, own = load_documents(["persuasion", str(tmp_path / "own.txt")], encode)
    assert len(book.ids) > 100_000 and own.ids.tolist() == encode("four")
    with pytest.raises(UnknownVariantError, match="a book must be"):
        load_documents(["no-such-book"], encode)


def test_the_library_is_split_by_names_and_nothing_is_in_both():
    trained, held = (
        {one.name for one in load_documents([name], encode)} for name in ("stdlib", "stdlib-held-out")
    )
    assert not trained & held and len(trained) > 2 * len(held) > 20
