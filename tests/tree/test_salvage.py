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


@pytest.mark.parametrize("metas", ["sound", "lost"])
@pytest.mark.parametrize("bit", range(8))
def test_no_single_bit_of_a_header_costs_a_record(bit, metas, sound, tmp_path):
    raw, where, records = sound
    whole = raw if metas == "sound" else bytes(2 * PAGE) + raw[2 * PAGE :]
    expected = {record for table in records.values() for record in table}
    # Of the last leaf there is no older copy that could stand in for it.
    for page in (where.leaves[-1], where.trees["short"].root, where.overflow):
        for offset in range(16):
            damaged = bytearray(whole)
            damaged[page * PAGE + offset] ^= 1 << bit
            found = salvaged(tmp_path, damaged)
            assert expected.issubset(record for table in found.values() for record in table), (page, offset)


def test_a_leaf_that_calls_itself_a_branch_gives_its_records(sound, tmp_path):
    raw, where, records = sound
    damaged = bytearray(raw)
    damaged[where.leaves[-1] * PAGE + 10] = 1
    assert salvaged(tmp_path, damaged)["blocks"] == records["blocks"]


def test_a_hidden_pointer_does_not_bring_back_what_was_deleted(tmp_path):
    file = write(tmp_path / "source", puts("one", NUMBERED[:40], 68))
    write(file, deletes("one", NUMBERED[20:30]))
    (table,) = (page for page in salvage(file) if page.table == "one")
    damaged = bytearray(file.read_bytes())
    damaged[table.page * PAGE + 12] -= 4
    assert Counter(salvaged(tmp_path, damaged)["one"]) == Counter(contents(file)[0]["one"])


def test_a_leaf_that_changed_places_with_a_meta_page_is_found(sound, tmp_path):
    raw, where, records = sound
    leaf = where.leaves[-1]
    for meta in (0, 1):
        damaged = bytearray(raw)
        damaged[meta * PAGE : (meta + 1) * PAGE] = raw[leaf * PAGE : (leaf + 1) * PAGE]
        damaged[leaf * PAGE : (leaf + 1) * PAGE] = raw[meta * PAGE : (meta + 1) * PAGE]
        found = salvaged(tmp_path, damaged)
        assert {record for table in found.values() for record in table}.issuperset(records["blocks"])


def test_a_value_that_claims_too_many_pages_swallows_none_of_them(sound, tmp_path):
    raw, where, records = sound
    (tmp_path / "whole").write_bytes(raw)
    *_, at = next(leaf_nodes(Pages(tmp_path / "whole", PAGE), where.big_leaf))
    claimed = len(raw) // PAGE - where.overflow
    damaged = bytearray(raw)
    struct.pack_into("<I", damaged, at, claimed * PAGE - 16)
    struct.pack_into("<I", damaged, where.overflow * PAGE + 12, claimed)
    found = salvaged(tmp_path, damaged)
    assert all(found[name] == records[name] for name in ("blocks", "short", "shuffled"))
    assert not set(records["big"][1:]) - set(found["big"])


def test_a_loose_record_is_no_free_list_for_looking_a_little_like_one(tmp_path):
    value = struct.pack("<QQ", 1, 77)
    file = write(
        tmp_path / "source",
        lambda opened, transaction: [
            transaction.put(key, value, db=opened.open_db(b"one", transaction)) for key in NUMBERED[:3]
        ],
    )
    raw = file.read_bytes()
    assert (NUMBERED[1], value) in salvaged(tmp_path, bytes(2 * PAGE) + raw[2 * PAGE :])[None]


def test_the_free_list_is_no_record_even_if_nothing_leads_to_it(sound, tmp_path):
    raw, _, _ = sound
    found = salvaged(tmp_path, bytes(2 * PAGE) + raw[2 * PAGE :])[None]
    early_transactions = {struct.pack("<Q", number) for number in range(1, 20)}
    assert not early_transactions & {key for key, _ in found}


def page_of_nodes(number, flags, nodes, copies=1):
    """A page with `nodes` at its end, each of whose pointers is there `copies` times."""
    end, pointers = PAGE, []
    page = bytearray(PAGE)
    for node in nodes:
        end -= len(node) + 1 & ~1
        page[end : end + len(node)] = node
        pointers += [end] * copies
    struct.pack_into("<QHHHH", page, 0, number, 0, flags, 16 + 2 * len(pointers), end)
    struct.pack_into(f"<{len(pointers)}H", page, 16, *pointers)
    return bytes(page)


def test_values_that_all_lie_in_one_place_are_not_read_without_end(tmp_path):
    leaves, run = 120, 120
    node = struct.pack("<IHH", run * PAGE - 16, 1, 8)
    pages = [bytes(2 * PAGE)]
    for number in range(2, leaves):
        keys = NUMBERED[number * 10 : number * 10 + 140]
        pages.append(page_of_nodes(number, 2, [node + key + struct.pack("<Q", leaves) for key in keys]))
    pages.append(struct.pack("<QHHI", leaves, 0, 4, run) + bytes(run * PAGE - 16))
    raw = b"".join(pages)
    (tmp_path / "data").write_bytes(raw)
    given = [sum(len(value) for _, value in page.records) for page in salvage(tmp_path / "data")]
    assert max(given) <= len(raw) and len(raw) < sum(given) <= 32 * len(raw)


def test_branches_that_all_name_one_another_end(sound, tmp_path):
    raw, where, _ = sound
    pages = 800
    damaged = bytearray(raw[: 2 * PAGE])
    for meta in (0, 1):
        struct.pack_into("<Q", damaged, meta * PAGE + 128, 2)  # root of the table of tables
    for number in range(2, pages):
        children = [pages - 1, 2, number, min(number + 1, pages - 1)]
        nodes = [struct.pack("<IHH", child, 0, 0) for child in children]
        damaged += page_of_nodes(number, 1, nodes, copies=500)
    assert where.main > 2 and salvaged(tmp_path, damaged) == {}


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_in_the_frame_of_a_leaf_are_survived(seed, tmp_path):
    rng = random.Random(seed)
    pages = [
        struct.pack("<QHHHH", number, 0, rng.choice([1, 2, 4]), rng.randrange(PAGE), PAGE)
        + rng.randbytes(PAGE - 16)
        for number in range(30)
    ]
    found = salvaged(tmp_path, b"".join(pages)[: -rng.randrange(1, PAGE)])
    assert all(len(key) <= 511 for records in found.values() for key, _ in records)


@pytest.mark.parametrize("content", [b"", b"short", bytes(5 * PAGE), b"no database " * 5000])
def test_what_is_no_data_file_gives_nothing(content, tmp_path):
    assert salvaged(tmp_path, content) == {}


def test_a_missing_file_is_no_empty_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        list(salvage(tmp_path / "nowhere"))


@pytest.mark.parametrize("trials", [300, pytest.param(5000, marks=pytest.mark.long)])
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
