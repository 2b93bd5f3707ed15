"""Facts about the allocator's memory: it is saved as plain numbers, and nothing else passes for it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megacontext.errors import ConfigError
from megacontext.focus import AllocatorState
from megacontext.spans import Node

nodes = st.builds(Node, st.integers(1, 6), st.integers(0, 10**9))
times = st.dictionaries(nodes, st.integers(0, 10**6), max_size=5)


@given(st.integers(0, 10**6), times, times, st.frozensets(nodes, max_size=5))
@settings(max_examples=60)
def test_a_state_survives_json(step, expanded, collapsed, closed):
    state = AllocatorState(step=step, expanded_at=expanded, collapsed_at=collapsed, closed=closed)
    assert AllocatorState.from_plain(json.loads(json.dumps(state.to_plain()))) == state


@pytest.mark.parametrize(
    "change",
    [
        {"step": -1}, {"step": 1.5}, {"step": None}, {"step": True}, {"closed": [[1]]}, {"closed": 3},
        {"expanded_at": [[1, 2]]}, {"collapsed_at": [["1", 2, 3]]},
    ],
)  # fmt: skip
def test_what_is_no_state_is_refused(change):
    plain = AllocatorState().to_plain()
    with pytest.raises(ConfigError, match="what to_plain wrote"):
        AllocatorState.from_plain(plain | change)
    del plain[next(iter(change))]
    with pytest.raises(ConfigError, match="KeyError"):
        AllocatorState.from_plain(plain)
