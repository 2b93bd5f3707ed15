"""Facts about what can be read from a damaged data file: nothing that is still there is lost."""

import random
import struct
from collections import Counter

import pytest
from page_fakes import (
    NUMBERED,
    PAGE,
    anatomy,
    contents,
    deletes,
    leaf_nodes,
    node_offsets,
    puts,
    random_damage,
    rich,
    write,
)

from megacontext.tree.page_file import Pages
from megacontext.tree.salvage import salvage


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Bytes, anatomy and records of a `rich` file."""
    file = rich(tmp_path_factory.mktemp("rich") / "data")
    return file.read_bytes(), anatomy(file), contents(file)[0]


def salvaged(tmp_path, raw):
    """Records by table; those of pages that nothing reaches under None."""
    (tmp_path / "data").write_bytes(raw)
    found = {}
    for page in salvage(tmp_path / "data"):
        found.setdefault(page.table, []).extend(page.records)
    return found


def assert_nothing_lost(found, records, tables):
    """Every record is found, those of `tables` under their own name and all others loose."""
    for name, expected in records.items():
        there = found.get(name, []) if name in tables else found[None]
        assert not Counter(expected) - Counter(there), name
    assert set(found) - {None} == set(tables)


def zeroed(raw, page):
    return raw[: page * PAGE] + bytes(PAGE) + raw[(page + 1) * PAGE :]


def test_a_healthy_file_gives_exactly_its_records(sound, tmp_path):
    raw, _, records = sound
    found = salvaged(tmp_path, raw)
    found.pop(None)
    assert found == records


def test_pages_of_a_table_come_in_the_order_of_their_keys(sound, tmp_path):
    raw, where, _ = sound
    (tmp_path / "data").write_bytes(raw)
    assert [page.page for page in salvage(tmp_path / "data") if page.table == "blocks"] == where.leaves


@pytest.mark.parametrize("count", [0, 1, 400])
def test_a_file_that_was_written_once_gives_nothing_loose(count, tmp_path):
    file = write(tmp_path / "source", puts("one", NUMBERED[:count], 68))
    expected = {"one": contents(file)[0]["one"]} if count else {}
    assert salvaged(tmp_path, file.read_bytes()) == expected


def test_a_deleted_record_is_never_given_as_its_table_s(tmp_path):
    file = write(tmp_path / "source", puts("one", NUMBERED[:300], 68), deletes("one", NUMBERED[50:60]))
    found = salvaged(tmp_path, file.read_bytes())
    assert found.pop("one") == contents(file)[0]["one"]
    assert {key for key, _ in found.get(None, [])} <= set(NUMBERED[:300])


def test_a_lost_branch_page_loses_no_record(sound, tmp_path):
    raw, where, records = sound
    found = salvaged(tmp_path, zeroed(raw, where.trees["blocks"].root))
    assert_nothing_lost(found, records, ["big", "short", "shuffled"])


def test_a_lost_table_of_tables_loses_no_record(sound, tmp_path):
    raw, where, records = sound
    # The older meta page still leads to the tables as they were, so most pages have their names.
    found = salvaged(tmp_path, zeroed(raw, where.main))
    together = Counter(record for pages in found.values() for record in pages)
    for expected in records.values():
        assert not Counter(expected) - together
    assert {"big", "short", "shuffled"} <= set(found)


def test_lost_meta_pages_lose_no_record(sound, tmp_path):
    raw, _, records = sound
    assert_nothing_lost(salvaged(tmp_path, bytes(2 * PAGE) + raw[2 * PAGE :]), records, [])
    found = salvaged(tmp_path, bytes(PAGE) + raw[PAGE:])
    assert_nothing_lost(found, records, records)


def test_a_lost_leaf_loses_its_own_records_only(sound, tmp_path):
    raw, where, records = sound
    (tmp_path / "whole").write_bytes(raw)
    own = [(key, value) for key, value, _ in leaf_nodes(Pages(tmp_path / "whole", PAGE), where.leaves[5])]
    found = salvaged(tmp_path, zeroed(raw, where.leaves[5]))
    found.pop(None)
    expected = {**records, "blocks": [record for record in records["blocks"] if record not in own]}
    assert len(own) > 10 and found == expected


@pytest.mark.parametrize(
    ("offset", "value", "lost"),
    [
        (0, 0xFFFF, None),  # its own number: the page gives all, and stands with those that nothing reaches
        (10, 0x12, 0),  # flags
        (12, 0xFFFE, 0),  # lower bound
        (14, 0xFFFF, 0),  # upper bound
        (22, 0xFFFF, 1),  # a pointer
        (22, 4, 1),
    ],
)
def test_a_page_that_is_damaged_in_places_gives_the_rest(offset, value, lost, sound, tmp_path):
    raw, where, records = sound
    damaged = bytearray(raw)
    struct.pack_into("<H", damaged, where.leaves[3] * PAGE + offset, value)
    found = salvaged(tmp_path, damaged)
    if lost is None:
        assert not Counter(records["blocks"]) - Counter(found["blocks"] + found[None])
        assert len(found["blocks"]) < len(records["blocks"])
    else:
        missing = Counter(records["blocks"]) - Counter(found["blocks"])
        assert missing.total() == lost


def test_a_damaged_length_loses_one_record_or_two(sound, tmp_path):
    raw, where, records = sound
    (tmp_path / "whole").write_bytes(raw)
    for at in node_offsets(Pages(tmp_path / "whole", PAGE), where.leaves[3])[:5]:
        for offset, value in ((0, 40_000), (6, 0), (6, 40_000), (4, 0xFF)):
            damaged = bytearray(raw)
            struct.pack_into("<H", damaged, at + offset, value)
            missing = Counter(records["blocks"]) - Counter(salvaged(tmp_path, damaged)["blocks"])
            assert missing.total() == 1


def test_swapped_pages_are_told_by_their_numbers(sound, tmp_path):
    raw, where, records = sound
    one, other = where.leaves[6], where.trees["short"].root
    damaged = bytearray(raw)
    damaged[one * PAGE : (one + 1) * PAGE] = raw[other * PAGE : (other + 1) * PAGE]
    damaged[other * PAGE : (other + 1) * PAGE] = raw[one * PAGE : (one + 1) * PAGE]
    found = salvaged(tmp_path, damaged)
    assert set(found["blocks"]) <= set(records["blocks"]) and "short" not in found
    assert set(records["short"]) | set(records["blocks"]) <= {*found["blocks"], *found[None]}


@pytest.mark.parametrize("content", [b"", b"short", bytes(5 * PAGE), b"no database " * 5000])
def test_what_is_no_data_file_gives_nothing(content, tmp_path):
    assert salvaged(tmp_path, content) == {}


def test_a_missing_file_is_no_empty_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        list(salvage(tmp_path / "nowhere"))


@pytest.mark.parametrize("trials", [100, pytest.param(5000, marks=pytest.mark.long)])
def test_no_damage_costs_a_record_that_it_does_not_touch(trials, sound, tmp_path):
    raw, where, _ = sound
    (tmp_path / "data").write_bytes(raw)
    pages = [page for page in salvage(tmp_path / "data") if page.table is not None]
    overflow = {page for first, count in where.runs.items() for page in range(first, first + count)}
    rng = random.Random(trials)
    for _ in range(trials):
        damaged = bytearray(raw)
        random_damage(damaged, rng)
        touched = {
            page
            for page in range(2, len(raw) // PAGE)
            if damaged[page * PAGE : (page + 1) * PAGE] != raw[page * PAGE : (page + 1) * PAGE]
        }
        if touched & overflow:
            touched.add(where.big_leaf)
        found = {record for records in salvaged(tmp_path, damaged).values() for record in records}
        for page in pages:
            assert page.page in touched or found.issuperset(page.records), page.page
