"""One question to a session, told while it is answered."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacontext.focus.rules import Rules
from megacontext.runtime.citing import tell, tell_steps
from megacontext.runtime.session import FocusConfig, Session
from megacontext.runtime.spelling import Spelling
from megacontext.tasks.facts import as_prompt
from megacontext.tree import Memory

ASKED = "What is the crest of Mrs Tolverick?"


@pytest.fixture
def session(bundle, encoder, planted):
    memory = Memory.create(None, encoder.identity(), encoder)
    memory.append(planted.ids)
    return Session(bundle, memory, FocusConfig(budget=120))


def test_what_is_told_on_the_way_is_what_is_told_at_the_end(session, tokenizer):
    steps, pieces = [], []
    told = tell(session, ASKED, looked=steps.append, said=pieces.append)
    prompt = tokenizer.encode(as_prompt(ASKED))
    focus = session.focus(prompt)
    assert [step.context for step in steps] == [step.context for step in focus.steps] and len(steps) > 1
    assert "".join(pieces).strip() == told["answer"]
    assert told["answer"] == session.decode([session.read(focus.context, prompt)], max_tokens=32)[0]


def test_whoever_has_heard_enough_ends_it(session):
    class Enough(Exception):
        pass

    def hear(_: object) -> None:
        raise Enough

    for ear in ({"looked": hear}, {"said": hear}):
        with pytest.raises(Enough):
            tell(session, ASKED, **ear)
    assert tell(session, ASKED)["answer"] == tell(session, ASKED)["answer"]


def test_what_is_pinned_is_read_and_what_is_excluded_is_not(session):
    size = session.memory.block_size
    read = tell(session, ASKED)["passages"][0]
    pinned = Rules(pinned=((0, size),), excluded=())
    assert tell(session, ASKED, rules=pinned)["passages"][0]["start"] == 0
    first = read["start"] // size * size
    without = tell(session, ASKED, rules=Rules(excluded=((first, first + size),)))["passages"]
    assert all(one["stop"] <= first or one["start"] >= first + size for one in without)


@given(st.text(max_size=40), st.data())
def test_pieces_are_whole_characters_and_together_the_text(text, data):
    raw = text.encode()
    spelling = Spelling(lambda ids: bytes(ids).decode(errors="replace"))
    pieces = [spelling.take(byte) for byte in raw]
    assert "".join(pieces) + spelling.rest() == text == spelling.text
    assert all("\ufffd" not in piece or "\ufffd" in text for piece in pieces)
    cut = data.draw(st.integers(0, len(raw)))
    half = Spelling(lambda ids: bytes(ids).decode(errors="replace"))
    said = "".join(half.take(byte) for byte in np.frombuffer(raw[:cut], dtype=np.uint8).tolist())
    assert text.startswith(said.rstrip("\ufffd")) and said + half.rest() == raw[:cut].decode(errors="replace")


def test_each_step_is_followed_by_another_look_until_a_line_is_no_sentence(session, tokenizer, monkeypatch):
    lines = iter(["Mrs Tolverick has that of Mr Quill. and more", "Mr Quill has none.", " blue fox"])
    looks = []
    focus = Session.focus
    monkeypatch.setattr(Session, "decode", lambda self, readings, **how: [next(lines)])
    monkeypatch.setattr(
        Session, "focus", lambda self, prompt, **how: looks.append(prompt) or focus(self, prompt, **how)
    )
    told = tell_steps(session, ASKED)
    assert [step["said"] for step in told["steps"]] == [
        "Mrs Tolverick has that of Mr Quill.",
        "Mr Quill has none.",
    ]
    assert told["answer"] == " blue fox" and all(step["passages"] for step in told["steps"])
    asked = as_prompt(ASKED)
    assert [tokenizer.decode(look) for look in looks] == [
        asked,
        asked + " Mrs Tolverick has that of Mr Quill.",
        asked + " Mrs Tolverick has that of Mr Quill. Mr Quill has none.",
    ]
    assert told["positions"] <= 120


def test_steps_take_no_more_than_half_of_the_budget(session, monkeypatch):
    monkeypatch.setattr(Session, "decode", lambda self, readings, **how: ["It is as it was before that."])
    told = tell_steps(session, ASKED)
    assert told["answer"] == "It is as it was before that." and told["positions"] <= 120
    spoken = as_prompt(ASKED) + "".join(f" {step['said']}" for step in told["steps"])
    assert len(session.bundle.tokenizer.encode(spoken)) <= 60
