"""A .ctx file is its header and its records, byte for byte; what is anything else is refused by name."""

import os
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacontext.errors import ConfigError, NodeMissingError, ShapeError, TreeFormatError
from megacontext.tree.ctx import (
    ADDRESSES_FILE,
    Dtype,
    LevelFile,
    LevelHeader,
    LevelWriter,
    level_file,
    read_metadata,
    write_metadata,
)

GOLDEN = bytes.fromhex(
    "5443434d"  # magic 0x4D434354, the lowest byte first
    "0100"  # version
    "0200"  # level
    "2000"  # block size 32
    "8002"  # width 640
    "0200"  # bfloat16
    "0100000002000000"  # 2**33 + 1 records
    "74696e7920c3a9746573740000000000"  # "tiny étest" and 21 zero bytes
    "00000000000000000000000000000000"
    "00000000000000000000"  # reserved
)
GOLDEN_HEADER = LevelHeader(
    level=2, block_size=32, width=640, dtype=Dtype.BFLOAT16, num_entries=2**33 + 1, model_name="tiny étest"
)
COUNTS = [0, 1, 31, 32, 33, 1023, 1024, 1025, 4099]


def records(dtype, count, width=6):
    """Random bits of every kind, infinities and NaN among them."""
    shape = (count,) if dtype == Dtype.UINT32 else (count, width)
    content = np.random.default_rng(count).bytes(int(np.prod(shape)) * dtype.storage.itemsize)
    return np.frombuffer(content, dtype.storage).reshape(shape)


def write(path, dtype, *parts, width=6, block_size=32, model_name="toy"):
    level, width = (0, 1) if dtype == Dtype.UINT32 else (3, width)
    with LevelWriter(
        path, level=level, block_size=block_size, width=width, dtype=dtype, model_name=model_name
    ) as writer:
        for rows in parts:
            writer.write(rows)
    return path


@pytest.fixture
def three_vectors(tmp_path):
    return write(tmp_path / "LOD3.ctx", Dtype.FLOAT16, records(Dtype.FLOAT16, 3))


def test_the_header_is_these_64_bytes():
    assert len(GOLDEN) == 64
    assert GOLDEN_HEADER.to_bytes() == GOLDEN
    assert LevelHeader.from_bytes(GOLDEN, "golden") == GOLDEN_HEADER


def test_a_file_is_its_header_and_its_numbers(tmp_path):
    path = write(tmp_path / level_file(0), Dtype.UINT32, np.array([1, 2**32 - 1], np.uint32), model_name="")
    header = struct.pack("<IHHHHHQ", 0x4D434354, 1, 0, 32, 1, 0, 2) + bytes(42)
    assert path.read_bytes() == header + bytes.fromhex("01000000ffffffff")
    assert [path.name for path in tmp_path.iterdir()] == ["LOD0.ctx"]


def test_names_follow_the_levels():
    assert [level_file(level) for level in (0, 1, 12)] == ["LOD0.ctx", "LOD1.ctx", "LOD12.ctx"]
    assert ADDRESSES_FILE == "addresses.ctx"


@st.composite
def headers(draw):
    level = draw(st.integers(0, 65_535))
    return LevelHeader(
        level=level,
        block_size=draw(st.integers(1, 65_535)),
        width=draw(st.integers(1, 65_535)),
        dtype=draw(st.sampled_from([Dtype.FLOAT16, Dtype.BFLOAT16, Dtype.FLOAT32])) if level else Dtype(0),
        num_entries=draw(st.integers(0, 2**64 - 1)),
        model_name=draw(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8)),
    )


@given(header=headers())
def test_any_header_comes_back(header):
    content = header.to_bytes()
    assert len(content) == 64 and LevelHeader.from_bytes(content, "it") == header


@given(base=headers(), place=st.integers(0, 63), value=st.integers(0, 255), content=st.binary(max_size=70))
def test_any_64_bytes_are_a_header_or_a_typed_error(base, place, value, content):
    changed = bytearray(base.to_bytes())
    changed[place] = value
    for candidate in (bytes(changed), content):
        try:
            header = LevelHeader.from_bytes(candidate, "it")
        except TreeFormatError as refusal:
            assert "it" in str(refusal)
        else:
            assert header.to_bytes() == candidate  # nothing in the 64 bytes goes unread


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("dtype", Dtype)
def test_records_come_back_bit_for_bit(tmp_path, dtype, count):
    rows = records(dtype, count)
    whole = write(tmp_path / "whole.ctx", dtype, rows)
    pieces = write(tmp_path / "pieces.ctx", dtype, rows[:0], rows[: count // 3], rows[count // 3 :])
    assert whole.read_bytes() == pieces.read_bytes()
    with LevelFile.open(whole) as file:
        assert file.header.num_entries == count and file.header.model_name == "toy"
        assert file.entries.dtype == dtype.storage and file.entries.shape == rows.shape
        assert file.entries.tobytes() == rows.tobytes()
        assert write(tmp_path / "again.ctx", dtype, file.entries).read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("width", [1, 7, 65_535])
def test_a_record_stands_at_its_offset(tmp_path, width):
    rows = records(Dtype.FLOAT32, 5, width)
    content = write(tmp_path / "wide.ctx", Dtype.FLOAT32, rows, width=width).read_bytes()
    assert content[64 + 3 * 4 * width :][: 4 * width] == rows[3].tobytes()


def test_rows_out_of_order_in_memory_are_written_in_order(tmp_path):
    rows = records(Dtype.FLOAT16, 8)
    path = write(tmp_path / "LOD1.ctx", Dtype.FLOAT16, rows[::2], rows[1::2])
    with LevelFile.open(path) as file:
        assert file.entries.tobytes() == rows[[0, 2, 4, 6, 1, 3, 5, 7]].tobytes()


@pytest.mark.parametrize("dtype", [Dtype.FLOAT16, Dtype.BFLOAT16, Dtype.FLOAT32])
def test_float32_holds_the_vectors_of_every_dtype_exactly(tmp_path, dtype):
    # Numbers with few binary digits, which all three kinds hold.
    numbers = np.array([[0.0, -0.0, 1.0], [-2.5, np.inf, 0.15625], [96.0, 2**-14, -448.0]], np.float32)
    stored = (numbers.view(np.uint32) >> 16).astype(np.uint16) if dtype == Dtype.BFLOAT16 else numbers
    path = write(tmp_path / "LOD3.ctx", dtype, stored.astype(dtype.storage), width=3)
    with LevelFile.open(path) as file:
        assert file.as_float32(0, 3).tobytes() == numbers.tobytes()
        assert file.as_float32(1, 2).tobytes() == numbers[1:2].tobytes()
        assert file.as_float32(3, 3).shape == (0, 3)
        assert file.as_float32(0, 3).dtype == np.float32 and file.as_float32(0, 3).flags.writeable


def test_a_range_that_is_not_there_is_not_cut_to_fit(three_vectors):
    with LevelFile.open(three_vectors) as file:
        for start, stop in [(-1, 2), (2, 1), (0, 4), (4, 4)]:
            with pytest.raises(
                NodeMissingError, match=r"must lie in \[0, 3\], got .*; ask for what is there"
            ):
                file.as_float32(start, stop)


def test_ids_are_no_vectors(tmp_path):
    with LevelFile.open(write(tmp_path / "LOD0.ctx", Dtype.UINT32, records(Dtype.UINT32, 3))) as file:
        with pytest.raises(ShapeError, match="holds ids; take its entries"):
            file.as_float32(0, 3)


def test_entries_are_a_read_only_view_of_the_mapped_file(three_vectors):
    with LevelFile.open(three_vectors) as file:
        assert isinstance(file.entries.base, np.memmap)
        assert np.shares_memory(file.entries, file.entries.base)
        with pytest.raises(ValueError, match="read-only"):
            file.entries[0] = 0


def test_opening_does_not_read_the_records(tmp_path):
    """A file of 8 GiB, nearly all of it a hole, opens and shows its last record."""
    header = LevelHeader(level=1, block_size=32, width=1024, dtype=Dtype.FLOAT32, num_entries=2**21)
    path = tmp_path / "LOD1.ctx"
    with path.open("wb") as file:
        file.write(header.to_bytes())
        file.seek(header.file_bytes - 4)
        file.write(np.float32(7).tobytes())
    before = resident_bytes()
    with LevelFile.open(path) as file:
        assert file.entries[-1, -1] == 7 and file.entries[0, 0] == 0
        assert resident_bytes() - before < 8 << 20


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_views_outlive_the_file_and_what_replaces_it(three_vectors):
    with LevelFile.open(three_vectors) as file:
        view = file.entries[1:]
    expected = view.tobytes()
    write(three_vectors, Dtype.FLOAT16, records(Dtype.FLOAT16, 9))
    assert view.tobytes() == expected
    with pytest.raises(AssertionError, match="closed"):
        _ = file.entries


def put(offset, kind, value):
    """A change that overwrites one field of the header."""
    packed = struct.pack("<" + kind, value)
    return lambda content: content[:offset] + packed + content[offset + len(packed) :]


DAMAGES = {
    "an empty file": (lambda content: b"", "must begin with 64 bytes of header, .* has 0"),
    "half a header": (lambda content: content[:40], "must begin with 64 bytes of header, .* has 40"),
    "truncated by a byte": (lambda content: content[:-1], "has 99 and is truncated; copy or export it again"),
    "only a header": (lambda content: content[:64], "100 bytes for 3 records, .* has 64 and is truncated"),
    "too long by a byte": (lambda content: content + b"\0", "has 101 and is too long"),
    "foreign": (put(0, "I", 0x04034B50), "begins with 0x04034B50; it is of another format"),
    "big-endian": (put(0, "I", 0x5443434D), "begins with 0x5443434D"),
    "never finished": (lambda content: bytes(64), "begins with 0x00000000"),
    "newer": (put(4, "H", 2), "reads .ctx files of version 1, .* has 2; update MegaContext"),
    "version zero": (put(4, "H", 0), "reads .ctx files of version 1, .* has 0"),
    "vectors at level 0": (put(6, "H", 0), "level 0 .* must be uint32 .*, got level 0 of float16"),
    "ids above level 0": (put(12, "H", 0), "got level 3 of uint32; name the dtype"),
    "blocks of no token": (put(8, "H", 0), "block_size of a .ctx file must be from 1 to 65,535, got 0"),
    "vectors of no number": (put(10, "H", 0), "width of a .ctx file must be from 1 to 65,535, got 0"),
    "other vectors": (put(10, "H", 7), "106 bytes for 3 records, .* has 100 and is truncated"),
    "an unknown dtype": (put(12, "H", 4), "dtype of a .ctx file must be 0 to 3, .* has 4; export it again"),
    "a lying number of records": (put(14, "Q", 2**60), "truncated"),
    "the largest number of records": (put(14, "Q", 2**64 - 1), "truncated"),
    "fewer records": (put(14, "Q", 2), "88 bytes for 2 records, .* has 100 and is too long"),
    "a name that is no UTF-8": (put(22, "B", 0xFF), "must be sound, that of .* is not: 'utf-8' codec"),
    "a name with a hole": (put(23, "B", 0), "without zero bytes, got 't.*'; shorten it"),
    "a reserved byte": (put(63, "B", 1), "reserved bytes of a .ctx header must be zero, those of .* are not"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_refused_in_a_sentence_that_names_the_file(three_vectors, name):
    damage, message = DAMAGES[name]
    three_vectors.write_bytes(damage(three_vectors.read_bytes()))
    with pytest.raises(TreeFormatError, match=message) as refusal:
        LevelFile.open(three_vectors)
    assert str(three_vectors) in str(refusal.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    for path in (tmp_path / "LOD1.ctx", tmp_path):
        with pytest.raises(
            TreeFormatError, match=r"must be a readable file, .* is not \(.*\); check the path"
        ):
            LevelFile.open(path)


def test_ids_of_others_may_name_the_width_of_their_model(tmp_path):
    path = write(tmp_path / "LOD0.ctx", Dtype.UINT32, records(Dtype.UINT32, 33))
    path.write_bytes(put(10, "H", 2048)(path.read_bytes()))
    with LevelFile.open(path) as file:
        assert file.header.width == 2048
        assert file.entries.tobytes() == records(Dtype.UINT32, 33).tobytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 65_536}, "width of a .ctx file must be from 1 to 65,535, got 65,536; the format holds"),
        ({"block_size": 65_536}, "block_size of a .ctx file must be from 1 to 65,535, got 65,536"),
        ({"level": 65_536}, "level of a .ctx file must be from 0 to 65,535, got 65,536"),
        ({"width": 0}, "got 0"),
        ({"level": -1}, "got -1"),
        ({"level": 0}, "level 0 .* must be uint32 and no other level may be, got level 0 of float16"),
        ({"dtype": Dtype.UINT32}, "got level 1 of uint32"),
        ({"model_name": "x" * 33}, "model_name .* must be at most 32 bytes of UTF-8 .*; shorten it"),
        ({"model_name": "é" * 16 + "x"}, "at most 32 bytes"),
        ({"model_name": "tiny\0"}, "without zero bytes"),
        ({"model_name": "caf\udce9"}, r"of UTF-8 .*, got 'caf\\udce9'; shorten it"),
    ],
)
def test_what_a_header_cannot_hold_is_refused_before_a_byte_is_written(tmp_path, changes, message):
    fine = {"level": 1, "block_size": 32, "width": 6, "dtype": Dtype.FLOAT16, "model_name": "é" * 16}
    LevelWriter(tmp_path / "LOD1.ctx", **fine)
    with pytest.raises(ConfigError, match=message):
        LevelWriter(tmp_path / "LOD1.ctx", **(fine | changes))
    assert list(tmp_path.iterdir()) == []


def test_no_header_holds_2_to_the_64_records():
    with pytest.raises(ConfigError, match=r"from 0 to 2\*\*64 - 1"):
        LevelHeader(level=1, block_size=32, width=6, dtype=Dtype.FLOAT16, num_entries=2**64)


@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((2, 6), np.float32),  # would have to be rounded
        np.zeros((2, 6), np.uint16),  # the bits of another dtype
        np.zeros((2, 6), ">f2"),
        np.zeros((2, 5), np.float16),
        np.zeros(6, np.float16),
        np.zeros((1, 2, 6), np.float16),
        np.zeros((), np.float16),
    ],
)
def test_rows_of_another_shape_or_type_are_refused_and_the_file_goes(tmp_path, rows):
    with pytest.raises(ShapeError, match=r"records of LOD3.ctx must be float16 of shape \('n', 6\), got"):
        write(tmp_path / "LOD3.ctx", Dtype.FLOAT16, records(Dtype.FLOAT16, 2), rows)
    assert list(tmp_path.iterdir()) == []


def test_signed_ids_are_refused(tmp_path):
    with pytest.raises(ShapeError, match=r"must be uint32 of shape \('n',\), got int32"):
        write(tmp_path / "LOD0.ctx", Dtype.UINT32, np.array([-1], np.int32))


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError])
def test_an_interrupted_export_leaves_what_was_there(three_vectors, interruption):
    before = three_vectors.read_bytes()
    with pytest.raises(interruption):
        with LevelWriter(
            three_vectors, level=1, block_size=32, width=6, dtype=Dtype.FLOAT16, model_name="toy"
        ) as writer:
            writer.write(records(Dtype.FLOAT16, 33))
            raise interruption
    assert three_vectors.read_bytes() == before
    assert list(three_vectors.parent.iterdir()) == [three_vectors]


def test_a_file_is_on_disk_before_it_takes_its_name_and_the_name_after(tmp_path, monkeypatch):
    synced = []  # the names in the folder at every sync
    fsync = os.fsync

    def spy(descriptor):
        synced.append([path.name for path in tmp_path.iterdir()])
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    write(tmp_path / "LOD3.ctx", Dtype.FLOAT16, records(Dtype.FLOAT16, 3))
    assert synced == [["LOD3.ctx.tmp"], ["LOD3.ctx"]]


def test_what_a_killed_export_left_is_in_nobodys_way(tmp_path):
    (tmp_path / "LOD3.ctx.tmp").write_bytes(bytes(1000))
    path = write(tmp_path / "LOD3.ctx", Dtype.FLOAT16, records(Dtype.FLOAT16, 3))
    assert list(tmp_path.iterdir()) == [path] and path.stat().st_size == 100


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    for path in (tmp_path / "none" / "LOD3.ctx", tmp_path):
        with pytest.raises(ConfigError, match=r"an export must be able to write .*; check the folder"):
            write(path, Dtype.FLOAT16, records(Dtype.FLOAT16, 3))


@pytest.mark.parametrize("count", [1, 100_000])  # noticed on leaving, and noticed on writing
def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path, count):
    path = tmp_path / "LOD3.ctx"
    (tmp_path / "LOD3.ctx.tmp").symlink_to("/dev/full")
    with pytest.raises(ConfigError, match=r"LOD3.ctx, it is not \(No space left on device\); check"):
        write(path, Dtype.FLOAT16, records(Dtype.FLOAT16, count))
    assert list(tmp_path.iterdir()) == []


def test_metadata_comes_back(tmp_path):
    mapping = {"tokenizer": "bpe-ä", "levels": [{"lod": 1, "count": 2**40}], "share": 0.1, "none": None}
    write_metadata(tmp_path, {"old": True})
    write_metadata(tmp_path, mapping)
    assert read_metadata(tmp_path) == mapping
    assert [path.name for path in tmp_path.iterdir()] == ["metadata.json"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"bytes", np.float32(1)])
def test_metadata_that_json_cannot_hold_is_refused(tmp_path, value):
    write_metadata(tmp_path, {"old": True})
    with pytest.raises(ConfigError, match=r"metadata.json must hold what JSON can hold, but .*; give texts"):
        write_metadata(tmp_path, {"value": value})
    assert read_metadata(tmp_path) == {"old": True}
    assert [path.name for path in tmp_path.iterdir()] == ["metadata.json"]


def test_metadata_in_no_folder_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(ConfigError, match=r"must be able to write .*metadata.json"):
            write_metadata(folder, {})
        with pytest.raises(TreeFormatError, match=r"must hold metadata.json, .* does not \(.*\); check"):
            read_metadata(folder)


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"a": 1}x', b"\xff", b"[1]", b"null", b"4", b"[" * 100_000, b"1" * 10_000]
)
def test_metadata_that_is_no_json_object_is_refused(tmp_path, content):
    (tmp_path / "metadata.json").write_bytes(content)
    with pytest.raises(TreeFormatError, match=r"metadata.json must be (a )?JSON") as refusal:
        read_metadata(tmp_path)
    assert str(tmp_path) in str(refusal.value)
