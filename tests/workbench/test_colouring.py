"""Each colouring says of a node what its source says of it."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from make_memory import Arithmetic, K, identity, make_memory

from megacontext.spans import Node
from megacontext.tree import Memory
from megacontext.tree.refresh import add_version, sweep
from workbench.stores import colouring, painting
from workbench.stores.background import Job
from workbench.stores.memory import MemoryStore
from workbench.stores.painting import Pending, Subject
from workbench.stores.run import RunStore


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> MemoryStore:
    return MemoryStore(make_memory(tmp_path_factory.mktemp("colours") / "mine"))


def subject_of(store: MemoryStore, query: str = "") -> Subject:
    return Subject(store.num_tokens, K, store, None, "", -1, "", -1, query)


def answer(name: str, subject: Subject) -> colouring.Colouring | str:
    found = painting.ask(name, subject, "test")
    if isinstance(found, Pending):
        assert found.job.wait(60)
        return found.job.sentence if found.job.failed else found.finish(found.job.result)
    return found


def test_residency_is_the_share_of_steps_at_which_a_node_was_there(store: MemoryStore) -> None:
    found = answer("residency", subject_of(store))
    assert found.levels.value(Node(2, 0)) == found.levels.value(Node(1, 3)) == 1.0
    # A raw block counts as its node; whatever was never there has no value.
    assert found.levels.value(Node(1, 4)) == 1.0 and np.isnan(found.levels.value(Node(1, 5)))


def test_last_expanded_counts_back_from_the_newest(store: MemoryStore) -> None:
    found = answer("expanded", subject_of(store))
    assert found.levels.value(Node(2, 0)) == 0.0 and np.isnan(found.levels.value(Node(1, 3)))


def test_a_block_has_the_colour_of_its_document(store: MemoryStore) -> None:
    found = answer("document", subject_of(store))
    assert list(found.classes.values()) == ["first.txt", "second.txt", "third.txt"]
    for block in range(store.num_tokens // K):
        (cited,) = store.memory.cite(block * K + K // 2, block * K + K // 2 + 1)
        assert found.levels.value(Node(1, block)) == cited.document.number


def test_the_version_of_a_node_is_the_one_that_covers_it(tmp_path: Path) -> None:
    path = make_memory(tmp_path / "two")
    other = Arithmetic(6, 4, "other")
    with Memory.open(path, writable=True) as memory:
        version = add_version(memory, identity(other), other)
    store = MemoryStore(path)
    found = answer("version", subject_of(store))
    store.close()
    assert set(found.levels.values[0].tolist()) == {1.0} and not found.note
    with Memory.open(path, writable=True) as memory:
        sweep(memory, version.number, other)
        memory.append(np.arange(10 * K))  # without an encoder: tokens alone
    store = MemoryStore(path)
    found = answer("version", subject_of(store))
    assert found.levels.value(Node(1, 0)) == 1 and found.levels.value(Node(1, 5_000 // K + 8)) == 0
    assert "not covered" in found.note and "no gists yet" in found.classes.values()


def test_words_shine_where_they_stand(store: MemoryStore) -> None:
    found = answer("words", subject_of(store, "needle"))
    (best,) = np.flatnonzero(found.levels.values[0] == np.nanmax(found.levels.values[0]))
    assert best == store.num_tokens // 2 // K and found.levels.values[0].max() > 0


def test_a_memory_that_no_model_here_made_says_so_and_names_the_way_out(store: MemoryStore) -> None:
    said = answer("meaning", subject_of(store, "where is the needle"))
    assert isinstance(said, str) and "model" in said


def test_without_a_query_one_is_asked_for(store: MemoryStore) -> None:
    assert answer("words", subject_of(store)) == "Type a query to colour by."


def test_a_memory_alone_offers_nothing_of_a_run(store: MemoryStore) -> None:
    assert not {"similarity", "score"} & set(painting.offered(subject_of(store)).values())
    assert painting.suiting(subject_of(store)) == "document"


def test_a_step_colours_every_block_by_the_entry_that_covers_it(finished_run: Path) -> None:
    run = RunStore(finished_run)
    entries = run.entries("book-0", "lensnet", 1, step=1)
    num_tokens = run.num_tokens("book-0")
    found = colouring.step_scores(entries, num_tokens, K)
    for row in entries.filter(pl.col("stop") <= num_tokens // K * K).iter_rows(named=True):
        inside = found.levels.values[0][row["start"] // K : row["stop"] // K]
        assert len(inside) and np.allclose(inside, row["score"], atol=1e-6)


def test_a_question_that_was_not_traced_says_which_to_choose(finished_run: Path) -> None:
    run = RunStore(finished_run)
    subject = Subject(16_384, K, None, run, "16k-0", 20, "", -1, "")
    assert "marked “traced”" in answer("similarity", subject)
    assert "recorded" in answer("score", subject)


def test_a_fast_writer_does_not_keep_values_from_arriving(store: MemoryStore) -> None:
    job = colouring.by_words(store, "ledger", "page")
    assert isinstance(job, Job) and job.wait(30) and job.result.levels.num_tokens == store.num_tokens
