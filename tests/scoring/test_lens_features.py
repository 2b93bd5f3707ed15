"""What LensNet is shown of an entry: its gist, and the address below it that fits the question best."""

import numpy as np
import pytest
import torch
from toys import K, ids_of

from megacontext.focus import Edit, WorkingContext
from megacontext.lensnet.lens import KINDS, TAIL_KIND
from megacontext.scoring.lens import collate, entry_features, lens_scores
from megacontext.tree import Memory


@pytest.fixture(scope="module", params=[0, 1, K - 1, K, K + 1, K * K - 1, K * K, K * K + 1, 601])
def short_memory(request, encoder):
    memory = Memory.create(None, encoder.identity(), encoder)
    memory.append(ids_of(request.param))
    return memory


def opened(memory, seed=0, expansions=6):
    """The cover of a memory, opened at random places."""
    rng, context = np.random.default_rng(seed), WorkingContext.cover(memory.num_tokens, memory.block_size)
    for _ in range(expansions):
        if len(gists := np.flatnonzero(context.lod)):
            context = context.edited([Edit("expand", int(rng.choice(gists)))])
    return context


def asked(memory, encoder, seed=0):
    question = encoder.encode_question(ids_of(10, seed))
    return question, memory.addresses() @ question


def test_features_are_those_of_a_loop_over_the_entries(short_memory, encoder):
    memory = short_memory
    question, matches = asked(memory, encoder)
    for seed in range(5):
        context = opened(memory, seed)
        found = entry_features(context, memory, question, matches)
        assert len(found.kind) == len(context)
        for slot in range(len(context)):
            lod, index = int(context.lod[slot]), int(context.index[slot])
            blocks = list(range(context.start[slot] // K, context.stop[slot] // K))
            if not blocks:
                assert found.kind[slot] == TAIL_KIND and found.match[slot] == 0
                assert not found.gists[slot].any() and not found.addresses[slot].any()
                continue
            best = max(blocks, key=lambda block: matches[block])
            assert found.match[slot] == matches[best]
            assert np.array_equal(found.addresses[slot], memory.addresses()[best])
            assert np.array_equal(found.gists[slot], memory.gists(max(lod, 1), [index])[0])
            assert found.kind[slot] == min(lod + 1, KINDS - 1)


def test_of_equal_matches_the_first_block_is_shown(memory, encoder):
    question, matches = asked(memory, encoder)
    context = WorkingContext.cover(memory.num_tokens, K)
    found = entry_features(context, memory, question, np.zeros_like(matches))
    blocks = context.start[context.lod > 0] // K
    assert np.array_equal(found.addresses[: len(blocks)], memory.addresses()[blocks])


def test_contexts_side_by_side_score_as_each_alone(memory, encoder, bundle):
    question, matches = asked(memory, encoder)
    contexts = [opened(memory, seed, expansions=seed) for seed in range(4)]
    score = lens_scores(bundle.lens, memory, question, matches)
    with torch.inference_mode():
        given = collate([entry_features(context, memory, question, matches) for context in contexts])
        together = bundle.lens.scores(bundle.lens(given)).numpy()
    for row, context in zip(together, contexts, strict=True):
        assert given.present.sum(dim=1).tolist() == [len(context) for context in contexts]
        np.testing.assert_allclose(row[: len(context)], score(context), atol=1e-5)


def test_the_score_of_an_old_entry_changes_when_the_question_does(memory, encoder, bundle):
    context = opened(memory)
    one, other = (lens_scores(bundle.lens, memory, *asked(memory, encoder, seed))(context) for seed in (1, 2))
    assert (np.abs(one - other) > 1e-6).mean() > 0.9
