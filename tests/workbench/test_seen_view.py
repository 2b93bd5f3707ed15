"""What the model saw: every word of raw entries, gists as lines that open, whatever the text tries."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from desks import desk_on, words
from make_run import make_run, run_json

from megacontext.config import data_root
from megacontext.focus import AllocatorConfig, AllocatorState, WorkingContext, refocus
from megacontext.runtime.run import write_json
from megacontext.runtime.tracing import record_focus
from megacontext.telemetry import TelemetryWriter
from megacontext.tokenizer import Tokenizer
from megacontext.tree import Identity, Memory
from workbench.stores.run import RunStore
from workbench.stores.seen import budget_shares, exact_text, passage, raw_runs, shown
from workbench.views import SeenView
from workbench.views.passages import _node

VOCABULARY = Tokenizer.load(data_root() / "tiny" / "tokenizer.json")
K = 32
EVIL = '<img src=x onerror="hacked()"><script>hacked()</script>\u202etxet\u202c \x07 שלום ' + "x" * 5_000
PLAIN = "The number of the harbour is seven. " * 200


def make_seen(folder: Path, text: str, budget: int = 200) -> Path:
    """A run with one traced question over a memory of `text`, and the memory."""
    ids = VOCABULARY.encode(text)
    folder.mkdir(parents=True)
    identity = Identity(tokenizer=VOCABULARY.fingerprint, embedding="", encoder="", block_size=K)
    with Memory.create(folder / "memory" / "h-0", identity, None) as memory, memory.document("a <b>book</b>"):
        memory.append(ids)

    def scores(context: WorkingContext) -> np.ndarray:
        return np.where(context.start < 64, 0.9, -0.9)

    steps = refocus(WorkingContext.cover(len(ids), K), scores, budget, AllocatorState(), AllocatorConfig(), 8)
    with TelemetryWriter(folder / "telemetry") as writer:
        record_focus(writer, steps, history="h-0", arm="bm25", question=0, budget_positions=budget + 9)
    (folder / "recipe.toml").write_text('model = "tiny"\n[memory]\nblock_size = 32\n')
    write_json(folder / "run.json", run_json(folder.name))
    return folder


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], Path]:
    return lambda text: make_seen(tmp_path / "runs" / "seen", text)


def test_raw_entries_are_the_text_word_for_word(make: Callable[[str], Path]) -> None:
    run = make(PLAIN)
    entries = RunStore(run).entries("h-0", "bm25", 0, step=2)
    with Memory.open(run / "memory" / "h-0") as memory:
        told = shown(entries, memory, VOCABULARY)
        for part in raw_runs(told):
            if part[0].lod == 0:
                ids = memory.tokens(part[0].start, part[-1].stop)
                assert "".join(entry.text for entry in part) == VOCABULARY.decode(ids)
        assert sum(entry.cost_positions for entry in told) == entries["cost_positions"].sum()
        assert all(entry.sources and entry.sources[0].startswith("a <b>book</b>, tokens") for entry in told)
        assert "gist of tokens" in exact_text(told)


def test_a_gist_opens_into_its_children_and_those_into_their_text(make: Callable[[str], Path]) -> None:
    run = make(PLAIN)
    with Memory.open(run / "memory" / "h-0") as memory:
        high = passage(2, 0, memory, VOCABULARY)
        assert [(child.lod, child.index) for child in high.children] == [(1, index) for index in range(K)]
        assert high.children[3].stop == high.children[4].start == 4 * K and not high.text
        assert passage(1, 5, memory, VOCABULARY).text == VOCABULARY.decode(memory.tokens(5 * K, 6 * K))


def test_the_bar_is_the_budget(make: Callable[[str], Path]) -> None:
    entries = RunStore(make(PLAIN)).entries("h-0", "bm25", 0, step=1)
    shares = budget_shares(entries, 209, 9)
    assert sum(share.positions for share in shares) == 209 and shares[0].kind == "question"
    assert [share.lod for share in shares if share.kind == "gist"] == sorted(set(entries["lod"]) - {0})
    assert budget_shares(entries, 209, None)[-1].positions == shares[-1].positions + 9


def test_hostile_text_stays_text_and_is_never_cut(make: Callable[[str], Path]) -> None:
    view = SeenView(desk_on(make(EVIL * 2)))
    said = view._passages.markup + view._opened(1, 1) + words(view.panel())
    assert "<img" not in said and "<script" not in said and "\u202e" not in said and "\x07" not in said
    assert "&lt;img" in said and "more characters" not in view._passages.markup
    assert "a <b>book</b>" not in said and "a &lt;b&gt;book" in said


def test_the_view_tells_the_step_and_what_went_where(make: Callable[[str], Path]) -> None:
    view = SeenView(desk_on(make(PLAIN), step=1))
    said = words(view.panel())
    assert "Step 1 of" in said and "raw tokens" in said and "free" in said
    assert "harbour" in view._passages.markup and "harbour" in view._passages.text


def test_a_run_without_its_memory_says_so(finished_run: Path) -> None:
    assert "is not on this disk" in words(SeenView(desk_on(finished_run)).panel())


def test_a_memory_of_another_vocabulary_is_a_sentence(make: Callable[[str], Path]) -> None:
    run = make(PLAIN)
    shutil.rmtree(run / "memory" / "h-0")
    identity = Identity(tokenizer="feedfeedfeedfeed", embedding="", encoder="", block_size=K)
    Memory.create(run / "memory" / "h-0", identity, None).close()
    assert "needs the vocabulary feedfeedfeedfeed" in words(SeenView(desk_on(run)).panel())


def test_a_gist_beyond_the_history_is_a_sentence(make: Callable[[str], Path]) -> None:
    assert "token" in SeenView(desk_on(make(PLAIN)))._opened(3, 7)


def test_going_to_a_place_selects_its_node_in_the_tree(make: Callable[[str], Path]) -> None:
    view = SeenView(desk_on(make(PLAIN)))
    view._passages._handle_msg({"go": "1:3"})
    assert (view.selection.node, view.selection.view) == ("1:3", "tree")
    for nonsense in (None, 3, {"go": "../x"}, {"open": "1:"}, {"open": "x:y"}, {}):
        view._passages._handle_msg(nonsense)
    assert view.selection.node == "1:3"


@pytest.mark.parametrize(
    ("name", "node"), [("1:3", (1, 3)), ("", None), ("1", None), ("-1:3", None), ("1:٣x", None), (None, None)]
)
def test_only_a_level_and_an_index_name_a_node(name: object, node: object) -> None:
    assert _node(name) == node


def test_an_untraced_question_says_which_to_choose(tmp_path: Path) -> None:
    run = make_run(tmp_path / "some", questions=3, traced=1)
    assert "marked “traced”" in words(SeenView(desk_on(run, question=2)).panel())
