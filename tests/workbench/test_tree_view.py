"""The tree of a memory, without a browser: what is drawn, what a click and a key do, what the address says."""

import shutil
import time
from pathlib import Path

import pytest
from desks import desk_on, words
from make_memory import K, append_elsewhere, make_memory

from workbench.desk import Desk
from workbench.state import Selection
from workbench.stores.library import Library
from workbench.views import TreeView
from workbench.views.components import Links


def view_on(folder: Path, **chosen: object) -> TreeView:
    """A view of the memory `folder/mine`, that follows its selection as the page makes it."""
    view = TreeView(Desk(Library(folder / "runs", folder / "mine"), Selection(view="tree", **chosen)))
    view.selection.param.watch(lambda *events: view.refresh(), list(Selection.KEYS))
    return view


@pytest.fixture
def view(tmp_path: Path) -> TreeView:
    make_memory(tmp_path / "mine")
    return view_on(tmp_path)


def said(view: TreeView) -> str:
    links = " ".join(str(part.html) for part in view.panel().select(Links))
    return words(view.panel()) + links


def drawn(view: TreeView) -> dict[str, list]:
    return {name: list(column) for name, column in view._figure._cells.data.items()}


def settle(view: TreeView) -> None:
    for _ in range(200):
        view.tick()
        if not view._colours._waits and view._node._near is None and view._find._found is None:
            return
        time.sleep(0.02)
    raise AssertionError("the view still waits")


def test_a_memory_is_drawn_whole_at_first(view: TreeView) -> None:
    cells = drawn(view)
    assert min(cells["left"]) == 0 and max(cells["right"]) == 5_000 // K * K
    assert "5,000 tokens" in said(view) and "3 documents" in said(view)


def test_a_narrow_range_shows_tokens_with_their_text(tmp_path: Path) -> None:
    make_memory(tmp_path / "mine")
    view = view_on(tmp_path, span="2496-2528")
    texts = "".join(view._figure._texts.data["text"])
    assert "4711" in texts and len(view._figure._texts.data["text"]) == 32


def test_a_click_selects_the_node_below_it_and_stays_where_it_is(view: TreeView) -> None:
    before = view._figure.span
    view._tapped(100.0, 1.2)
    assert view.selection.node == "1:3" and view._figure.span == before
    settle(view)
    assert "Node L1 · 3" in said(view) and "tokens 96 to 128" in said(view) and "first.txt" in said(view)
    assert view._figure._outline.data["left"] == [96.0]


def test_a_click_beside_every_node_changes_nothing(view: TreeView) -> None:
    for token, level in ((-5, 1), (6_000, 1), (100, 7), (4_999, 2)):
        view._tapped(token, level)
    assert view.selection.node == ""


def test_keys_walk_the_tree(view: TreeView) -> None:
    view._pressed("ArrowDown")
    assert view.selection.node == "2:0"
    for key, node in (("ArrowRight", "2:1"), ("ArrowDown", "1:32"), ("ArrowDown", "0:1024"), ("ArrowLeft", "0:1023"),
                      ("ArrowUp", "1:31"), ("ArrowUp", "2:0"), ("ArrowUp", "2:0"), ("ArrowLeft", "2:0")):  # fmt: skip
        view._pressed(key)
        assert view.selection.node == node, key
    view._pressed("Escape")
    assert view.selection.node == ""


def test_a_node_that_is_walked_to_is_in_sight(view: TreeView) -> None:
    view._jumped("0:1207")
    start, stop = view._figure.span
    assert start <= 1207 < stop and stop - start == K


def test_zooming_by_keys_keeps_the_chosen_node_in_sight(view: TreeView) -> None:
    view._jumped("1:100")
    for _ in range(20):
        view._pressed("+")
    start, stop = view._figure.span
    assert stop - start == 8 and start < 3_216 < stop
    view._pressed("Home")
    assert view._figure.span == (0, 5_000)


def test_the_visible_range_goes_into_the_address_once_it_rests(view: TreeView) -> None:
    view._figure.look(1_000, 2_000)
    view.tick()
    assert view.selection.span == ""
    view.tick()
    assert view.selection.span == "1000-2000"
    view._figure.see_all()
    view.tick()
    view.tick()
    assert view.selection.span == ""


def test_an_address_moves_the_view(view: TreeView) -> None:
    view.selection.span = "512-1024"
    assert view._figure.span == (512, 1024)
    view.selection.span = ""
    assert view._figure.span == (0, 5_000)


@pytest.mark.parametrize("span", ["9999999-99999999", "x", "4-2", "-"])
def test_an_address_that_cannot_be_shows_all(tmp_path: Path, span: str) -> None:
    make_memory(tmp_path / "mine")
    assert view_on(tmp_path, span=span)._figure.span == (0, 5_000)


def test_a_node_that_does_not_exist_is_said_to_be_none(tmp_path: Path) -> None:
    make_memory(tmp_path / "mine")
    assert "No L1 · 9,999 in this memory" in said(view_on(tmp_path, node="1:9999"))


def test_every_colouring_is_drawn_or_says_why_not(view: TreeView) -> None:
    for name in view._colours._choice.options.values():
        view.selection.param.update(colour=name, query="needle")
        settle(view)
        assert view._colours.colouring is not None or view._colours.note.visible, name
        assert len(drawn(view)["left"]) > 100


def test_choosing_in_the_list_goes_into_the_address(view: TreeView) -> None:
    view._colours._choice.value = "words"
    view._colours._query.value = "needle"
    settle(view)
    assert (view.selection.colour, view.selection.query) == ("words", "needle")
    best = max(zip(drawn(view)["shown"], drawn(view)["node"], strict=True))
    assert "BM25" in said(view) and best[0] > "0"


def test_a_search_lists_places_that_jump(view: TreeView) -> None:
    view._find._field.value = "needle 4711"
    settle(view)
    assert view.selection.text == "needle 4711" and "1 place with" in said(view)
    assert f'data-jump="0:{2_500}"' in said(view) or f'data-jump="0:{2_501}"' in said(view)


def test_a_memory_that_grows_grows_in_sight_and_a_click_still_hits(tmp_path: Path) -> None:
    make_memory(tmp_path / "mine", 1_000)
    view = view_on(tmp_path)
    figure = view._figure.figure
    for _ in range(3):
        assert append_elsewhere(tmp_path / "mine", 4).wait(60) == 0
        view.tick()
        view._tapped(view._subject.num_tokens - 100, 1)
        assert view.selection.node == f"1:{(view._subject.num_tokens - 100) // K}"
    assert view._figure.span == (0, 1_840) and view._figure.figure is figure


def test_a_zoomed_view_stays_where_it_is_while_the_memory_grows(tmp_path: Path) -> None:
    make_memory(tmp_path / "mine", 1_000)
    view = view_on(tmp_path, span="100-200")
    assert append_elsewhere(tmp_path / "mine", 4).wait(60) == 0
    view.tick()
    assert view._figure.span == (100, 200) and "1,280 tokens" in said(view)


def test_names_and_text_of_a_memory_cannot_speak_html(tmp_path: Path) -> None:
    evil = "<img src=x onerror=hacked()>\u202e.txt"
    make_memory(tmp_path / "mine", documents=(evil, "b" * 5_000))
    view = view_on(tmp_path, node="1:3", colour="document", text="<script>")
    settle(view)
    assert "<img" not in said(view) and "<script" not in said(view) and "\u202e" not in said(view)
    assert "&lt;img" in said(view) and "\u202e" not in "".join(map(str, drawn(view)["shown"]))


def test_a_memory_that_vanishes_is_a_sentence_and_comes_back(tmp_path: Path) -> None:
    make_memory(tmp_path / "mine")
    view = view_on(tmp_path)
    settle(view)  # who still reads in the background keeps the file open
    (tmp_path / "mine").rename(tmp_path / "away")
    view.tick()
    assert view._trouble.visible and not view._tree_card.visible
    view._tapped(100.0, 1.0)
    view._pressed("ArrowRight")
    (tmp_path / "away").rename(tmp_path / "mine")
    view.tick()
    assert not view._trouble.visible and view._tree_card.visible


def test_another_memory_in_its_place_is_shown_as_what_it_is(tmp_path: Path) -> None:
    make_memory(tmp_path / "mine")
    view = view_on(tmp_path, node="1:3")
    settle(view)
    shutil.rmtree(tmp_path / "mine")
    make_memory(tmp_path / "mine", 2_000, documents=("other.txt",))
    settle(view)
    assert view._figure.span == (0, 2_000) and "other.txt" in said(view) and "first.txt" not in said(view)


def test_without_a_run_and_a_memory_the_way_to_one_is_told(tmp_path: Path) -> None:
    view = TreeView(Desk(Library(tmp_path)))
    view.tick()
    assert "memory ingest" in words(view.panel()) and view._empty.visible


def test_a_run_without_a_memory_still_shows_its_traced_question(finished_run: Path) -> None:
    view = TreeView(desk_on(finished_run, history="book-0", question=1))
    assert view._figure.span == (0, 200_017) and len(drawn(view)["left"]) > 1_000
    assert len(view._figure._needed.data["block"]) == 1 and len(view._figure._raw.data["block"]) > 0
    assert not view._node.card.visible and "cosine" in words(view.panel())


def test_an_untraced_question_says_which_to_choose_and_keeps_the_tree(finished_run: Path) -> None:
    view = TreeView(desk_on(finished_run, history="16k-0", question=20))
    assert "marked “traced”" in words(view.panel()) and view._colours.note.visible


def test_nothing_is_drawn_when_nothing_differs(view: TreeView) -> None:
    fed = []
    view._figure.feed_cells = fed.append
    for _ in range(5):
        view.refresh()
        view.tick()
    assert fed == []
