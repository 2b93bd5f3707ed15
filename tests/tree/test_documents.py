"""Facts about documents: where sources begin and end, and how spans are cited."""

import numpy as np
import pytest
from tree_fakes import random_ids

from megacontext.errors import ConfigError, NodeMissingError
from megacontext.tree import Memory


@pytest.fixture
def memory(encoder, identity, tmp_path):
    with Memory.create(tmp_path / "m", identity, encoder) as memory:
        yield memory


def add(memory, name, count, **more):
    with memory.document(name, **more) as begun:
        memory.append(random_ids(count, seed=count))
    return begun.number


def test_a_span_is_cited_by_the_documents_that_it_lies_in(memory):
    memory.append(random_ids(7))
    add(memory, "book.txt", 20_000, media_type="text/plain", tags=("novel",), time="1811-10-30")
    add(memory, "empty.txt", 0)
    add(memory, "notes.md", 40)
    assert [str(one) for one in memory.cite(12_041, 12_073)] == ["book.txt, tokens 12,034-12,066"]
    across = memory.cite(0, memory.num_tokens)
    assert [str(one) for one in across] == ["book.txt, tokens 0-20,000", "notes.md, tokens 0-40"]
    assert [str(one) for one in memory.cite(20_000, 20_010)] == [
        "book.txt, tokens 19,993-20,000",
        "notes.md, tokens 0-3",
    ]
    assert memory.cite(0, 7) == [] and memory.cite(9, 9) == []
    assert memory.documents[0].tags == ("novel",) and memory.documents[0].time == "1811-10-30"


def test_citing_agrees_with_looking_at_every_document(memory):
    rng = np.random.default_rng(3)
    for number in range(40):
        memory.append(random_ids(int(rng.integers(0, 3))))
        add(memory, f"d{number}", int(rng.integers(0, 30)))
    everyone = list(memory.documents)
    for _ in range(200):
        start, stop = sorted(rng.integers(0, memory.num_tokens + 1, size=2).tolist())
        slow = [d.number for d in everyone if max(start, d.start) < min(stop, d.stop)]
        assert [citation.document.number for citation in memory.cite(start, stop)] == slow


def test_the_newest_document_of_a_name_is_found(memory):
    first, second = add(memory, "a", 3), add(memory, "a", 4)
    assert memory.documents.named("a").number == second
    assert memory.documents.named("b") is None
    memory.supersede(first, second)
    assert (memory.documents[first].state, memory.documents[first].superseded_by) == ("superseded", second)
    with pytest.raises(ConfigError, match="another that is there"):
        memory.supersede(first, first)


def test_a_document_that_was_cut_off_stays_open_and_goes_on(encoder, identity, tmp_path):
    ids = random_ids(100)
    with Memory.create(tmp_path / "m", identity, encoder) as memory:
        with pytest.raises(KeyboardInterrupt), memory.document("long.txt", digest="d1"):
            memory.append(ids[:61])
            raise KeyboardInterrupt
        assert memory.documents[0].state == "open" and memory.documents[0].num_tokens == 61
    with Memory.open(tmp_path / "m", identity, encoder, writable=True) as memory:
        with memory.document("long.txt", digest="d1") as begun:
            assert begun.num_tokens == 61
            memory.append(ids[begun.num_tokens :])
        assert len(memory.documents) == 1
        assert memory.documents[0].state == "whole" and memory.documents[0].num_tokens == 100
        # Another content under that name is another document.
        with memory.document("long.txt", digest="d2"):
            memory.append(ids[:5])
        assert len(memory.documents) == 2


def test_one_document_is_written_at_a_time(memory):
    with memory.document("a"), pytest.raises(ConfigError, match="'a' is open"), memory.document("b"):
        pass
    with pytest.raises(ConfigError, match="needs a name"), memory.document(""):
        pass
    with pytest.raises(NodeMissingError, match=r"\[0, 1\), got 1"):
        memory.documents[1]


def test_a_reader_sees_documents_grow(encoder, identity):
    memory = Memory.create(None, identity, encoder, durability="batch")
    with memory.document("a"):
        memory.append([1, 2, 3])
        assert memory.documents[0].num_tokens == 3
        memory.append([4])
    assert memory.documents[0].num_tokens == 4
