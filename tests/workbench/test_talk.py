"""A conversation with a memory, without a browser: what is told on the way, what is written, and what is refused."""

import hashlib
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from desks import words

from megacontext.errors import ConfigError
from megacontext.runtime.bundle import Bundle, model_folder
from megacontext.runtime.encoding import BundleEncoder
from megacontext.tasks.facts import FactsConfig, plant
from megacontext.tree import Memory
from workbench.desk import Desk
from workbench.state import Selection
from workbench.stores.library import Library
from workbench.stores.talk import LONGEST_QUESTION, Asking, Exchange, Talk
from workbench.views import TalkView

TOLD_WITHIN_S = 60


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A memory with planted facts; a question about one, and the answer."""
    encoder = BundleEncoder(Bundle.load(model_folder("tiny")))
    text = encoder.tokenizer.encode("She had a very agreeable walk along the river that morning. " * 500)
    planted = plant(text, encoder.tokenizer, FactsConfig(keys=4), np.random.default_rng(0))
    path = tmp_path_factory.mktemp("talk") / "walks"
    with Memory.create(path, encoder.identity(), encoder) as memory:
        memory.append(planted.ids)
    question = planted.questions[0]
    asked = question.prompt.removeprefix("\nQuestion: ").removesuffix("\nAnswer:")
    return path, asked, question.answer.strip()


@pytest.fixture
def library(made: tuple[Path, str, str], tmp_path: Path) -> Library:
    library = Library(tmp_path, made[0])
    yield library
    library.close()


def answered(talk: Talk, question: str, **asking: object) -> Exchange:
    ended = threading.Event()
    talk._told = lambda: ended.set() if talk.exchanges and talk.exchanges[-1].ended else None
    exchange = talk.ask(question, Asking(memory="walks", model="tiny", **asking))
    assert ended.wait(TOLD_WITHIN_S)
    return exchange


def digest(folder: Path) -> str:
    return hashlib.sha256(
        b"".join(path.read_bytes() for path in sorted(folder.rglob("*.mdb")) if "lock" not in path.name)
    ).hexdigest()


def test_an_answer_comes_with_every_look_and_with_what_was_read(
    library: Library, made: tuple[Path, str, str]
) -> None:
    before = digest(made[0])
    exchange = answered(Talk(library), made[1])
    assert exchange.state == "done" and exchange.answer == made[2]
    assert exchange.positions <= exchange.budget == 256 and exchange.tokens > 4_000
    for step in exchange.steps:
        assert (
            step["start"].to_list()[1:] == step["stop"].to_list()[:-1] and step["stop"][-1] == exchange.tokens
        )
        assert step["cost_positions"].sum() <= exchange.budget
    read = [one for one in exchange.passages if made[2] in one["text"]]
    assert read and read[0]["stop"] > read[0]["start"]
    assert digest(made[0]) == before, "asking wrote to the memory"


def test_pinned_tokens_are_read_whatever_is_asked(library: Library) -> None:
    exchange = answered(Talk(library), "What is the crest of nobody?", pinned=((0, 32),))
    assert exchange.passages[0]["start"] == 0


def test_what_cannot_be_answered_is_a_sentence_and_the_next_question_is(
    library: Library, made: tuple[Path, str, str]
) -> None:
    talk = Talk(library)
    assert "raise focus.budget" in answered(talk, made[1], budget=33).problem
    assert answered(talk, made[1]).answer == made[2]
    for refused in ("", " \n", "x" * (LONGEST_QUESTION + 1)):
        with pytest.raises(ConfigError):
            talk.ask(refused, Asking(memory="walks", model="tiny"))


def test_an_answer_can_be_stopped(library: Library, made: tuple[Path, str, str]) -> None:
    talk, ended = Talk(library), threading.Event()

    def told() -> None:
        talk.stop()
        if talk.exchanges[-1].ended:
            ended.set()

    talk._told = told
    exchange = talk.ask(made[1], Asking(memory="walks", model="tiny"))
    assert ended.wait(TOLD_WITHIN_S) and exchange.state == "stopped"


def test_a_memory_that_is_open_for_reading_is_not_written(
    library: Library, made: tuple[Path, str, str]
) -> None:
    before = digest(made[0])
    for write in (
        lambda: Talk(library).note("walks", "x", "tiny"),
        lambda: Talk(library).forget("walks", 0, 9, "tiny"),
    ):
        with pytest.raises(ConfigError, match="--write"):
            write()
    assert digest(made[0]) == before


def test_a_note_is_found_by_the_next_question_and_what_is_forgotten_is_not(tmp_path: Path) -> None:
    encoder = BundleEncoder(Bundle.load(model_folder("tiny")))
    with Memory.create(tmp_path / "walks", encoder.identity(), encoder) as memory:
        memory.append(encoder.tokenizer.encode("She had a very agreeable walk along the river. " * 300))
    library = Library(tmp_path / "runs", tmp_path / "walks", writable=True)
    talk = Talk(library)
    asked = "What is Lady Fieldack's crest?"
    number = talk.note("walks", "The crest of Lady Fieldack is golden kettle.", "tiny")
    memory = library.memory("walks").memory
    assert memory.writable and memory.documents[number].tags == ("note",)
    assert answered(talk, asked).answer == "golden kettle"
    note = memory.documents[number]
    talk.forget("walks", note.start, note.stop, "tiny")
    assert "kettle" not in encoder.tokenizer.decode(memory.tokens(note.start, note.stop))
    assert answered(talk, asked).answer != "golden kettle"
    library.close()
    with Memory.open(tmp_path / "walks", encoder.identity(), encoder) as memory:
        assert memory.documents[number].stop == note.stop


def test_the_view_asks_shows_and_escapes(library: Library, made: tuple[Path, str, str]) -> None:
    view = TalkView(Desk(library, Selection(view="talk")))
    view._finding.result(TOLD_WITHIN_S)
    view.tick()
    exchange = answered(view._talk, '<img src=x onerror="hacked()">\u202e ' + made[1])
    view._talk.exchanges.clear()
    view._asked(exchange.question)
    until = time.monotonic() + TOLD_WITHIN_S
    while view._talk.busy and time.monotonic() < until:
        time.sleep(0.01)
    view.tick()
    said = words(view.panel())
    assert "&lt;img" in said and "<img" not in said and "\u202e" not in said
    assert "Read word for word" in said and "--write" in said


def test_the_view_says_a_refusal_as_a_sentence(library: Library) -> None:
    view = TalkView(Desk(library, Selection(view="talk")))
    view._finding.result(TOLD_WITHIN_S)
    view.tick()
    view._asked("   ")
    assert "a question must hold text" in words(view.panel())
    view.pin(0, 64)
    assert view.selection.pinned == "0-64"
    view.jump(64, 96)
    assert (view.selection.view, view.selection.node) == ("tree", "1:2")
