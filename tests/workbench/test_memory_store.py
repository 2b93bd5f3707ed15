"""A memory that is looked at is followed while it is written, and whatever befalls it is a sentence."""

import os
import shutil
import time
from pathlib import Path

import pytest
from make_memory import Arithmetic, append_elsewhere, make_memory, vocabulary

from megacontext.errors import CorruptRecordError, MegaContextError, TreeFormatError
from workbench.stores.background import Job
from workbench.stores.library import Library
from workbench.stores.memory import MemoryStore


@pytest.fixture
def library(tmp_path: Path) -> Library:
    make_memory(tmp_path / "mine")
    return Library(tmp_path / "runs", tmp_path / "mine")


def test_a_store_sees_what_another_process_appends(tmp_path: Path) -> None:
    store = MemoryStore(make_memory(tmp_path / "grows", 1_000))
    assert not store.refresh()
    assert append_elsewhere(tmp_path / "grows", 2).wait(60) == 0
    assert store.refresh() and store.num_tokens == 1_140 and not store.refresh()


def test_a_memory_is_opened_once_and_stays_open(library: Library) -> None:
    assert library.memory("mine") is library.memory("mine")


def test_a_memory_that_is_cut_short_while_open_is_a_sentence_and_stays_one(
    library: Library, tmp_path: Path
) -> None:
    library.memory("mine")
    (data,) = (tmp_path / "mine").glob("tree-*.mdb")
    os.truncate(data, data.stat().st_size // 3)
    for _ in range(3):
        with pytest.raises(CorruptRecordError):
            library.memory("mine")


def test_a_memory_that_is_mended_is_opened_again(library: Library, tmp_path: Path) -> None:
    library.memory("mine")
    (data,) = (tmp_path / "mine").glob("tree-*.mdb")
    whole = data.read_bytes()
    os.truncate(data, len(whole) // 3)
    with pytest.raises(MegaContextError):
        library.memory("mine")
    data.write_bytes(whole)
    assert library.memory("mine").num_tokens == 5_000


def test_a_memory_that_is_deleted_while_open_is_a_sentence(library: Library, tmp_path: Path) -> None:
    library.memory("mine")
    shutil.rmtree(tmp_path / "mine")
    for _ in range(2):
        with pytest.raises(MegaContextError):
            library.memory("mine")


def test_a_memory_in_the_place_of_another_is_read_as_what_it_is(library: Library, tmp_path: Path) -> None:
    before = library.memory("mine")
    vocabulary_before, tokens_before = before.vocabulary(), before.num_tokens
    shutil.rmtree(tmp_path / "mine")
    make_memory(tmp_path / "mine", 2_000, documents=("other.txt",), encoder=Arithmetic(6, 4, "other"))
    after = library.memory("mine")
    assert tokens_before == 5_000 and after.num_tokens == 2_000
    assert after.memory.version.encoder == "other" and after.memory.documents[0].name == "other.txt"
    assert vocabulary_before.wait(20)


def test_a_folder_that_is_no_memory_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(TreeFormatError):
        Library(tmp_path, tmp_path / "empty").memory("empty")


def test_the_vocabulary_is_found_by_its_fingerprint(library: Library) -> None:
    found = library.memory("mine").vocabulary()
    assert found.wait(30) and found.result.fingerprint == vocabulary().fingerprint


def test_closing_waits_for_who_reads_in_the_background(library: Library) -> None:
    store = library.memory("mine")

    def read_long(job: Job[int]) -> int:
        for _ in range(500):
            job.tell("reading")
            store.memory.tokens(0, 500)
            time.sleep(0.002)
        return 1

    job = store.job(("long",), read_long)
    store.close()
    # It was given up in the middle, and never read from a closed file.
    assert job.wait(10) and job.sentence == "given up"


def test_what_one_page_gives_up_another_still_waits_for(library: Library) -> None:
    store = library.memory("mine")

    def answer(job: Job[str]) -> str:
        for _ in range(20):
            job.tell("thinking")
            time.sleep(0.005)
        return "here"

    first = store.latest("page 1", "find", "x", answer)
    other = store.latest("page 2", "find", "y", answer)
    again = store.latest("page 1", "find", "z", answer)
    assert first.wait(5) and other.wait(5) and again.wait(5)
    assert first.failed and other.result == again.result == "here"


def test_the_store_keeps_a_bounded_number_of_results(library: Library) -> None:
    store = library.memory("mine")
    for number in range(100):
        store.job(("number", number), lambda job: 1).wait(5)
    assert len(store._jobs) <= 24


def test_an_error_in_the_background_is_a_sentence(library: Library) -> None:
    def fail(job: Job[int]) -> int:
        raise TreeFormatError("a rule, a value, a way out")

    job = library.memory("mine").job(("fails",), fail)
    assert job.wait(5) and job.failed and job.sentence == "a rule, a value, a way out"
