"""What is told of a node is what the memory holds of it."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_memory import Arithmetic, K, make_memory, some_text, vocabulary

from megacontext.errors import NodeMissingError
from megacontext.spans import Node, node_span
from workbench.stores.finding import find_text
from workbench.stores.memory import MemoryStore
from workbench.stores.nodes import edits_of, facts, near, parse_node, parse_span, text_of
from workbench.stores.run import RunStore


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> MemoryStore:
    return MemoryStore(make_memory(tmp_path_factory.mktemp("nodes") / "mine"))


@given(lod=st.integers(0, 12), index=st.integers(0, 10**12))
def test_a_node_survives_its_address(lod: int, index: int) -> None:
    assert parse_node(f"{lod}:{index}") == (lod, index)


@given(st.text())
def test_no_text_breaks_the_parsers(text: str) -> None:
    parse_node(text)
    parse_span(text)


@pytest.mark.parametrize("text", ["", "1", "1:", ":1", "1:-2", "13:0", "1:٣", "a:b", "1:99999999999999999"])
def test_what_is_no_node_is_none(text: str) -> None:
    assert parse_node(text) is None


@pytest.mark.parametrize("text", ["", "5", "7-7", "9-3", "-3-9", "1-x"])
def test_what_is_no_range_is_none(text: str) -> None:
    assert parse_span(text) is None


def test_a_block_says_its_tokens_document_counts_and_kin(store: MemoryStore) -> None:
    known = facts(store, Node(1, 3))
    assert known.span == (96, 128) and np.array_equal(known.tokens, store.memory.tokens(96, 128))
    assert [one.document.name for one in known.cited] == ["first.txt"] and known.num_cited == 1
    assert known.parent == Node(2, 0) and known.children == (Node(0, 96), Node(0, 127))
    assert known.access.gist_steps == 4 and known.steps == 4 and known.versions == [(1, True, True)]


def test_a_token_stands_among_those_of_its_block(store: MemoryStore) -> None:
    known = facts(store, Node(0, 100))
    whole = np.concatenate([known.before, known.tokens, known.after])
    assert np.array_equal(whole, store.memory.tokens(96, 128)) and len(known.before) == 4
    assert known.parent == Node(1, 3) and known.children is None and known.access is None


def test_a_token_of_the_unfinished_block_has_no_node_above_it(store: MemoryStore) -> None:
    known = facts(store, Node(0, 4_999))
    assert not known.complete and known.parent is None


def test_a_node_over_several_documents_cites_each(store: MemoryStore) -> None:
    known = facts(store, Node(2, 1))
    assert [one.document.name for one in known.cited] == ["first.txt", "second.txt"] and known.num_cited == 2


def test_a_node_that_does_not_exist_is_a_sentence(store: MemoryStore) -> None:
    with pytest.raises(NodeMissingError, match="156 nodes"):
        facts(store, Node(1, 156))


@pytest.mark.parametrize("node", [Node(0, 100), Node(1, 3), Node(2, 1)])
def test_what_is_near_is_the_best_of_all_other_blocks(store: MemoryStore, node: Node) -> None:
    found = near(store, node, "test", most=4)
    assert found.wait(30)
    start, stop = node_span(node, K)
    inside = range(start // K, max(stop // K, start // K + 1))
    addresses = store.memory.addresses()
    own = addresses[inside.start : inside.stop].mean(axis=0)
    matches = addresses @ (own / np.linalg.norm(own))
    matches[inside.start : inside.stop] = -np.inf
    best = np.sort(matches)[::-1][:4]
    assert np.allclose([one.similarity for one in found.result], best, atol=1e-5)
    assert all(one.node.lod == 1 and one.node.index not in inside for one in found.result)


def test_a_memory_of_one_block_has_nothing_near(tmp_path: Path) -> None:
    found = near(MemoryStore(make_memory(tmp_path / "one", K + 3, documents=())), Node(1, 0), "test")
    assert found.wait(30) and found.result == []


def test_a_memory_without_addresses_says_how_to_make_them(tmp_path: Path) -> None:
    path = make_memory(tmp_path / "bare", 2_000, encoder=Arithmetic(address_width=0))
    found = near(MemoryStore(path), Node(1, 0), "test")
    assert found.wait(30) and "memory refresh" in found.sentence


def test_a_text_is_found_where_it_stands_with_what_is_around(store: MemoryStore) -> None:
    found = find_text(store, "needle 4711", "test")
    assert found.wait(30)
    (place,) = found.result
    assert place.start <= store.num_tokens // 2 + 1 <= place.stop and "needle 4711" in place.text
    assert place.before.split()[-1] in some_text(200) and place.after


def test_a_text_that_is_nowhere_is_found_nowhere(store: MemoryStore) -> None:
    found = find_text(store, "zeppelin", "test")
    assert found.wait(30) and found.result == []


def test_ids_beyond_the_vocabulary_are_left_out_of_the_text() -> None:
    known = vocabulary()
    assert text_of(known, [*known.encode("hi"), known.vocab_size + 5, -1]) == "hi"
    assert text_of(None, [7, 8]) == "7 8"


def test_edits_of_a_node_are_its_expansions_and_what_closed_it(finished_run: Path) -> None:
    run = RunStore(finished_run)
    rows = run.frame("entry").filter((pl.col("history") == "book-0") & (pl.col("edit") == "expand"))
    row = rows.row(0, named=True)
    found = edits_of(run, "book-0", Node(row["lod"], row["index"]), K)
    assert (row["arm"], row["question"], row["step"], "expand") in [
        (one.arm, one.question, one.step, one.edit) for one in found
    ]
    closed = run.frame("entry").filter((pl.col("edit") == "collapse") & (pl.col("lod") == 0))
    if len(closed):
        row = closed.row(0, named=True)
        edits = {one.edit for one in edits_of(run, row["history"], Node(1, row["index"]), K)}
        assert "collapse" in edits
