"""A second look follows what the first one opened, link by link, and adds nothing where nothing leads on."""

import numpy as np
import pytest
import torch
from toys import K

from megacontext.focus import AllocatorConfig, AllocatorState, WorkingContext, refocus
from megacontext.lensnet.lens import LensNet, LensNetConfig
from megacontext.scoring import SCORERS, Question, ScorerParts
from megacontext.scoring.hops import MOST_LOOKS, seen_again
from megacontext.spans import Span

PROMPT = np.arange(5, dtype=np.int32)


class ChainReader:
    """An encoder for which the question is about block chain[0], and each block of the chain about the next one."""

    def __init__(self, memory, chain):
        self.memory, self.chain, self.asked = memory, chain, []

    def encode_question(self, ids):
        assert np.array_equal(ids[-len(PROMPT) :], PROMPT), "the question stands behind what was read"
        read, size = ids[: -len(PROMPT)], self.memory.block_size
        self.asked.append(len(read))
        rows = self.memory.addresses()
        if not len(read):
            return rows[self.chain[0]]
        for block, following in zip(self.chain, [*self.chain[1:], None], strict=True):
            if np.array_equal(read[-size:], self.memory.blocks([block])[0]):
                # The end of the chain asks for what no block is like.
                return rows[following] if following is not None else -rows.mean(axis=0)
        return -rows.mean(axis=0)


class WantsTheSame:
    """In LensNet's place: wants the one entry whose best address is the question's own."""

    config = LensNetConfig()
    scores = staticmethod(LensNet.scores)

    def __call__(self, given):
        return torch.where((given.match > 0.999) & given.present, 4.0, -4.0)


@pytest.fixture(scope="module")
def chain(memory):
    """Blocks far apart, whose addresses are like no other's."""
    rows = memory.addresses()
    alike = (rows @ rows.T > 0.998).sum(axis=1)
    alone = np.flatnonzero(alike == 1).tolist()
    chosen = [alone[-2], alone[1], alone[len(alone) // 2], alone[len(alone) // 4]]
    assert len(set(chosen)) == 4
    return chosen


def parts_of(memory, tokenizer, encoder, lens):
    return ScorerParts(memory=memory, tokenizer=tokenizer, encoder=encoder, lens=lens, room_blocks=8, seed=0)


def opened(score, memory, budget=200, max_steps=40):
    start = WorkingContext.cover(memory.num_tokens, K)
    steps = refocus(start, score, budget, AllocatorState(), AllocatorConfig(), max_steps)
    final = steps[-1].context
    return set(np.flatnonzero(final.is_raw(np.arange(memory.num_blocks))).tolist())


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_a_chain_is_followed_to_its_end_where_one_look_sees_its_first_link_alone(
    memory, tokenizer, chain, length
):
    chain = chain[:length]
    asked = Question(number=0, ids=PROMPT)
    parts = parts_of(memory, tokenizer, ChainReader(memory, chain), WantsTheSame())
    assert opened(SCORERS.get("lensnet")(parts).ask(asked), memory) == {chain[0]}
    assert opened(SCORERS.get("lensnet-hops")(parts).ask(asked), memory) == set(chain)


def test_the_budget_holds_however_long_the_chain(memory, tokenizer, chain):
    parts = parts_of(memory, tokenizer, ChainReader(memory, chain), WantsTheSame())
    score = SCORERS.get("lensnet-hops")(parts).ask(Question(number=0, ids=PROMPT))
    found = [opened(score, memory, budget) for budget in (40, 60, 90, 200)]
    assert len(found[0]) < len(found[-1]) and all(few <= set(chain) for few in found)


def test_scores_are_those_of_one_look_until_something_that_was_wanted_is_open(
    memory, tokenizer, bundle, encoder, planted
):
    """With real networks: never below LensNet's, and equal over a context of gists."""
    asked = Question(number=0, ids=tokenizer.encode(planted.questions[0].prompt))
    parts = parts_of(memory, tokenizer, encoder, bundle.lens)
    one, many = (SCORERS.get(name)(parts).ask(asked) for name in ("lensnet", "lensnet-hops"))
    cover = WorkingContext.cover(memory.num_tokens, K)
    folded = cover.lod > 0
    np.testing.assert_allclose(many(cover)[folded], one(cover)[folded], atol=1e-5)
    raw = WorkingContext.raw(memory.num_tokens, K)
    assert (many(raw) >= one(raw) - 1e-5).all()


def test_a_score_depends_on_the_context_alone_and_not_on_those_before_it(memory, tokenizer, chain):
    parts = parts_of(memory, tokenizer, ChainReader(memory, chain), WantsTheSame())
    used, fresh = (SCORERS.get("lensnet-hops")(parts).ask(Question(number=0, ids=PROMPT)) for _ in range(2))
    opened(used, memory)
    cover = WorkingContext.cover(memory.num_tokens, K)
    np.testing.assert_array_equal(used(cover), fresh(cover))


def test_looks_are_counted_and_each_block_asks_once(memory, tokenizer, chain):
    class WantsAll(WantsTheSame):
        def __call__(self, given):
            return torch.full_like(given.match, 4.0)

    reader = ChainReader(memory, chain)
    score = SCORERS.get("lensnet-hops")(parts_of(memory, tokenizer, reader, WantsAll())).ask(
        Question(number=0, ids=PROMPT)
    )
    raw = WorkingContext.raw(memory.num_tokens, K)
    for _ in range(3):
        score(raw)
    assert len(reader.asked) == MOST_LOOKS and reader.asked[0] == 0


def test_what_is_excluded_is_found_by_no_look(memory, tokenizer, chain):
    hidden = chain[1]
    parts = parts_of(memory, tokenizer, ChainReader(memory, chain), WantsTheSame())
    asked = Question(number=0, ids=PROMPT, excluded=((hidden * K, hidden * K + K),))
    assert opened(SCORERS.get("lensnet-hops")(parts).ask(asked), memory) == {chain[0]}


def test_a_look_reads_a_block_with_what_its_address_has_seen():
    assert seen_again(0, 8, 4) == Span(0, 8)
    assert seen_again(1, 8, 16) == Span(0, 16)
    assert seen_again(5, 8, 4) == Span(36, 48)
    assert seen_again(5, 8, 0) == Span(40, 48)
