"""Facts about how vectors are cut for pages: the arithmetic is LMDB's own."""

import lmdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacontext.tree.layout import Layout, disk_bytes, plan
from megacontext.tree.records import pack_vectors


@given(st.integers(0, 300_000))
def test_parts_cover_the_payload_once_and_in_order(payload_bytes):
    layout = plan(payload_bytes)
    cuts = layout.cuts()
    assert len(cuts) == layout.parts <= 250
    assert [start for start, _ in cuts] == [0, *(stop for _, stop in cuts[:-1])]
    assert cuts[-1][1] == payload_bytes
    assert layout.record_bytes == payload_bytes + 12 * len(cuts)


@given(st.integers(48, 200_000))
def test_no_width_wastes_more_than_a_fifth_of_its_pages(payload_bytes):
    layout = plan(payload_bytes)
    assert disk_bytes(layout) <= 1.2 * layout.record_bytes


@pytest.mark.parametrize("width", [8, 64, 128, 384, 768, 1024, 1536, 2048, 4096, 12_288, 20_000])
def test_the_planned_bytes_are_what_the_file_takes(width, tmp_path):
    layout = plan(2 * width)
    nodes = max(40, 4_000_000 // (2 * width))
    rows = np.zeros((nodes, width), dtype="<f2")
    environment = lmdb.open(str(tmp_path / "f"), subdir=False, max_dbs=1, map_size=1 << 28)
    with environment.begin(write=True) as transaction:
        table = environment.open_db(b"gists.1", transaction)
        records = sorted(pack_vectors("gists.1", 1, 0, rows, layout, 32))
        transaction.cursor(table).putmulti(records, append=True)
    with environment.begin() as transaction:
        pages = transaction.stat(table)
    environment.close()
    taken = pages["psize"] * (pages["leaf_pages"] + pages["overflow_pages"])
    assert taken == pytest.approx(nodes * disk_bytes(layout), rel=0.01)


def test_uncut_a_page_and_a_half_would_waste_a_quarter():
    assert disk_bytes(Layout(1536, 1536)) > 1.3 * 1548 > disk_bytes(plan(1536)) * 1.2
