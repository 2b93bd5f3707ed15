"""What is derived from a memory goes when records go, and before they do."""

import pytest
from tree_fakes import ArithmeticEncoder, identity_of, random_ids

from megacontext.errors import ConfigError, StorageError
from megacontext.tree import Memory, derived, refresh
from megacontext.tree.derived import DERIVED_FOLDER
from megacontext.tree.forgetting import compact, forget_document, forget_span
from megacontext.tree.repair import repair

FILLER = 9


class Noted:
    def __init__(self):
        self.closed = 0

    def close(self):
        self.closed += 1


@pytest.fixture
def path(tmp_path, encoder, identity):
    with Memory.create(tmp_path / "m", identity, encoder) as memory, memory.document("secret"):
        memory.append(random_ids(32 * 40))
    folder = tmp_path / "m" / DERIVED_FOLDER
    folder.mkdir()
    (folder / "words-0-40.segment").write_bytes(b"what the tokens said")
    return tmp_path / "m"


@pytest.mark.parametrize(
    "remove",
    [
        lambda memory: forget_span(memory, 5, 6, FILLER),
        lambda memory: forget_document(memory, 0, FILLER),
        compact,
        lambda memory: refresh.drop_version(memory, 1),
        lambda memory: memory.remove_derived(),
    ],
)
def test_what_removes_records_removes_what_was_derived(remove, path, encoder, identity):
    with Memory.open(path, identity, encoder, writable=True) as memory:
        index = memory.derived("index", Noted)
        remove(memory)
        assert index.closed == 1 and not (path / DERIVED_FOLDER).exists()


def test_a_repair_removes_it_too(path, encoder, identity):
    repair(path, FILLER, identity)
    assert not (path / DERIVED_FOLDER).exists()
    with Memory.open(path, identity, encoder) as memory:
        assert memory.num_tokens == 32 * 40


def test_tokens_are_not_forgotten_while_what_knows_them_cannot_be_removed(
    path, encoder, identity, monkeypatch
):
    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(derived.shutil, "rmtree", refuse)
    with Memory.open(path, identity, encoder, writable=True) as memory:
        before, revision = memory.tokens(0, 100), memory.revision
        with pytest.raises(StorageError, match=r"derived cannot be removed .Permission denied."):
            forget_span(memory, 5, 50, FILLER)
        assert (memory.tokens(0, 100) == before).all() and memory.revision == revision


def test_what_is_derived_goes_before_the_tokens(path, encoder, identity, monkeypatch):
    with Memory.open(path, identity, encoder, writable=True) as memory:
        monkeypatch.setattr(memory.store, "write", lambda batch: (_ for _ in ()).throw(OSError("power cut")))
        with pytest.raises(OSError, match="power cut"):
            forget_span(memory, 5, 50, FILLER)
        assert not (path / DERIVED_FOLDER).exists()
        monkeypatch.undo()


def test_appending_leaves_it_alone(path, encoder, identity):
    with Memory.open(path, identity, encoder, writable=True) as memory:
        memory.append(random_ids(100))
    assert (path / DERIVED_FOLDER / "words-0-40.segment").exists()


def test_one_of_a_kind_is_shared_and_closed_with_its_memory(path, encoder, identity):
    with Memory.open(path, identity) as memory:
        one = memory.derived("index", Noted)
        assert memory.derived("index", Noted) is one and memory.derived("other", Noted) is not one
        assert memory.folder == path and one.closed == 0
        with pytest.raises(ConfigError, match="writable=True"):
            memory.remove_derived()
    assert one.closed == 1


def test_a_memory_in_ram_has_no_folder():
    encoder = ArithmeticEncoder()
    memory = Memory.create(None, identity_of(encoder), encoder)
    memory.append(random_ids(100))
    index = memory.derived("index", Noted)
    forget_span(memory, 0, 10, FILLER)
    assert memory.folder is None and index.closed == 1
