"""Attempts to break a live session: tight budgets, interruptions at any place, forgetting, foreign states."""

import base64
import copy
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import K, ids_of

from megacontext.errors import BudgetError, CheckpointError, ConfigError, ShapeError, StaleGistError
from megacontext.focus import AllocatorConfig, Rules, WorkingContext
from megacontext.runtime.generation import generate
from megacontext.runtime.live import LiveConfig, LiveSession
from megacontext.runtime.session import FocusConfig, Session
from megacontext.tree import Memory, refresh
from megacontext.tree.forgetting import forget_span

LAYOUTS = ("timeline", "cover-first")


def session_over(bundle, memory, budget=96, *, layout="timeline", scorer="random", focus=None, **options):
    config = FocusConfig(budget=budget, allocator=focus or AllocatorConfig(protect_recent_tokens=2 * K))
    return LiveSession(Session(bundle, memory, config, scorer=scorer), LiveConfig(layout=layout), **options)


def live_over(bundle, encoder, tokens, budget=96, **options):
    memory = Memory.create(None, encoder.identity(), encoder)
    memory.append(ids_of(tokens))
    return session_over(bundle, memory, budget, **options)


def check(live):
    """What holds between any two calls."""
    context = live.context
    WorkingContext(context.lod, context.index, context.num_tokens, context.block_size)  # it tiles, or raises
    assert context.cost <= live.budget and len(live.cache) <= live.budget
    assert live.covered <= context.num_tokens
    blocks = np.flatnonzero(live.rules.pins(np.arange(0, context.num_tokens, K), np.minimum(
        np.arange(K, context.num_tokens + K, K), context.num_tokens), K))  # fmt: skip
    assert context.is_raw(blocks).all()


def says(live, count, **how):
    said = []
    for token in live.generate(count, **how):
        said.append(token)
        check(live)
    check(live)
    return said


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tokens", [1, K, 3 * K + 5, 10 * K, K * K + 1])
def test_the_smallest_budget_reads_and_speaks_until_the_cover_outgrows_it_and_then_says_so(
    tokens, layout, bundle, encoder
):
    """Whatever the budget, either it holds at every step or a sentence says that it does not, and nothing is lost."""
    refused = 0
    for budget in range(K - 2, 3 * K + 2):
        memory = Memory.create(None, encoder.identity(), encoder)
        memory.append(ids_of(tokens))
        said = []
        try:
            live = session_over(bundle, memory, budget, layout=layout)
            for token in live.generate(3 * K):
                said.append(token)
                check(live)
        except BudgetError as problem:
            refused += 1
            assert "raise focus.budget" in str(problem)
        assert memory.tokens(tokens, memory.num_tokens).tolist() == said
        assert refused == budget - K + 3 or len(said) == 3 * K, "a larger budget is never worse"
    assert 0 < refused < 2 * K + 2


@given(data=st.data(), layout=st.sampled_from(LAYOUTS), pinned=st.booleans())
@settings(max_examples=25)
def test_any_order_of_hearing_speaking_asking_and_breaking_off_keeps_every_invariant(
    data, layout, pinned, bundle, encoder, tmp_path_factory
):
    rules = Rules(pinned=((3, K + 1), (90, 95)) if pinned else (), excluded=((200, 300),) if pinned else ())
    live = live_over(bundle, encoder, data.draw(st.integers(0, 700)), 96, layout=layout, rules=rules)
    history = live.memory.tokens(0, live.memory.num_tokens).tolist()
    path = tmp_path_factory.mktemp("states") / "state.json"
    for _ in range(data.draw(st.integers(1, 6))):
        action = data.draw(st.sampled_from(["hear", "speak", "break off", "throw", "ask", "refocus", "save"]))
        count = data.draw(st.integers(1, 40))
        if action == "hear":
            live.observe(ids_of(count, seed=count))
            history += ids_of(count, seed=count).tolist()
        elif action == "ask":
            live.ask(ids_of(min(count, 9), seed=count), max_tokens=3, stop_ids=())
        elif action == "refocus":
            live.refocus()
        elif action == "save":
            live.save(path)
            live.restore(path)
        elif history:
            speech = live.generate(40, temperature=0.7)
            history += [next(speech) for _ in range(count)]
            if action == "break off":
                speech.close()
            elif action == "throw":
                with pytest.raises(KeyboardInterrupt):
                    speech.throw(KeyboardInterrupt())
            else:
                history += list(speech)
        check(live)
        assert live.memory.tokens(0, live.memory.num_tokens).tolist() == history
    if history:
        history += says(live, K + 1)
        assert live.memory.tokens(0, live.memory.num_tokens).tolist() == history


@pytest.mark.parametrize("how", ["observe", "ask", "refocus", "generate", "restore"])
def test_what_comes_in_between_ends_what_is_being_said_and_keeps_the_order(how, bundle, encoder, tmp_path):
    live = live_over(bundle, encoder, 300)
    live.save(tmp_path / "state.json")
    speech = live.generate(30)
    said = [next(speech) for _ in range(5)]
    heard = []
    if how == "observe":
        heard = [1, 2, 3]
        live.observe(np.array(heard))
    elif how == "ask":
        live.ask(ids_of(4), max_tokens=2)
    elif how == "refocus":
        live.refocus()
    elif how == "generate":
        heard = says(live, 2)
    else:
        live.restore(tmp_path / "state.json")
    assert list(speech) == [], "the first speaker has been interrupted"
    assert live.memory.tokens(300, live.memory.num_tokens).tolist() == said + heard
    assert len(says(live, 3)) == 3


def test_a_speech_that_was_never_listened_to_says_nothing(bundle, encoder):
    live = live_over(bundle, encoder, 300)
    live.generate(10)
    live.generate(10).close()
    live.observe(ids_of(2))
    assert live.memory.num_tokens == 302


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_session_that_was_saved_while_it_spoke_goes_on_with_the_next_word(
    layout, bundle, encoder, tmp_path
):
    """At every place of a block; nobody has to stop to be saved."""
    whole = says(live_over(bundle, encoder, 411, layout=layout, seed=5), 2 * K + 20, temperature=0.8)
    live, said = live_over(bundle, encoder, 411, layout=layout, seed=5), []
    for token in live.generate(2 * K + 20, temperature=0.8):
        said.append(token)
        if len(said) > 2 * K:
            continue
        live.save(tmp_path / "state.json")
        other = Memory.create(None, encoder.identity(), encoder)
        other.append(np.concatenate([ids_of(411), np.array(said, dtype=np.int32)]))
        resumed = session_over(bundle, other, layout=layout)
        resumed.restore(tmp_path / "state.json")
        assert says(resumed, K + 3, temperature=0.8) == whole[len(said) : len(said) + K + 3]
    assert said == whole, "saving changed nothing"


def test_a_question_asked_last_is_not_saved(bundle, encoder, tmp_path):
    live = live_over(bundle, encoder, 500)
    live.save(tmp_path / "before.json")
    live.ask(ids_of(9), max_tokens=3, stop_ids=())
    live.save(tmp_path / "after.json")
    assert (tmp_path / "before.json").read_text() == (tmp_path / "after.json").read_text()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("asks", [1, 3])
def test_after_questions_a_session_goes_on_as_if_nobody_had_asked(asks, layout, bundle, encoder):
    """With a scorer that draws by the number of the refocus, and with the chances of a temperature."""
    live, other = (live_over(bundle, encoder, 413, layout=layout, seed=1) for _ in range(2))
    for turn in range(6):
        for number in range(asks):
            live.ask(ids_of(5 + number, seed=turn), max_tokens=4, stop_ids=())
        assert says(live, 5 + turn, temperature=0.9) == says(other, 5 + turn, temperature=0.9)
        assert live.context == other.context and live.covered == other.covered
        for one in (live, other):
            one.observe(ids_of(turn + 1, seed=turn))
        assert live.context == other.context and live.edits == other.edits


def test_a_question_that_could_not_be_asked_moves_nothing(bundle, encoder):
    live, other = (live_over(bundle, encoder, 413) for _ in range(2))
    for question, options, error in (
        (ids_of(95), {}, BudgetError),
        (ids_of(5), {"max_tokens": 90}, BudgetError),
        (ids_of(5), {"max_tokens": 0}, ConfigError),
        (np.array([-1]), {}, ShapeError),
        (np.array([[1, 2]]), {}, ShapeError),
        (np.array([0.5]), {}, ShapeError),
    ):
        with pytest.raises(error):
            live.ask(question, **options)
        check(live)
    with pytest.raises(ShapeError):
        live.observe(np.array([[1, 2]]))
    assert live.memory.num_tokens == 413
    assert says(live, 20) == says(other, 20)


def test_speaking_past_the_plain_window_is_plain_until_the_budget_is_full(bundle, encoder):
    """Plain to the last token that has a block's room behind it, and gists from then on."""
    live = live_over(bundle, encoder, 2 * K, 8 * K)
    plain = list(generate(bundle.base, ids_of(2 * K), max_tokens=6 * K))
    said = []
    for token in live.generate(6 * K):
        said.append(token)
        if live.context.lod.any():
            break
    # The context is folded once less than a block's room would be left.
    assert len(said) > 5 * K and said[: 5 * K] == plain[: 5 * K]


@pytest.mark.parametrize("tokens", [0, 1, K - 1, K, K + 1, K * K - 1, K * K, K * K + 1])
def test_what_is_heard_token_by_token_is_the_same_history_as_heard_at_once(tokens, bundle, encoder):
    live = live_over(bundle, encoder, 0, 512)
    for token in ids_of(tokens):
        live.observe(np.array([token]))
        check(live)
    assert live.context == WorkingContext.raw(tokens, K)
    if tokens:
        assert says(live, 9) == says(live_over(bundle, encoder, tokens, 512), 9)


def test_a_history_of_nothing_can_be_asked_and_refocused(bundle, encoder):
    live = live_over(bundle, encoder, 0)
    assert live.refocus().steps == () and len(live.context) == 0
    asked = ids_of(5)
    answer = live.ask(asked, max_tokens=4, stop_ids=())
    assert answer == list(generate(bundle.base, asked, max_tokens=4))
    with pytest.raises(BudgetError, match=r"raise focus\.budget"):
        live.refocus(ids_of(95))
    assert live.memory.num_tokens == 0


# Forgetting.


@pytest.mark.parametrize("layout", LAYOUTS)
def test_after_forgetting_a_session_reads_what_a_new_one_would(layout, bundle, encoder):
    """Forgotten in the middle of a speech, and the gists made again: nothing of it is left in what is read."""
    live = live_over(bundle, encoder, 600, layout=layout)
    speech = live.generate(40)
    for _ in range(5):
        next(speech)
    forget_span(live.memory, 8, 560, filler=1)
    refresh.sweep(live.memory, live.memory.version.number, encoder)
    before = live.report
    next(speech)
    assert live.report is not before and live.report.reused == 0, "at the very next token"
    fresh = session_over(bundle, live.memory, layout=layout)
    speech.close()
    fresh.context, fresh.covered = live.context, live.covered
    nothing = np.zeros(0, dtype=np.int32)
    assert np.allclose(live.read(nothing), fresh.read(nothing), atol=1e-5)


def test_forgetting_without_new_gists_is_a_sentence_and_what_was_said_is_kept(bundle, encoder):
    live = live_over(bundle, encoder, 600)
    speech = live.generate(40)
    said = [next(speech) for _ in range(3)]
    forget_span(live.memory, 0, 64, filler=1)
    with pytest.raises(StaleGistError):
        list(speech)
    kept = live.memory.tokens(600, live.memory.num_tokens).tolist()
    assert kept[:3] == said
    refresh.sweep(live.memory, live.memory.version.number, encoder)
    assert len(says(live, 5)) == 5


def test_a_state_from_before_something_was_forgotten_is_refused(bundle, encoder, tmp_path):
    live = live_over(bundle, encoder, 100, 256)
    live.save(tmp_path / "state.json")
    forget_span(live.memory, 3, 5, filler=1)
    with pytest.raises(CheckpointError, match="something was forgotten since"):
        live.restore(tmp_path / "state.json")
    live.save(tmp_path / "state.json")
    live.restore(tmp_path / "state.json")


# States.


def _paths(value, at=()):
    """Every place in a JSON value."""
    yield at
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _paths(inner, (*at, name))
    elif isinstance(value, list):
        for number, inner in list(enumerate(value))[:3]:
            yield from _paths(inner, (*at, number))


RUBBISH = [None, -1, 0.5, 10**30, True, "", "words", [], {}, [[]], float("nan")]


@given(data=st.data())
@settings(max_examples=150)
def test_a_state_changed_anywhere_is_refused_or_still_a_session_that_works(data, broken):
    live, saved, path = broken
    state = copy.deepcopy(saved)
    at = data.draw(st.sampled_from(list(_paths(state))))
    rubbish = data.draw(st.sampled_from(RUBBISH))
    if at:
        inner = state
        for name in at[:-1]:
            inner = inner[name]
        inner[at[-1]] = rubbish
    else:
        state = rubbish
    path.write_text(json.dumps(state))
    context, edits = live.context, live.edits
    try:
        live.restore(path)
    except CheckpointError as problem:
        assert "must be whole and of this memory" in str(problem)
        assert live.context is context and live.edits is edits
        return
    check(live)
    live.explain()
    live.refocus()
    check(live)


@pytest.fixture(scope="module")
def broken(bundle, encoder, tmp_path_factory):
    live = live_over(bundle, encoder, 400)
    for number in range(5):
        live.observe(ids_of(K, seed=number))
    path = tmp_path_factory.mktemp("broken") / "state.json"
    live.save(path)
    saved = json.loads(path.read_text())
    assert saved["edits"]
    return live, saved, path


def test_a_state_of_random_bytes_or_of_no_file_is_refused(broken, tmp_path):
    live, saved, _ = broken
    for content in (b"", b"\xff\xfe\x00", b"[" * 100_000, b"{}", b'"format"'):
        (tmp_path / "state.json").write_bytes(content)
        with pytest.raises(CheckpointError, match="begin a new session"):
            live.restore(tmp_path / "state.json")
    with pytest.raises(CheckpointError, match="begin a new session"):
        live.restore(tmp_path / "nowhere.json")
    for chance in ("", "AAAA", base64.b64encode(b"\1" * len(base64.b64decode(saved["chance"]))).decode()):
        (tmp_path / "state.json").write_text(json.dumps(saved | {"chance": chance}))
        with pytest.raises(CheckpointError, match="begin a new session"):
            live.restore(tmp_path / "state.json")


def test_a_state_of_a_memory_as_long_but_of_other_words_is_refused(bundle, encoder, tmp_path):
    live_over(bundle, encoder, 400).save(tmp_path / "state.json")
    other = Memory.create(None, encoder.identity(), encoder)
    other.append(ids_of(400, seed=1))
    with pytest.raises(CheckpointError, match="another memory"):
        session_over(bundle, other).restore(tmp_path / "state.json")


def test_a_state_restored_into_a_smaller_budget_is_fitted_before_it_is_read(bundle, encoder, tmp_path):
    live = live_over(bundle, encoder, 400, 256)
    live.save(tmp_path / "state.json")
    small = session_over(bundle, live.memory, 64)
    small.restore(tmp_path / "state.json")
    for _ in small.generate(12):
        assert len(small.cache) <= 64 and small.context.cost <= 64


def test_a_restored_session_takes_up_what_came_since(bundle, encoder, tmp_path):
    live = live_over(bundle, encoder, 400)
    live.save(tmp_path / "state.json")
    live.observe(ids_of(200, seed=4))
    live.restore(tmp_path / "state.json")
    assert live.context.num_tokens == 400
    assert len(says(live, 3)) == 3 and live.context.num_tokens == live.memory.num_tokens == 603


def test_what_the_rules_pin_must_fit_and_is_said_if_it_does_not(bundle, encoder):
    with pytest.raises(BudgetError, match="must hold what is pinned"):
        live_over(bundle, encoder, 600, 96, rules=Rules(pinned=((0, 96),)))
