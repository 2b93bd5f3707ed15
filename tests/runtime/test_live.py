"""A session that goes on: within its budget at every step, the plain model where all fits, the same after a break."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import VOCABULARY, K, ids_of

from megacontext.errors import BudgetError, CheckpointError, ConfigError, ShapeError
from megacontext.focus import Reason, Rules
from megacontext.runtime.generation import generate
from megacontext.runtime.live import LiveConfig, LiveSession
from megacontext.runtime.session import FocusConfig, Session
from megacontext.telemetry import TelemetryWriter, read
from megacontext.tree import Memory
from megacontext.tree.forgetting import forget_span

BUDGET = 96
LAYOUTS = ("timeline", "cover-first")
NEWLINE = 10


def live_over(
    bundle,
    encoder,
    tokens,
    budget=BUDGET,
    *,
    layout="timeline",
    refocus_blocks=2,
    path=None,
    scorer="recency",
    **options,
):
    memory = Memory.create(path, encoder.identity(), encoder)
    memory.append(ids_of(tokens))
    session = Session(bundle, memory, FocusConfig(budget=budget), scorer=scorer)
    return LiveSession(session, LiveConfig(layout=layout, refocus_blocks=refocus_blocks), **options)


def said_within_budget(live, count, **how):
    """What is said, and at no step more positions than the budget."""
    said = []
    for token in live.generate(count, **how):
        said.append(token)
        assert len(live.cache) <= live.budget
        assert live.context.cost <= live.budget
    return said


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scorer", ["recency", "lensnet", "bm25", "random"])
def test_no_step_of_a_long_decoding_is_above_the_budget(layout, scorer, bundle, encoder):
    live = live_over(bundle, encoder, 10 * BUDGET + 3, layout=layout, scorer=scorer)
    before = live.memory.num_tokens
    said = said_within_budget(live, 3 * BUDGET + 5)
    assert live.memory.num_tokens == before + len(said) == before + 3 * BUDGET + 5
    assert live.memory.tokens(before, live.memory.num_tokens).tolist() == said
    assert live.context.num_tokens == live.memory.num_tokens


@pytest.mark.parametrize("tokens", [1, K - 1, K, K + 1, K * K - 1, K * K, K * K + 1, 1023, 1024, 1025])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_histories_of_awkward_lengths_go_on(tokens, layout, bundle, encoder):
    live = live_over(bundle, encoder, tokens, 64, layout=layout)
    assert len(said_within_budget(live, 2 * K + 1)) == 2 * K + 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_as_long_as_all_fits_it_says_what_the_plain_model_says(layout, bundle, encoder):
    live = live_over(bundle, encoder, 37, 256, layout=layout)
    plain = list(generate(bundle.base, ids_of(37), max_tokens=150))
    assert said_within_budget(live, 150) == plain
    assert not live.context.lod.any()


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_it_refocuses_whenever_that_many_blocks_are_full(blocks, bundle, encoder):
    live = live_over(bundle, encoder, 64 * K, 256, refocus_blocks=blocks)
    at = []
    for _ in live.generate(6 * K * blocks + 1):
        at.append(live.refocused.num_tokens)
    lengths = np.unique(at)
    assert (np.diff(lengths) == blocks * K).all() and len(lengths) >= 6


@given(pieces=st.lists(st.integers(0, 70), min_size=1, max_size=8), layout=st.sampled_from(LAYOUTS))
@settings(max_examples=15)
def test_what_is_heard_in_pieces_of_any_size_stays_within_the_budget(pieces, layout, bundle, encoder):
    live = live_over(bundle, encoder, 5, 64, layout=layout)
    heard = 5
    for number, size in enumerate(pieces):
        live.observe(ids_of(size, seed=number))
        heard += size
        assert live.context.num_tokens == heard == live.memory.num_tokens
        assert len(said_within_budget(live, 3)) == 3
        heard += 3


@pytest.mark.parametrize("count", [1, 5, 23])
def test_in_one_stretch_or_in_many_the_same_is_said(count, bundle, encoder):
    whole = said_within_budget(live_over(bundle, encoder, 300), 60)
    live, said = live_over(bundle, encoder, 300), []
    while len(said) < 60:
        said += said_within_budget(live, min(count, 60 - len(said)))
    assert said == whole


def test_a_listener_who_leaves_early_leaves_nothing_unsaid(bundle, encoder):
    live = live_over(bundle, encoder, 300)
    tokens = live.generate(50)
    heard = [next(tokens) for _ in range(7)]
    tokens.close()
    assert live.memory.tokens(300, live.memory.num_tokens).tolist() == heard
    whole = said_within_budget(live_over(bundle, encoder, 300), 20)
    assert heard + said_within_budget(live, 13) == whole


def test_what_ends_an_answer_is_not_said(bundle, encoder):
    whole = said_within_budget(live_over(bundle, encoder, 300), 30)
    stop = whole[11]
    live = live_over(bundle, encoder, 300)
    said = said_within_budget(live, 30, stop_ids={stop})
    assert said == whole[: whole.index(stop)] and live.memory.num_tokens == 300 + len(said)


def test_a_question_is_a_look_aside(bundle, encoder, tokenizer):
    live, other = (live_over(bundle, encoder, 500, 128) for _ in range(2))
    first, begun = said_within_budget(live, 9), said_within_budget(other, 9)
    answer = live.ask("\nQuestion: what?\nAnswer:", max_tokens=6)
    assert answer == live.ask("\nQuestion: what?\nAnswer:", max_tokens=6)
    assert live.memory.num_tokens == 509 and first == begun
    assert said_within_budget(live, 40) == said_within_budget(other, 40)


@pytest.mark.parametrize("how", [{}, {"temperature": 0.8, "top_k": 20}])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_saved_session_goes_on_to_the_same_tokens(how, layout, bundle, encoder, tmp_path):
    live = live_over(bundle, encoder, 400, layout=layout, path=tmp_path / "m", seed=3)
    said_within_budget(live, 29, **how)
    live.save(tmp_path / "state.json")
    live.memory.close()
    with Memory.open(tmp_path / "m", encoder.identity(), encoder, writable=True) as memory:
        session = Session(bundle, memory, FocusConfig(budget=BUDGET), scorer="recency")
        other = LiveSession(session, LiveConfig(layout=layout))
        other.restore(tmp_path / "state.json")
        went_on = said_within_budget(other, 40, **how)
    whole = live_over(bundle, encoder, 400, layout=layout, seed=3)
    said_within_budget(whole, 29, **how)
    assert went_on == said_within_budget(whole, 40, **how)


@pytest.mark.parametrize("damage", ["cut", "newer", "longer", "no context", "another memory", "words"])
def test_a_state_that_is_damaged_or_foreign_is_refused_and_changes_nothing(damage, bundle, encoder, tmp_path):
    live = live_over(bundle, encoder, 400)
    live.save(tmp_path / "state.json")
    saved = json.loads((tmp_path / "state.json").read_text())
    changed = {
        "newer": saved | {"format": 99},
        "longer": saved | {"tokens": 10**6},
        "no context": {name: value for name, value in saved.items() if name != "lod"},
        "another memory": saved | {"memory": "0" * 16},
        "words": saved | {"lod": ["many"]},
    }
    text = json.dumps(saved)[:-40] if damage == "cut" else json.dumps(changed[damage])
    (tmp_path / "state.json").write_text(text)
    context = live.context
    with pytest.raises(CheckpointError, match="a session's state must be whole and of this memory"):
        live.restore(tmp_path / "state.json")
    assert live.context == context and len(said_within_budget(live, 5)) == 5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_pinned_stays_word_for_word(layout, bundle, encoder):
    live = live_over(bundle, encoder, 600, layout=layout, rules=Rules(pinned=((0, 2 * K), (200, 205))))
    for _ in range(6):
        said_within_budget(live, 17)
        assert live.context.is_raw(np.array([0, 1, 200 // K])).all()


@pytest.mark.parametrize("scorer", ["bm25", "dense", "lensnet", "dense+bm25"])
def test_what_is_excluded_draws_no_focus_towards_it(scorer, bundle, encoder):
    """The block that the question is taken from is found, unless it is excluded: then no way is opened to it."""
    for excluded in (False, True):
        rules = Rules(excluded=((2 * K * K, 3 * K * K),) if excluded else ())
        live = live_over(bundle, encoder, 10 * K * K, 128, scorer=scorer, rules=rules)
        question = live.memory.tokens(2 * K * K + K, 2 * K * K + 2 * K)
        live.refocus(question)
        inside = (live.context.start >= 2 * K * K) & (live.context.stop <= 3 * K * K)
        if excluded:
            assert (live.context.lod[inside] >= 2).all(), "it stays one gist, or part of a coarser one"
        elif scorer == "bm25":
            assert live.context.lod[inside].min() == 0
        if excluded:
            scores = live.refocused.steps[0].scores
            first = live.refocused.steps[0].context
            holds = (first.start <= 2 * K * K) & (first.stop >= 3 * K * K)
            only = holds & (first.lod == 2)
            assert (scores[only] <= 0.2).all()


def test_what_is_forgotten_is_not_read_from_the_cache(bundle, encoder):
    live = live_over(bundle, encoder, 200, 256)
    said_within_budget(live, 9)
    assert len(live.cache)
    forget_span(live.memory, 16, 40, filler=1)
    (told,) = live.generate(1)
    assert live.report.reused == 0
    assert live.memory.num_tokens == 210
    again = list(generate(bundle.base, live.memory.tokens(0, 209), max_tokens=1))
    assert [told] == again, "the whole history fits: it is the plain model on what is left"


def test_a_memory_that_is_only_read_can_be_asked_and_not_spoken_into(bundle, encoder, tmp_path):
    live_over(bundle, encoder, 300, path=tmp_path / "m").memory.close()
    with Memory.open(tmp_path / "m", encoder.identity(), encoder) as memory:
        live = LiveSession(Session(bundle, memory, FocusConfig(budget=BUDGET), scorer="recency"))
        assert len(live.ask("what is it?", max_tokens=3, stop_ids=())) == 3
        with pytest.raises(ConfigError, match=r"speaking needs a memory opened with writable=True"):
            live.generate(3)


def test_what_cannot_be_asked_or_said_is_a_sentence(bundle, encoder):
    live = live_over(bundle, encoder, 300)
    with pytest.raises(ShapeError, match="a question has at least one token"):
        live.ask("")
    with pytest.raises(BudgetError, match=r"the budget must hold the prompt of 90 tokens and 12 more"):
        live.ask(ids_of(90))
    with pytest.raises(ShapeError, match=rf"token ids lie in \[0, {VOCABULARY}\)"):
        live.observe(np.array([VOCABULARY]))
    with pytest.raises(ConfigError, match="max_tokens must be at least 1"):
        live.generate(0)
    with pytest.raises(BudgetError, match="must hold a block of 8 tokens that was read and one that is said"):
        live_over(bundle, encoder, 300, K)
    empty = live_over(bundle, encoder, 0)
    with pytest.raises(ConfigError, match="a history of nothing has no continuation"):
        empty.generate(1)
    assert len(said_within_budget(live, 5)) == 5, "it is usable after all of these"


def test_every_reading_leaves_its_telemetry(bundle, encoder, tmp_path):
    with TelemetryWriter(tmp_path) as telemetry:
        live = live_over(bundle, encoder, 300, telemetry=telemetry)
        said_within_budget(live, 4 * K)
    rows = read(tmp_path, "reading")
    assert rows.height >= 4 and rows["positions"].max() <= BUDGET
    assert (rows["rows_reused"] + rows["rows_computed"] == rows["positions"]).all()
    assert rows["reused_share"][1:].max() > 0.5


def test_every_refocus_can_be_replayed_and_a_question_aside_leaves_no_trace(bundle, encoder, tmp_path):
    with TelemetryWriter(tmp_path / "telemetry") as telemetry:
        live = live_over(bundle, encoder, 700, path=tmp_path / "heard", scorer="random", telemetry=telemetry)
        first = live.refocused
        live.ask(ids_of(5))
        live.observe(ids_of(3 * K))
        last = live.refocused
    entries = read(tmp_path / "telemetry", "entry")
    assert set(entries["question"]) == {first.number, last.number} == {0, 1}
    assert set(entries["history"]) == {"heard"} and set(entries["arm"]) == {"random"}
    for refocus in (first, last):
        steps = entries.filter(entries["question"] == refocus.number).partition_by("step")
        assert [step["lod"].to_list() for step in steps] == [
            one.context.lod.tolist() for one in refocus.steps
        ]
        codes = [[Reason[name] for name in step["reason"]] for step in steps]
        assert codes == [one.reasons.tolist() for one in refocus.steps]
    asked = read(tmp_path / "telemetry", "focus")
    assert len(asked) == len(first.steps) + len(last.steps) and (asked["budget_positions"] == BUDGET).all()


def test_explanations_cover_the_context_and_say_what_was_read(bundle, encoder, tokenizer):
    live = live_over(bundle, encoder, 700, scorer="lensnet")
    said_within_budget(live, 30)
    entries = live.explain()
    assert sum(entry.cost_positions for entry in entries) == live.context.cost
    assert [entry.start for entry in entries] == live.context.start.tolist()
    ranks = [entry.rank for entry in entries if entry.rank is not None]
    assert sorted(ranks) == list(range(1, len(ranks) + 1)) and len(entries) - len(ranks) <= 1
    for entry in entries:
        assert entry.why and all("refocus" in line for line in entry.history)
    assert any(entry.history for entry in entries)


@pytest.mark.parametrize("changed", [62, 63, 64, 65, 70])
def test_no_later_token_reaches_an_earlier_hidden_state(changed, bundle, encoder):
    """Through gists, layouts and cache: what was read before a token was heard is the same whatever the token is."""
    base = bundle.base
    for layout in LAYOUTS:
        states = []
        for token in (1, 2):
            ids = ids_of(80)
            ids[changed] = token
            live = live_over(bundle, encoder, 0, 64, layout=layout)
            live.observe(ids[:changed])
            with torch.inference_mode():
                before = base.unembed(live.read(ids[:0]))
            live.observe(ids[changed:])
            states.append(before)
        assert torch.equal(*states)
