"""Facts about exports: a memory goes out and comes back byte for byte."""

import json

import numpy as np
import pytest
from tree_fakes import AWKWARD_SIZES, assert_same, everything, identity_of, random_ids

from megacontext.errors import ConfigError, TreeFormatError
from megacontext.tree import Memory
from megacontext.tree.ctx import LevelFile
from megacontext.tree.forgetting import forget_document
from megacontext.tree.interchange import export_memory, import_memory
from megacontext.tree.verification import verify


def made(path, ids, encoder):
    with Memory.create(path, identity_of(encoder), encoder) as memory:
        memory.append(ids[:3])
        with memory.document("a.txt", tags=("x", "y"), time="1811-10-30"):
            memory.append(ids[3 : len(ids) // 2])
        with memory.document("ü.md"):
            memory.append(ids[len(ids) // 2 :])
    return path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("count", [*AWKWARD_SIZES, 32_769])
def test_out_and_back_is_the_same_memory_and_out_again_the_same_bytes(count, tmp_path, encoder, identity):
    path = made(tmp_path / "m", random_ids(count), encoder)
    with Memory.open(path) as memory:
        export_memory(memory, tmp_path / "one")
        held, documents = everything(memory), list(memory.documents)
    import_memory(tmp_path / "one", tmp_path / "back")
    assert verify(tmp_path / "back", identity, encoder).ok
    with Memory.open(tmp_path / "back", identity, encoder, writable=True) as memory:
        assert_same(everything(memory), held)
        assert list(memory.documents) == documents
        assert memory.documents.named("ü.md").number == 1
        export_memory(memory, tmp_path / "two")
        memory.append(random_ids(100))  # and it goes on growing
        assert memory.gists(1, [memory.num_blocks - 1]).shape == (1, 6)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert not list(tmp_path.glob("*.part-*"))


def test_gists_are_mapped_and_equal_those_of_the_memory(tmp_path, encoder):
    path = made(tmp_path / "m", random_ids(32 * 40), encoder)
    with Memory.open(path) as memory:
        export_memory(memory, tmp_path / "out")
        with LevelFile.open(tmp_path / "out" / "LOD1.ctx") as level:
            np.testing.assert_array_equal(level.entries.astype(np.float32), memory.gists(1, range(40)))
            assert level.header.model_name == encoder.fingerprint


@pytest.mark.parametrize(("name", "kept"), [("é" * 16, "é" * 16), ("a" + "é" * 16, "a" + "é" * 15)])
def test_a_long_name_is_cut_between_characters(name, kept, tmp_path, encoder):
    encoder.fingerprint = name
    path = made(tmp_path / "m", random_ids(100), encoder)
    with Memory.open(path) as memory:
        export_memory(memory, tmp_path / "out")
    with LevelFile.open(tmp_path / "out" / "LOD1.ctx") as level:
        assert level.header.model_name == kept


def test_a_memory_of_tokens_alone_goes_out_and_back(tmp_path, identity):
    ids = random_ids(100)
    with Memory.create(tmp_path / "m", identity, None) as memory:
        memory.append(ids)
        export_memory(memory, tmp_path / "out")
    assert sorted(contents(tmp_path / "out")) == ["LOD0.ctx", "metadata.json"]
    import_memory(tmp_path / "out", tmp_path / "back")
    with Memory.open(tmp_path / "back") as memory:
        np.testing.assert_array_equal(memory.tokens(0, 100), ids)


def test_what_was_forgotten_stays_so(tmp_path, encoder, identity):
    from megacontext.tree import refresh

    path = made(tmp_path / "m", random_ids(1000), encoder)
    with Memory.open(path, identity, encoder, writable=True) as memory:
        forget_document(memory, 0, 9)
        refresh.sweep(memory, 1, encoder)
        export_memory(memory, tmp_path / "out")
    assert b"a.txt" not in (tmp_path / "out" / "metadata.json").read_bytes()
    import_memory(tmp_path / "out", tmp_path / "back")
    with Memory.open(tmp_path / "back") as memory:
        assert memory.catalogue.forgotten == ((3, 500),)
        assert memory.documents[0].state == "forgotten" and memory.documents.named("a.txt") is None


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("LOD1.ctx", lambda raw: raw[:-1], "LOD1.ctx"),
        ("LOD0.ctx", lambda raw: b"XXXX" + raw[4:], "LOD0.ctx"),
        ("LOD2.ctx", None, "LOD2.ctx"),
        ("metadata.json", None, "metadata.json"),
        ("metadata.json", lambda raw: b"[]", "JSON object"),
        ("metadata.json", lambda raw: b"{}", "must describe a memory"),
        ("metadata.json", lambda raw: raw.replace(b'"format": 1', b'"format": 2'), "format 1, .* has 2"),
        (
            "metadata.json",
            lambda raw: raw.replace(b'"num_tokens": 2000', b'"num_tokens": 2001'),
            "2,001 records",
        ),
        ("metadata.json", lambda raw: raw.replace(b'"stop": 1000', b'"stop": 3000'), "follow one another"),
        ("metadata.json", lambda raw: raw.replace(b'"gist_width": 6', b'"gist_width": 7'), "width 7"),
        ("addresses.ctx", lambda raw: raw[:62] + b"\1" + raw[63:], "addresses.ctx"),
    ],
)
def test_a_damaged_export_is_refused_and_leaves_nothing(file, change, says, tmp_path, encoder):
    path = made(tmp_path / "m", random_ids(2000), encoder)
    with Memory.open(path) as memory:
        export_memory(memory, tmp_path / "out")
    target = tmp_path / "out" / file
    raw = target.read_bytes()
    target.unlink()
    if change is not None:
        assert change(raw) != raw
        target.write_bytes(change(raw))
    with pytest.raises(TreeFormatError, match=says):
        import_memory(tmp_path / "out", tmp_path / "back")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["m", "out"]


def test_existing_folders_are_not_overwritten(tmp_path, encoder):
    path = made(tmp_path / "m", random_ids(50), encoder)
    with Memory.open(path) as memory:
        with pytest.raises(ConfigError, match="does not exist yet"):
            export_memory(memory, path)
        export_memory(memory, tmp_path / "out")
    with pytest.raises(ConfigError, match="does not exist yet"):
        import_memory(tmp_path / "out", path)
    assert json.loads((tmp_path / "out" / "metadata.json").read_text())["num_tokens"] == 50
