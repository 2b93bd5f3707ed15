"""What LensNet is shown of an entry: its gist, and the address below it that fits the question best."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import K, ids_of

from megacontext.focus import Edit, WorkingContext
from megacontext.index import WordIndex, words
from megacontext.lensnet.lens import KINDS, TAIL_KIND, LensNet
from megacontext.scoring.descendants import BestBelow
from megacontext.scoring.lens import Gaze, collate, entry_features, gaze_at, lens_scores
from megacontext.scoring.scorer import LAST_TOKENS, Question
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


def looked(memory, encoder, seed=0):
    address = encoder.encode_question(ids_of(10, seed))
    return Gaze(address, BestBelow(memory.addresses() @ address, K))


def test_features_are_those_of_a_loop_over_the_entries(short_memory, encoder):
    memory = short_memory
    gaze = looked(memory, encoder)
    matches = memory.addresses() @ gaze.address
    for seed in range(5):
        context = opened(memory, seed)
        found = entry_features(context, memory, gaze)
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
    alike = Gaze(looked(memory, encoder).address, BestBelow(np.zeros(memory.num_blocks, np.float32), K))
    context = WorkingContext.cover(memory.num_tokens, K)
    found = entry_features(context, memory, alike)
    blocks = context.start[context.lod > 0] // K
    assert np.array_equal(found.addresses[: len(blocks)], memory.addresses()[blocks])


def test_contexts_side_by_side_score_as_each_alone(memory, encoder, bundle):
    gaze = looked(memory, encoder)
    contexts = [opened(memory, seed, expansions=seed) for seed in range(4)]
    score = lens_scores(bundle.lens, memory, gaze)
    with torch.inference_mode():
        given = collate([entry_features(context, memory, gaze) for context in contexts])
        together = bundle.lens.scores(bundle.lens(given)).numpy()
    for row, context in zip(together, contexts, strict=True):
        assert given.present.sum(dim=1).tolist() == [len(context) for context in contexts]
        np.testing.assert_allclose(row[: len(context)], score(context), atol=1e-5)


def test_the_score_of_an_old_entry_changes_when_the_question_does(memory, encoder, bundle):
    context = opened(memory)
    one, other = (lens_scores(bundle.lens, memory, looked(memory, encoder, seed))(context) for seed in (1, 2))
    assert (np.abs(one - other) > 1e-6).mean() > 0.9


@pytest.fixture(scope="module")
def reading_lens(bundle):
    """A LensNet that sees words, for the toy bundle."""
    torch.manual_seed(0)
    address_width = bundle.config.address.address_width
    config = replace(bundle.config.lens, words=True)
    return LensNet(config, gist_width=bundle.gist_width, address_width=address_width).eval()


def test_words_are_the_share_of_the_best_match_of_the_last_words(memory, encoder, bundle, reading_lens):
    tokenizer = bundle.tokenizer
    ids = np.concatenate((ids_of(40), memory.tokens(5 * K, 5 * K + LAST_TOKENS)))
    found = WordIndex.of(memory, tokenizer).scores(words(tokenizer.decode(ids[-LAST_TOKENS:])))
    assert found.max() > 0
    gaze = gaze_at(Question(number=0, ids=ids), memory, encoder, reading_lens, tokenizer)
    context = opened(memory)
    shown = entry_features(context, memory, gaze).words
    for slot, (start, stop) in enumerate(zip(context.start, context.stop, strict=True)):
        below = found[start // K : stop // K]
        np.testing.assert_allclose(shown[slot], below.max(initial=0) / found.max(), rtol=1e-6)
    assert shown.max() == 1


def test_of_what_must_not_be_opened_no_words_are_seen(memory, encoder, bundle, reading_lens):
    ids = memory.tokens(5 * K, 5 * K + LAST_TOKENS)
    asked = Question(number=0, ids=ids, excluded=((5 * K, 6 * K),))
    gaze = gaze_at(asked, memory, encoder, reading_lens, bundle.tokenizer)
    assert gaze.words.values(WorkingContext.raw(memory.num_tokens, K), tail=0.0)[5] == 0


def test_words_that_the_history_does_not_hold_count_for_nothing(memory, encoder, bundle, reading_lens):
    ids = bundle.tokenizer.encode("zyzzyva")
    gaze = gaze_at(Question(number=0, ids=ids), memory, encoder, reading_lens, bundle.tokenizer)
    if not WordIndex.of(memory, bundle.tokenizer).scores(["zyzzyva"]).any():
        assert not entry_features(opened(memory), memory, gaze).words.any()


def test_a_lens_reads_words_only_where_it_was_made_to(memory, encoder, bundle, reading_lens):
    asked = Question(number=0, ids=memory.tokens(5 * K, 5 * K + LAST_TOKENS))
    context = opened(memory)
    assert gaze_at(asked, memory, encoder, bundle.lens, bundle.tokenizer).words is None
    gaze = gaze_at(asked, memory, encoder, reading_lens, bundle.tokenizer)
    blind = Gaze(gaze.address, gaze.matches)
    for lens, differs in ((reading_lens, True), (bundle.lens, False)):
        one, other = (lens_scores(lens, memory, look)(context) for look in (gaze, blind))
        assert (np.abs(one - other) > 1e-6).any() == differs
