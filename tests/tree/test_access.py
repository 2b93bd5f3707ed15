"""Facts about access statistics."""

import numpy as np
import pytest
from tree_fakes import everything, random_ids

from megacontext.errors import ConfigError
from megacontext.tree import Memory


def observe(memory, entries, expanded, time_ms):
    lod, index = np.array(entries).T
    memory.record_access(lod, index, np.array(expanded), time_ms=time_ms)


def test_counts_add_up_over_writers_and_vectors_are_not_rewritten(tmp_path, encoder, identity):
    with Memory.create(tmp_path / "m", identity, encoder) as memory:
        memory.append(random_ids(32 * 40 + 3))
        held = everything(memory)
        observe(memory, [(2, 0), (1, 32), (0, 33), (0, 40)], [True, False, False, False], 1000)
        observe(memory, [(1, 3), (1, 32), (0, 33)], [True, False, False], 2000)
    with Memory.open(tmp_path / "m", identity, encoder, writable=True) as memory:
        pages = memory.store.table_pages()
        observe(memory, [(2, 0), (0, 33)], [True, False], 500)
        observe(memory, [(1, 32), (0, 33)], [True, False], 3000)
        memory.access.flush()
        assert {n: p for n, p in memory.store.table_pages().items() if "gists" in n} == {
            n: p for n, p in pages.items() if "gists" in n
        }
    with Memory.open(tmp_path / "m", identity) as memory:
        assert memory.access.steps == 4
        top = memory.access.of(2, 0)
        assert (top.times_expanded, top.gist_steps, top.raw_steps, top.last_expanded_ms) == (2, 2, 0, 1000)
        assert top.residency == 0.5
        assert memory.access.of(1, 33).residency == 1.0 and memory.access.of(1, 33).raw_steps == 4
        assert memory.access.of(1, 7).residency == 0.0
        # In time order; the unfinished block is no node.
        assert [(node.lod, node.index) for node in memory.access] == [(1, 3), (2, 0), (1, 32), (1, 33)]
        for name, array in everything(memory).items():
            np.testing.assert_array_equal(array, held[name])
        with pytest.raises(ConfigError, match="writable=True"):
            observe(memory, [(1, 3)], [True], 1)
