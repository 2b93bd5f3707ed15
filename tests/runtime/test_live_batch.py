"""Sessions that speak side by side say what each would say alone."""

import numpy as np
import pytest
from toys import K, ids_of, random_bundle

from megacontext.errors import ConfigError
from megacontext.runtime.batch import LiveBatch
from megacontext.runtime.live import LiveConfig, LiveSession
from megacontext.runtime.session import FocusConfig, Session
from megacontext.tree import Memory

LENGTHS, BUDGETS = (5, 300, 1025, 77), (96, 96, 128, 64)


def lives(bundle, encoder, *, layout="timeline", scorer="lensnet"):
    made = []
    for number, (tokens, budget) in enumerate(zip(LENGTHS, BUDGETS, strict=True)):
        memory = Memory.create(None, encoder.identity(), encoder)
        memory.append(ids_of(tokens, seed=number))
        session = Session(bundle, memory, FocusConfig(budget=budget), scorer=scorer)
        made.append(LiveSession(session, LiveConfig(layout=layout), seed=number))
    return made


@pytest.mark.parametrize("how", [{}, {"temperature": 0.8, "top_k": 20}])
@pytest.mark.parametrize("layout", ["timeline", "cover-first"])
def test_each_says_what_it_says_alone_and_stays_within_its_budget(how, layout, bundle, encoder):
    alone = [list(live.generate(75, **how)) for live in lives(bundle, encoder, layout=layout)]
    together = lives(bundle, encoder, layout=layout)
    said = []
    for tokens in LiveBatch(together).generate(75, **how):
        said.append(tokens)
        assert all(len(live.cache) <= live.budget for live in together)
    assert np.array(said).T.tolist() == alone
    for live, row, tokens in zip(together, alone, LENGTHS, strict=True):
        assert live.memory.tokens(tokens, live.memory.num_tokens).tolist() == row
        assert live.context.num_tokens == live.memory.num_tokens


def test_they_end_one_by_one_and_go_on_alone_or_together(bundle, encoder):
    alone = [list(live.generate(60)) for live in lives(bundle, encoder)]
    stop = alone[1][9]
    together = lives(bundle, encoder)
    batch = LiveBatch(together)
    said = [list(row) for row in zip(*batch.generate(40, stop_ids={stop}), strict=True)]
    for live, row, whole, tokens in zip(together, said, alone, LENGTHS, strict=True):
        expected = whole[: whole.index(stop)] if stop in whole[:40] else whole[:40]
        assert [token for token in row if token is not None] == expected
        assert live.memory.num_tokens == tokens + len(expected)
    assert len({len([token for token in row if token is not None]) for row in said}) > 1
    # One by one: each goes on where it ended, whatever it shares with the others.
    for live, whole, tokens in zip(together, alone, LENGTHS, strict=True):
        done = live.memory.num_tokens - tokens
        assert list(live.generate(60 - done)) == whole[done:]


@pytest.mark.parametrize("end", ["close", "throw"])
def test_a_listener_who_leaves_early_leaves_nothing_unsaid(end, bundle, encoder):
    alone = [list(live.generate(30)) for live in lives(bundle, encoder)]
    together = lives(bundle, encoder)
    batch = LiveBatch(together)
    speech = batch.generate(30)
    heard = [next(speech) for _ in range(K + 3)]
    if end == "close":
        speech.close()
    else:
        with pytest.raises(KeyboardInterrupt):
            speech.throw(KeyboardInterrupt())
    heard += list(batch.generate(30 - len(heard)))
    assert np.array(heard).T.tolist() == alone


def test_one_that_hears_something_in_between_falls_silent_and_the_others_go_on(bundle, encoder):
    alone = [list(live.generate(30)) for live in lives(bundle, encoder)]
    together = lives(bundle, encoder)
    speech = LiveBatch(together).generate(30)
    heard = [next(speech) for _ in range(7)]
    together[2].observe(ids_of(4))
    heard += list(speech)
    said = [[token for token in row if token is not None] for row in zip(*heard, strict=True)]
    assert said == [alone[0], alone[1], alone[2][:7], alone[3]]
    stored = together[2].memory.tokens(LENGTHS[2], together[2].memory.num_tokens).tolist()
    assert stored == alone[2][:7] + ids_of(4).tolist()


def test_sessions_that_do_not_belong_together_are_refused(bundle, encoder, tokenizer):
    one, other = lives(bundle, encoder)[:2]
    with pytest.raises(ConfigError, match="share one model and have a memory each"):
        LiveBatch([one, LiveSession(one.session)])
    with pytest.raises(ConfigError, match="share one model"):
        LiveBatch([])
    foreign = LiveSession(Session(random_bundle(tokenizer), other.memory, FocusConfig(budget=96)))
    with pytest.raises(ConfigError, match="2 models"):
        LiveBatch([one, foreign])
