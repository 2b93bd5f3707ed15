"""Rows of one room go on together as each would by itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import ids_of, model_config, stir

from megacontext.errors import ShapeError
from megacontext.models.cache_rows import CacheRows
from megacontext.models.gpt import GPT, NO_TOKEN

B, ROOM = 3, 24


@pytest.fixture(scope="module", params=["classic", "2026-01-16", "current"])
def model(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT(model_config(dialect=request.param, n_kv_head=1, sequence_len=10))
    stir(model, 0)
    return model.eval()


@torch.inference_mode()
def read(model, cache, ids):
    """Hidden states of rows (B, W) behind those of a cache; a gist is a vector that depends on nothing."""
    embeddings = torch.where((ids >= 0)[..., None], model.embed(ids.clamp_min(0)), torch.tensor(0.3))
    where = torch.as_tensor(cache.length) + torch.arange(ids.shape[1])
    return model(embeddings, where[None], ids=ids, cache=cache)


def drawn(count, seed):
    ids = torch.from_numpy(ids_of(count, seed=seed).astype("int64"))[None]
    return torch.where(torch.arange(count) * 7 % 5 == seed % 5, NO_TOKEN, ids)


TURNS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(0, B - 1), st.integers(1, 9)),
        st.tuples(st.just("cut"), st.integers(0, B - 1), st.integers(0, 5)),
        st.tuples(st.just("step"), st.sets(st.integers(0, B - 1), min_size=1), st.integers(0, 50)),
    ),
    max_size=14,
)


@given(turns=TURNS)
@settings(max_examples=30)
def test_rows_that_step_together_hold_and_say_what_each_would_alone(turns, model):
    rows, alone = CacheRows(model, B, ROOM), [model.reserve(1, ROOM) for _ in range(B)]
    for number, (turn, who, much) in enumerate(turns):
        if turn == "read" and rows.rows[who].length + much <= ROOM:
            ids = drawn(much, number)
            torch.testing.assert_close(read(model, rows.rows[who], ids), read(model, alone[who], ids))
        elif turn == "cut":
            length = min(much, alone[who].length)
            rows.rows[who].truncate(length)
            alone[who].truncate(length)
        elif turn == "step":
            going = {row for row in who if alone[row].length < ROOM}
            token = torch.cat([drawn(1, much + row) for row in range(B)])
            where = torch.tensor([[float(row.length)] for row in rows.rows])
            embeddings = torch.where((token >= 0)[..., None], model.embed(token.clamp_min(0)), 0.3)
            with torch.inference_mode():
                hidden = model(embeddings, where, ids=token, cache=rows.next_entry(going))
            for row in going:
                torch.testing.assert_close(
                    hidden[row : row + 1], read(model, alone[row], token[row : row + 1]), atol=2e-5, rtol=1e-5
                )
        assert [row.length for row in rows.rows] == [cache.length for cache in alone]


def test_a_full_row_is_refused_and_does_not_hold_up_the_others(model):
    rows = CacheRows(model, 2, 4)
    read(model, rows.rows[0], drawn(4, 1))
    with pytest.raises(ShapeError, match=r"rows \[0\] of a cache are full"):
        rows.next_entry([0, 1])
    with torch.inference_mode():
        model(model.embed(torch.ones(2, 1, dtype=torch.long)), torch.zeros(2, 1), cache=rows.next_entry([1]))
    assert [row.length for row in rows.rows] == [4, 1]
