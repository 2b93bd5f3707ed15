"""A book is a text, shipped or given; anything else is refused in a sentence that says what to do."""

import pytest

from megacontext.corpus.book import load_book, shipped_books
from megacontext.errors import ConfigError, UnknownVariantError


def test_shipped_books_load_by_name():
    assert "pride-and-prejudice" in shipped_books()
    book = load_book("pride-and-prejudice")
    assert book.title == "Pride and Prejudice" and "public domain" in book.licence
    assert len(book.text.split()) > 100_000


def test_a_file_loads_by_its_path(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_bytes("Ein Bär.\r\nNoch einer.".encode())
    book = load_book(str(path))
    assert (book.title, book.licence, book.text) == (
        "mine.txt",
        "given by the user",
        "Ein Bär.\r\nNoch einer.",
    )


def test_an_unknown_name_is_answered_with_the_books_that_ship():
    with pytest.raises(
        UnknownVariantError, match=r"one of emma, mansfield-park.*, got 'ema'; check the name"
    ):
        load_book("ema")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must hold text, .* is empty; give another file"),
        (b" \n\t ", "is empty"),
        (b"text\x00text", "holds zero bytes and looks binary; give a plain text file"),
        ("Bär".encode("utf-16"), "looks binary"),
        (
            "ein Bär".encode("latin-1"),
            r"must be UTF-8 text, .* is not at byte 5; convert it, e.g. with `iconv",
        ),
        (b"\x80" * 2000, "is not at byte 0"),
        (b"a" * 1500 + b"\xff", "is not at byte 1,500"),
    ],
)
def test_a_file_that_is_no_text_is_refused(tmp_path, content, message):
    path = tmp_path / "book.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_book(str(path))


@pytest.mark.parametrize("name", ["none.txt", "no/such/file", "", "."])
def test_what_is_no_file_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"must be a readable file, .* is not .*; check the path"):
        load_book(name)
