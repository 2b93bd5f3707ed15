"""Whatever is named is found once, under one name, in one order; its text streams and tokenizes like the whole."""

import contextlib
import hashlib
import io
import itertools
import os
import subprocess
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from megacontext.errors import ConfigError
from megacontext.sources import (
    LONGEST_PIECE_CHARACTERS,
    PIECE_CHARACTERS,
    Skipped,
    cut_pieces,
    files,
    find_sources,
    refusal,
    tables,
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test works in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(folder, files):
    """Write each file, its folders with it."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def names(*specs, **options):
    return [source.name for source in find_sources(specs, **options)]


def whys(found):
    return {skipped.name: skipped.why for skipped in found.skipped}


def whole(source):
    return "".join(source.text())


# What is found


def test_a_file_is_one_source_with_all_that_is_known_of_it(folder):
    put(folder, {"docs/letter.txt": "Dear Bär,\r\n"})
    os.utime("docs/letter.txt", (1_000_000_000, 1_000_000_000))
    (source,) = find_sources(["docs/letter.txt"])
    assert (source.name, source.media_type, source.size_bytes, source.tags) == (
        "docs/letter.txt",
        "text/plain",
        12,
        (),
    )
    assert source.modified == datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)
    assert whole(source) == "Dear Bär,\r\n"  # line ends stay as they are
    assert replace(source, tags=("a",)).tags == ("a",)


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.txt", "text/plain"),
        ("a", "text/plain"),
        ("a.unheard-of", "text/plain"),
        ("a.md", "text/markdown"),
        ("A.MARKDOWN", "text/markdown"),
        ("a.py", "text/x-python"),
        ("a.cpp", "text/x-c++"),
        ("a.tar.rs", "text/x-rust"),
        ("a.json", "application/json"),
        ("a.html", "text/html"),
    ],
)
def test_the_suffix_tells_the_media_type(folder, name, media_type):
    put(folder, {name: "<p>as it is</p>"})
    (source,) = find_sources([name])
    assert (source.media_type, whole(source)) == (media_type, "<p>as it is</p>")


def test_names_are_relative_to_the_working_folder(folder, monkeypatch):
    put(folder, {"work/docs/a.txt": "a", "work/b.txt": "b", "else/c.txt": "c"})
    monkeypatch.chdir(folder / "work")
    assert names("./docs//a.txt") == names(str(folder / "work/docs/a.txt")) == ["docs/a.txt"]
    assert names("../else") == names("../else/*.txt") == ["../else/c.txt"]
    assert names(str(folder / "else")) == [f"{folder}/else/c.txt"]
    assert names(".") == names(str(folder / "work")) == ["b.txt", "docs/a.txt"]


def test_a_name_that_is_no_text_becomes_one(folder):
    with open(b"caf\xe9.txt", "w") as file:
        file.write("crème")
    assert names(".") == ["caf\\xe9.txt"]


def test_a_folder_is_walked_in_the_order_of_names(folder):
    put(
        folder,
        dict.fromkeys(["b/z.md", "b/a/c.txt", "b/a.txt", "a.txt", "B.txt", "c/d/e/f.py", "ä.txt"], "x"),
    )
    assert names(".") == ["B.txt", "a.txt", "b/a/c.txt", "b/a.txt", "b/z.md", "c/d/e/f.py", "ä.txt"]


def test_specs_keep_their_order_and_what_is_named_twice_is_taken_once(folder):
    put(folder, {"docs/a.txt": "same", "docs/b.txt": "same", "z.txt": "z"})
    (folder / "docs" / "c.txt").symlink_to("a.txt")
    os.link("docs/a.txt", "docs/d.txt")
    assert names("z.txt", "docs/b.txt", "docs", "./docs/a.txt", "docs/*.txt", "z.txt") == [
        "z.txt",
        "docs/b.txt",
        "docs/a.txt",
        "docs/d.txt",  # equal content, or a second name of it on the disk, is no reason to drop a file
    ]
    assert len(find_sources(["docs/c.txt", "docs/a.txt"])) == 1


def test_hidden_files_and_caches_are_left_out_unless_named(folder):
    hidden = [".git/config", ".hidden.txt", "a/.venv/x.py", "a/__pycache__/x.py", "node_modules/m/x.js"]
    put(folder, dict.fromkeys([*hidden, "a/x.py"], "x"))
    found = find_sources(["."])
    assert [source.name for source in found] == ["a/x.py"] and found.skipped == ()
    assert names("**") == names("*/*.py") == names("**/*.py") == ["a/x.py"]
    assert names(".hidden.txt", ".git", "node_modules", "a/.venv/*.py") == [
        ".hidden.txt",
        ".git/config",
        "node_modules/m/x.js",
        "a/.venv/x.py",
    ]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.md", ["a.md"]),
        ("**/*.md", ["a.md", "d/b.md", "d/e/c.md"]),
        ("./**/*.md", ["a.md", "d/b.md", "d/e/c.md"]),
        ("**/**/*.md", ["a.md", "d/b.md", "d/e/c.md"]),
        ("d/**/*.md", ["d/b.md", "d/e/c.md"]),
        ("d/*.md", ["d/b.md"]),
        ("*/?.md", ["d/b.md"]),
        ("*/*/*", ["d/e/c.md", "d/e/c.txt"]),
        ("**/e/**", ["d/e/c.md", "d/e/c.txt"]),
        ("**/[bc].md", ["d/b.md", "d/e/c.md"]),
        ("**/[!b].md", ["a.md", "d/e/c.md"]),
        ("**", ["a.md", "d/b.md", "d/e/c.md", "d/e/c.txt"]),
        ("d/*", ["d/b.md", "d/e/c.md", "d/e/c.txt"]),  # a folder that matches is walked
    ],
)
def test_patterns_match_as_in_a_shell(folder, pattern, expected):
    put(folder, dict.fromkeys(["a.md", "d/b.md", "d/e/c.md", "d/e/c.txt"], "x"))
    assert names(pattern) == expected
    assert names(str(folder / pattern)) == expected


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(folder):
    put(folder, {"a[1].txt": "x", "a1.txt": "y"})
    assert names("a[1].txt") == ["a[1].txt"]
    assert names("a[[]1].txt") == ["a[1].txt"]


def test_loops_of_links_and_broken_links_are_survived(folder):
    put(folder, {"a/x.txt": "x", "b/y.txt": "y"})
    (folder / "a" / "up").symlink_to("..")
    (folder / "a" / "self").symlink_to("self")
    (folder / "a" / "gone.txt").symlink_to("nowhere")
    found = find_sources(["."])
    assert [source.name for source in found] == ["a/x.txt", "b/y.txt"]
    assert whys(found) == {
        "a/gone.txt": "unreadable (No such file or directory)",
        "a/self": "unreadable (Too many levels of symbolic links)",
        "a/up": "a link to a folder",
    }
    assert names("a/up/b", "**") == ["a/up/b/y.txt", "a/x.txt"]


def test_folders_may_be_deeper_than_the_stack_of_python(folder):
    at = os.open(".", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=at)
        deeper = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = deeper
    with os.fdopen(os.open("x.txt", os.O_CREAT | os.O_WRONLY, dir_fd=at), "w") as file:
        file.write("deep")
    os.close(at)
    try:
        assert names(".") == names("**/*.txt") == ["d/" * 1500 + "x.txt"]
    finally:
        subprocess.run(["rm", "-r", "d"], check=True)  # pytest's own way to tidy up would overflow


def test_a_pipe_in_a_folder_is_not_waited_for(folder):
    put(folder, {"a.txt": "a"})
    os.mkfifo("pipe")
    found = find_sources(["."])
    assert [source.name for source in found] == ["a.txt"] and whys(found) == {"pipe": "no regular file"}
    with pytest.raises(ConfigError, match="must be a regular file, pipe is none; pipe it in and name it -"):
        find_sources(["pipe"])


def test_found_can_be_iterated_again_and_knows_its_size(folder):
    put(folder, {"a.txt": "aä", "b.txt": "b"})
    found = find_sources(["."])
    assert list(found) == list(found) and len(found) == 2 and found.size_bytes == 4
    assert len(find_sources([])) == 0


# What is refused or left out

BAD = {
    "empty.txt": (b"", "empty", r"must hold text, empty.txt is empty; give another file"),
    "blank.txt": (b" \r\n\t\f\v" * 99, "empty", r"must hold text, blank.txt is empty"),
    "mark.txt": (b"\xef\xbb\xbf \n", "empty", r"must hold text, mark.txt is empty"),
    "image.png": (
        b"\x89PNG\x00",
        "binary",
        r"must be text, image.png holds zero bytes and looks binary; give",
    ),
    "utf16.txt": ("Bär".encode("utf-16"), "binary", "must be text, utf16.txt holds zero bytes"),
    "latin.txt": (
        b"ein B\xe4r",
        "not UTF-8 at byte 5",
        r"UTF-8 text, latin.txt is not at byte 5; convert it, e.g.",
    ),
    "cut.txt": ("ein Bä".encode()[:-1], "not UTF-8 at byte 5", "cut.txt is not at byte 5"),
    "marked.txt": (b"\xef\xbb\xbfab\xff", "not UTF-8 at byte 5", "marked.txt is not at byte 5"),
    "late.txt": (b"a" * 200_001 + b"\xff", "not UTF-8 at byte 200,001", "late.txt is not at byte 200,001"),
    "x.parquet": (b"PAR1 none", "no sound parquet table", "must be a sound parquet table, x.parquet is not"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_named_file_that_is_no_text_is_refused(folder, name):
    content, _, message = BAD[name]
    put(folder, {name: content})
    with pytest.raises(ConfigError, match="a source " + message if message.startswith("must") else message):
        find_sources([name])


def test_in_a_folder_or_pattern_it_is_left_out_and_reported_once(folder):
    put(folder, {"good.txt": "text"} | {name: content for name, (content, _, _) in BAD.items()})
    found = find_sources([".", "*"])
    assert [source.name for source in found] == ["good.txt"]
    assert [(skipped.name, skipped.why) for skipped in found.skipped] == sorted(
        (name, why) for name, (_, why, _) in BAD.items()
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "none.txt",
            r"a source must be a readable file, none.txt is not \(No such file .*\); check the path",
        ),
        ("", r"a source must be named, .*, got ''; give a file"),
        ("good\0.txt", r"no name holds zero bytes, got 'good\\x00.txt'; give a file"),
        ("hollow", r"a folder must hold text, hollow has none; check the path"),
        ("bad", r"a folder must hold text, bad has none; the first of 2 is bad/a.txt: empty; check the path"),
        ("*.doc", r"a pattern must match text, \*.doc has none; check"),
        (
            "no/such/**",
            r"a pattern must match text, no/such/\*\* has none; the first of 1 is no/such: unread",
        ),
        ("bad/*", r"a pattern must match text, bad/\* has none; the first of 2 is bad/a.txt: empty"),
    ],
)
def test_what_holds_no_text_is_refused(folder, spec, message):
    put(folder, {"good.txt": "x", "bad/a.txt": "", "bad/b.png": b"\0", "hollow/.keep": "x"})
    with pytest.raises(ConfigError, match=message):
        find_sources(["good.txt", spec])


def test_a_folder_whose_texts_were_all_named_before_is_no_mistake(folder):
    put(folder, {"d/a.txt": "a"})
    assert names("d/a.txt", "d", "d/*") == ["d/a.txt"]


def test_a_file_that_went_or_changed_is_refused_when_it_is_read(folder):
    put(folder, {"a.txt": "a", "b.txt": "b"})
    first, second = find_sources(["."])
    os.remove("a.txt")
    put(folder, {"b.txt": b"\xff"})
    for read in (whole, type(first).digest):
        with pytest.raises(ConfigError, match=r"must be a readable file, a.txt is not"):
            read(first)
        with pytest.raises(ConfigError, match=r"must be UTF-8 text, b.txt is not at byte 0"):
            read(second)


# Standard input


def test_standard_input_is_a_source_that_can_be_read_again(folder):
    put(folder, {"a.txt": "a"})
    found = find_sources(["-", "a.txt", "-"], stdin=io.BytesIO("piped Bär\n".encode()), stdin_name="notes")
    piped, _ = found
    assert [source.name for source in found] == ["notes", "a.txt"]
    assert (piped.media_type, piped.modified, piped.size_bytes) == ("text/plain", None, 11)
    assert whole(piped) == whole(piped) == "piped Bär\n"
    assert piped.digest() == hashlib.blake2b("piped Bär\n".encode(), digest_size=16).hexdigest()


def test_standard_input_may_be_longer_than_a_chunk_and_read_twice_at_once():
    text = "A line of it.\n" * 20_000
    (piped,) = find_sources(["-"], stdin=io.BytesIO(text.encode()))
    pieces = list(zip(piped.text(), piped.text(), strict=True))
    assert all(one == other for one, other in pieces) and len(pieces) > 2
    assert "".join(one for one, _ in pieces) == text


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "stdin is empty"), (b"a\0", "stdin holds zero bytes"), (b"ab\xff", "stdin is not at byte 2")],
)
def test_standard_input_that_is_no_text_is_refused(content, message):
    with pytest.raises(ConfigError, match=message):
        find_sources(["-"], stdin=io.BytesIO(content))


def test_two_sources_of_one_name_are_refused(folder):
    put(folder, {"stdin": "a file"})
    with pytest.raises(ConfigError, match="must have different names, two are called 'stdin'; rename one"):
        find_sources(["stdin", "-"], stdin=io.BytesIO(b"x"))
    assert names("stdin", "-", stdin=io.BytesIO(b"x"), stdin_name="in") == ["stdin", "in"]


# Tables

ROWS = ["first", None, "", " \n", "fünfte", "with\0zero", "last\r\n"]


def test_rows_of_a_table_are_sources(folder):
    pl.DataFrame({"id": range(7), "text": ROWS}).write_parquet("t.parquet")
    os.utime("t.parquet", (1_000_000_000, 1_000_000_000))
    found = find_sources(["t.parquet"])
    assert [(source.name, whole(source), source.size_bytes) for source in found] == [
        ("t.parquet#0", "first", 5),
        ("t.parquet#4", "fünfte", 7),
        ("t.parquet#6", "last\r\n", 6),
    ]
    assert {source.media_type for source in found} == {"text/plain"}
    assert {source.modified for source in found} == {datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)}
    assert found.skipped == (
        Skipped("t.parquet", "3 of 7 rows without text, the first #1"),
        Skipped("t.parquet", "1 of 7 rows with zero bytes, the first #5"),
    )
    assert len(found) == 3 and found.size_bytes == 18


def test_tables_and_files_mix(folder):
    put(folder, {"d/a.txt": "a", "d/z.txt": "z"})
    pl.DataFrame({"text": ["one", "two"]}).write_parquet("d/b[1].parquet")
    assert names("d") == ["d/a.txt", "d/b[1].parquet#0", "d/b[1].parquet#1", "d/z.txt"]
    assert names("d/b[1].parquet", "d/*") == ["d/b[1].parquet#0", "d/b[1].parquet#1", "d/a.txt", "d/z.txt"]


@pytest.mark.parametrize(
    ("table", "why", "message"),
    [
        (
            {"body": ["x"]},
            "no column 'text' of strings",
            r"have a column 'text' of strings .*, t.parquet has 'body'",
        ),
        ({"text": [1]}, "no column 'text' of strings", r"has 'text' of Int64; rename or convert"),
        (
            {"text": [None, " "]},
            "a table without text",
            r"must hold text, t.parquet has no row that does; give",
        ),
        ({"text": pl.Series([], dtype=pl.String)}, "a table without text", r"has no row that does"),
    ],
)
def test_a_table_without_texts_is_refused_or_left_out(folder, table, why, message):
    pl.DataFrame(table).write_parquet("t.parquet")
    put(folder, {"a.txt": "a"})
    with pytest.raises(ConfigError, match=message):
        find_sources(["t.parquet"])
    assert whys(find_sources(["."])) == {"t.parquet": why}


def test_rows_come_back_whatever_the_batches_and_the_order(folder, monkeypatch):
    monkeypatch.setattr(tables, "_BATCH_ROWS", 7)
    texts = [f"row {number}" if number % 5 else None for number in range(101)]
    pl.DataFrame({"text": texts}).write_parquet("t.parquet", row_group_size=10)
    found = list(find_sources(["t.parquet"]))
    for order in (found, found[::-1], found[::9] + found[1::9]):
        assert [whole(source) for source in order] == [texts[int(source.name[10:])] for source in order]


def test_a_table_that_changed_is_refused_when_it_is_read(folder):
    pl.DataFrame({"text": ["one", "two"]}).write_parquet("t.parquet")
    _, second = find_sources(["t.parquet"])
    pl.DataFrame({"text": ["one"]}).write_parquet("t.parquet")
    with pytest.raises(ConfigError, match=r"t.parquet#1 was changed since; begin again|sound parquet table"):
        whole(second)


# Digests


def test_the_digest_is_of_the_text_alone(folder):
    put(folder, {"a.txt": "Bär\n", "b.md": "\ufeffBär\n", "c.txt": "Bär\r\n"})
    pl.DataFrame({"text": ["Bär\n"]}).write_parquet("d.parquet")
    os.utime("a.txt", (1, 1))
    a, b, c, d = find_sources(["."])
    assert a.digest() == b.digest() == d.digest() != c.digest()
    assert a.digest() == hashlib.blake2b("Bär\n".encode(), digest_size=16).hexdigest()


# Streaming and cutting


@given(
    text=st.text(st.sampled_from("aä🜁\n\ufeff"), max_size=30),
    sizes=st.lists(st.integers(1, 4), min_size=1),
    damage=st.one_of(st.none(), st.tuples(st.integers(0, 60), st.sampled_from([0x80, 0xC3, 0xFF]))),
)
def test_decoding_in_chunks_is_decoding_at_once(text, sizes, damage):
    content = bytearray("\ufeff".encode() + text.encode() + b"x")
    if damage:
        content[damage[0] % len(content)] = damage[1]
    chunks, place = [], 0
    while place < len(content):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(bytes(content[place : place + size]))
        place += size
    try:
        expected = content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as problem:
        with pytest.raises(refusal.Unusable, match=f"^not UTF-8 at byte {problem.start}$"):
            list(files._decoded(chunks))
    else:
        with contextlib.suppress(refusal.Unusable):  # nothing but blanks
            assert "".join(files._decoded(chunks)) == expected


def test_the_byte_order_mark_is_dropped_at_the_beginning_only(folder):
    put(folder, {"a.txt": "\ufeff\ufeffone\ufefftwo"})
    (source,) = find_sources(["a.txt"])
    assert whole(source) == "\ufeffone\ufefftwo"


FRAGMENTS = st.lists(
    st.one_of(
        st.sampled_from(
            ["\n", "\r\n", " ", "\n\n", "\t", "...", "'ll", "12", "don't ", "\x1c", "\x85", "\u2028"]
        ),
        st.text(max_size=6),
    ),
    max_size=60,
).map("".join)


@given(text=FRAGMENTS, piece=st.integers(1, 20))
@example(text="a \n \nb\r\nc\n\x1cd\n'll\n!\n\n?", piece=2)
@example(text="a\n\u200bb\n\u0301c\n\u3000d\n\x00e\n🜁", piece=1)
def test_the_ids_of_the_pieces_are_the_ids_of_the_text(tokenizer, text, piece):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("megacontext.sources.source.PIECE_CHARACTERS", piece)
        pieces = list(cut_pieces([text]))
    assert "".join(pieces) == text and all(pieces)
    assert [token for part in pieces for token in tokenizer.encode(part)] == tokenizer.encode(text).tolist()


@given(
    text=st.text(st.sampled_from("a \n\r"), max_size=80),
    piece=st.integers(1, 12),
    more=st.integers(0, 20),
    size=st.integers(1, 80),
)
def test_pieces_are_the_same_however_the_text_arrives(text, piece, more, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("megacontext.sources.source.PIECE_CHARACTERS", piece)
        patch.setattr("megacontext.sources.source.LONGEST_PIECE_CHARACTERS", piece + more)
        pieces = list(cut_pieces([text]))
        assert pieces == list(cut_pieces(text[at : at + size] for at in range(0, len(text), size)))
    assert "".join(pieces) == text
    for part, following in itertools.pairwise(pieces):
        safe = part.endswith("\n") and not following[0].isspace()
        assert safe or len(part) == piece + more  # a cut that is not safe is the longest piece


def test_pieces_are_as_long_as_they_may_be():
    lines = "A line of text.\n" * 10_000
    pieces = list(cut_pieces([lines]))
    assert [len(part) for part in pieces] == [PIECE_CHARACTERS, PIECE_CHARACTERS, 28_928]
    assert [len(part) for part in cut_pieces(["a" * 100_000 + "\nb" + "c" * 70_000])] == [100_001, 70_001]
    just_too_late = "a" * PIECE_CHARACTERS + "\nb\nc"
    assert [len(part) for part in cut_pieces([just_too_late])] == [PIECE_CHARACTERS + 1, 3]
    unbroken = "a" * (LONGEST_PIECE_CHARACTERS + 7)
    assert [len(part) for part in cut_pieces([unbroken])] == [LONGEST_PIECE_CHARACTERS, 7]
    assert list(cut_pieces([])) == list(cut_pieces([""])) == []


def test_a_long_file_streams_through_little_memory(folder):
    line = "Es war einmal ein Bär, und er las 1,234 Bücher.\n".encode()
    with open("long.txt", "wb") as file:
        for _ in range(50):
            file.write(line * 20_000)
    tracemalloc.start()
    try:
        (source,) = find_sources(["long.txt"])
        characters = sum(map(len, source.text()))
        source.digest()
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert characters == 1_000_000 * len(line.decode())
    assert most_bytes < 4 << 20  # of a file of 51 MB
