"""Attention to gists: what the question's own attention says of each block, flat or walked down the tree."""

import numpy as np
import pytest
import torch
from toys import K, ids_of, model_config, random_bundle

from megacontext.errors import ConfigError
from megacontext.focus.context import WorkingContext
from megacontext.models.attention_mass import AttentionWatch
from megacontext.runtime import gist_reading
from megacontext.runtime.encoding import BundleEncoder
from megacontext.runtime.gist_reading import AttentionToGists
from megacontext.runtime.session import FocusConfig, Session
from megacontext.scoring import SCORERS, Question, ScorerParts
from megacontext.scoring.gist_attention import BEAM
from megacontext.tree import Memory

KINDS = ("embedding", "tokens")


@pytest.fixture(scope="module", params=KINDS)
def bundle_of(request, tokenizer):
    return random_bundle(tokenizer, gists=request.param, model=model_config(n_layer=3, sequence_len=1024))


def memory_of(bundle, ids):
    encoder = BundleEncoder(bundle)
    memory = Memory.create(None, encoder.identity(), encoder)
    memory.append(ids)
    return memory


def reader_of(bundle, memory):
    return AttentionToGists(
        bundle.base, memory, bundle.config.positions, cached_gists=bundle.config.gists == "tokens"
    )


def parts_of(bundle, memory, **changes):
    given = {
        "memory": memory, "tokenizer": bundle.tokenizer, "encoder": BundleEncoder(bundle), "lens": bundle.lens,
        "room_blocks": 4, "seed": 0, "gists": reader_of(bundle, memory),
    }  # fmt: skip
    return ScorerParts(**(given | changes))


def test_all_gists_read_flat_are_a_context_of_gists_alone(bundle_of, monkeypatch):
    """The reader against the session's own way of reading a context and watching its last tokens."""
    monkeypatch.setattr(gist_reading, "QUERIES", 8)
    memory, prompt = memory_of(bundle_of, ids_of(12 * K)), ids_of(9, seed=1)
    session = Session(bundle_of, memory, FocusConfig(budget=64))
    context = WorkingContext(np.ones(12, dtype=np.int64), np.arange(12), 12 * K, K)
    wanted = session._attention(context, prompt)[:12]
    found = reader_of(bundle_of, memory)(np.ones(12, dtype=np.int64), np.arange(12), prompt)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    session_scorer = session.scorer("gist-attention")
    np.testing.assert_allclose(session_scorer.block_values(Question(number=0, ids=prompt)), wanted, atol=1e-6)


def test_more_gists_than_the_reach_share_it_in_order(bundle_of):
    count = int(gist_reading.REACH) + 9
    memory, prompt = memory_of(bundle_of, ids_of(count * K)), ids_of(5, seed=2)
    reader = reader_of(bundle_of, memory)
    for few in (1, count - 9, count):
        found = reader._reading(np.ones(few, dtype=np.int64), np.arange(few), prompt).positions
        assert (np.diff(found) > 0).all() and found[0] == 0
        assert found[few:].tolist() == [min(few, gist_reading.REACH) + at for at in range(5)]


def test_masses_by_head_are_shares_whose_mean_is_the_mass(bundle_of):
    memory, prompt = memory_of(bundle_of, ids_of(6 * K)), ids_of(5, seed=2)
    reader, lod = reader_of(bundle_of, memory), np.ones(6, dtype=np.int64)
    heads = reader.by_head(lod, np.arange(6), prompt)
    assert heads.shape == (3, 2, 6) and (heads >= 0).all() and (heads.sum(axis=2) < 1).all()
    np.testing.assert_allclose(reader(lod, np.arange(6), prompt), heads.mean(axis=(0, 1)), atol=1e-6)


def test_a_gist_whose_key_fits_the_question_best_comes_first(tokenizer):
    """Keys of one block are set by hand to what the question asks for: it is opened, flat and by the walk."""
    bundle = random_bundle(tokenizer, gists="tokens", model=model_config(n_layer=3, sequence_len=1024))
    memory, prompt = memory_of(bundle, ids_of(2 * K * K)), ids_of(6, seed=3)
    reader = reader_of(bundle, memory)
    with torch.inference_mode(), AttentionWatch(bundle.base, queries=1) as watch:
        cache = bundle.base.reserve(1, 6)
        where = torch.arange(6)[None].double()
        rows = torch.from_numpy(prompt.astype("int64"))[None]
        bundle.base(bundle.base.embed(rows), where, ids=rows, cache=cache)
        queries = [watch._seen[layer][0][0, 0] for layer in range(3)]  # (H, D) each, at position 5
        wanted = torch.stack([bundle.base.turn(one, torch.full(one.shape[:1], -5.0)) for one in queries])
    sought = 11
    real = memory.gists_at

    def gists_at(lod, index):
        gists = real(lod, index).copy()
        hit = (index == sought) & (lod == 1) | (index == sought // K) & (lod == 2)
        keys = gists.reshape(len(gists), 2, 3, -1)
        keys[hit, 0] = wanted.flatten(1).numpy()
        return gists

    memory.gists_at = gists_at
    asked = Question(number=0, ids=prompt)
    parts = parts_of(bundle, memory, gists=reader)
    for name in ("gist-attention", "gist-attention-beam"):
        assert SCORERS.get(name)(parts).block_values(asked).argmax() == sought, name


@pytest.mark.parametrize("blocks", [0, 1, K - 1, K, K + 1, K * K, K * K + K + 3])
def test_the_walk_reads_the_children_of_the_best_and_what_has_no_parent(bundle_of, blocks):
    memory, prompt = memory_of(bundle_of, ids_of(blocks * K + 3)), ids_of(6, seed=3)
    read = []
    reader = reader_of(bundle_of, memory)

    def watched(lod, index, ids):
        read.append((int(lod[0]) if len(lod) else 0, index))
        return reader(lod, index, ids)

    values = SCORERS.get("gist-attention-beam")(parts_of(bundle_of, memory, gists=watched)).block_values(
        Question(number=0, ids=prompt)
    )
    assert values.shape == (blocks,)
    if not blocks:
        return
    assert [lod for lod, _ in read] == list(range(read[0][0], 0, -1))
    assert all(len(index) <= (BEAM + 1) * K for _, index in read)
    for _, index in read:
        assert (np.diff(index) > 0).all()
    lowest = read[-1][1]
    assert np.array_equal(np.flatnonzero(values > -np.inf), lowest)
    # Blocks at the end without a parent are always read.
    assert set(range(blocks // K * K, blocks)) <= set(lowest.tolist())


def test_with_as_few_blocks_as_a_beam_has_room_for_both_rank_alike(bundle_of):
    memory, asked = memory_of(bundle_of, ids_of((K + 3) * K)), Question(number=0, ids=ids_of(6, seed=3))
    parts = parts_of(bundle_of, memory)
    flat, walked = (
        SCORERS.get(name)(parts).block_values(asked) for name in ("gist-attention", "gist-attention-beam")
    )
    np.testing.assert_allclose(walked, flat, atol=1e-6)


@pytest.mark.parametrize("name", ["gist-attention", "gist-attention-beam"])
def test_without_a_model_that_reads_gists_there_is_no_attention_to_them(name, bundle_of):
    memory = memory_of(bundle_of, ids_of(K))
    with pytest.raises(ConfigError, match="needs a model that reads gists, none was given"):
        SCORERS.get(name)(parts_of(bundle_of, memory, gists=None))


@pytest.mark.parametrize("name", ["gist-attention", "gist-attention-beam", "attention", "lensnet", "oracle"])
def test_a_session_over_gist_tokens_focuses_within_its_budget_and_answers(name, tokenizer, planted):
    bundle = random_bundle(tokenizer, gists="tokens", model=model_config(n_layer=3, sequence_len=1024))
    session = Session(bundle, memory_of(bundle, planted.ids), FocusConfig(budget=96), scorer=name)
    prompt = tokenizer.encode(planted.questions[0].prompt)
    reading = session.read(session.focus(prompt, needed_blocks=(5,)).context, prompt)
    assert reading.cost <= 96 and len(reading.cached_slots) and not len(reading.gist_slots)
    assert isinstance(session.decode([reading])[0], str)
