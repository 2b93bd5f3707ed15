"""A segment's file gives back what was put in, or nothing."""

import numpy as np
import pytest

from megacontext.errors import StorageError
from megacontext.index.segments import Segment, read_segment, write_segment

ARRAYS = {
    "rows": np.arange(21, dtype="<f4").reshape(7, 3),
    "terms": np.array([3, 2**63], dtype="<u8"),
    "starts": np.array([0, 1, 2], dtype="<u4"),
    "none": np.empty(0, dtype="<u2"),
    "counts": np.array([255], dtype="u1"),
}
SEGMENT = Segment(16, 23, ARRAYS)


def same(one, other):
    return one.arrays.keys() == other.arrays.keys() and all(
        np.array_equal(one.arrays[name], array) and one.arrays[name].dtype == array.dtype
        for name, array in other.arrays.items()
    )


@pytest.mark.parametrize("named", [True, False])
def test_what_is_written_comes_back_mapped_and_cannot_be_changed(tmp_path, named):
    written = write_segment(SEGMENT, tmp_path if named else None, "words-16-23", "key", 77)
    assert same(written, SEGMENT) and (written.first, written.stop, len(written)) == (16, 23, 7)
    assert not any(array.flags.writeable or array.flags.owndata for array in written.arrays.values())
    assert written.file == (tmp_path / "words-16-23.segment" if named else None)
    assert [path.name for path in tmp_path.iterdir()] == (["words-16-23.segment"] if named else [])


def test_a_file_is_read_only_under_the_key_it_was_written_with(tmp_path):
    file = write_segment(SEGMENT, tmp_path, "words-16-23", "key", 77).file
    found, witness = read_segment(file, "key")
    assert same(found, SEGMENT) and (found.first, found.stop, witness) == (16, 23, 77)
    assert read_segment(file, "another") is None
    assert read_segment(tmp_path / "missing", "key") is None


def test_no_flipped_byte_and_no_cut_is_ever_believed(tmp_path):
    file = write_segment(SEGMENT, tmp_path, "words-16-23", "key", 77).file
    whole = file.read_bytes()
    believed = 0
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        found = read_segment(file, "key")
        # Between the description and the arrays lie zeros that nobody reads.
        believed += found is not None
        assert found is None or (same(found[0], SEGMENT) and found[1] == 77)
    assert believed < 64
    for stop in range(len(whole)):
        file.write_bytes(whole[:stop])
        assert read_segment(file, "key") is None
    file.write_bytes(whole + bytes(64))
    assert read_segment(file, "key") is None


def test_a_mapped_segment_outlives_its_file(tmp_path):
    written = write_segment(SEGMENT, tmp_path, "words-16-23", "key", 77)
    written.file.unlink()
    assert same(written, SEGMENT)


def test_a_disk_that_refuses_is_a_sentence_and_leaves_nothing(tmp_path):
    (tmp_path / "words-16-23.segment").mkdir()
    with pytest.raises(StorageError, match="needs a disk that takes its writes"):
        write_segment(SEGMENT, tmp_path, "words-16-23", "key", 77)
    assert [path.name for path in tmp_path.iterdir()] == ["words-16-23.segment"]
