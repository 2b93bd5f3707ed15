"""Gists are laid out by what they differ in most, a bounded sample of them, and a dot is its node."""

import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from desks import words
from make_memory import Arithmetic, make_memory

from workbench.desk import Desk
from workbench.state import Selection
from workbench.stores import projection
from workbench.stores.library import Library
from workbench.stores.memory import MemoryStore
from workbench.stores.projection import Projection, principal_components, project, sources
from workbench.views.gists import GistsView


def laid_out(store: MemoryStore, lod: int = 1, at: int = 0) -> Projection:
    of, version = sources(store)[at]
    job = project(store, of, version, lod, "test")
    assert job.wait(60) and not job.failed, job.sentence
    return job.result


def view_on(path: Path, **chosen: object) -> GistsView:
    view = GistsView(Desk(Library(path.parent / "runs", path), Selection(view="gists", **chosen)))
    for _ in range(300):
        view.tick()
        if view._job is None and not view._undrawn:
            return view
        time.sleep(0.02)
    raise AssertionError("the view still waits")


def test_components_keep_what_a_plane_holds_and_say_how_much() -> None:
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(200, 2)) * [5, 2] @ np.linalg.qr(rng.normal(size=(9, 9)))[0][:2]
    places, (first, second) = principal_components(plane + 7)
    distances = np.linalg.norm(plane[:, None] - plane[None], axis=2)
    assert np.allclose(np.linalg.norm(places[:, None] - places[None], axis=2), distances)
    assert first > second > 0 and first + second == pytest.approx(1)


def test_equal_vectors_lie_in_one_place() -> None:
    places, _ = principal_components(np.ones((5, 3), dtype=np.float32))
    assert np.allclose(places, 0)


def test_a_level_is_laid_out_whole_where_it_is_small(tmp_path: Path) -> None:
    store = MemoryStore(make_memory(tmp_path / "mine"))
    found = laid_out(store)
    assert found.points["index"].to_list() == list(range(156)) and found.num_nodes == 156
    assert set(found.points["name"]) == {"first.txt", "second.txt", "third.txt"}


def test_a_large_level_is_sampled_evenly_and_the_numbers_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "MOST_NUMBERS", 12 * 40)
    found = laid_out(MemoryStore(make_memory(tmp_path / "mine")))
    gaps = np.diff(found.points["index"].to_numpy())
    assert len(found.points) == 40 and gaps.min() >= 3 and gaps.max() <= 4 and found.num_nodes == 156


def test_too_few_nodes_are_a_sentence(tmp_path: Path) -> None:
    store = MemoryStore(make_memory(tmp_path / "mine"))
    of, version = sources(store)[0]
    job = project(store, of, version, 3, "test")
    assert job.wait(60) and "three vectors" in job.sentence


def test_a_memory_of_addresses_alone_shows_those_and_says_so(tmp_path: Path) -> None:
    view = view_on(make_memory(tmp_path / "mine", encoder=Arithmetic(gist_width=0)))
    said = words(view.panel())
    assert view._shown.of == "addresses" and "no gists of its own" in said and "All 156 addresses" in said


def test_the_view_says_what_was_sampled_and_a_dot_leads_to_its_node(tmp_path: Path) -> None:
    view = view_on(make_memory(tmp_path / "mine"))
    assert "All 156 gists of level 1" in words(view.panel())
    view._picked("indices", [], [7])
    assert (view.selection.node, view.selection.view) == ("1:7", "tree")


def test_names_of_documents_cannot_speak_html(tmp_path: Path) -> None:
    evil = "<img src=x onerror=hacked()>\u202e"
    view = view_on(make_memory(tmp_path / "mine", documents=(evil,)))
    said = words(view.panel())
    assert "<img" not in said and "&lt;img" in said and "\u202e" not in said
    assert not any("\u202e" in name for name in view._dots.data["name"])


def test_the_chosen_node_has_a_ring(tmp_path: Path) -> None:
    view = view_on(make_memory(tmp_path / "mine"), node="1:7")
    assert list(view._ring.data["x"]) == [view._shown.points["x"][7]]


def test_colour_and_layout_are_what_the_address_says_and_a_choice_goes_into_it(tmp_path: Path) -> None:
    view = view_on(make_memory(tmp_path / "mine"), dots="place", layout="no such one")
    assert view._drawn_by == view._by.value == "place" and view._how.value == "pca"
    view._by.value = "document"
    assert view.selection.dots == "document"
    view.refresh()
    assert view._drawn_by == "document" and "first.txt" in words(view.panel())


def test_without_documents_dots_are_coloured_by_their_place_whatever_is_asked(tmp_path: Path) -> None:
    view = view_on(make_memory(tmp_path / "mine", documents=()), dots="document")
    assert view._drawn_by == view._by.value == "place" and view.selection.dots == "document"


def test_umap_is_offered_where_it_is_installed_and_lays_out_what_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class UMAP:
        def __init__(self, n_components: int, random_state: int):
            assert (n_components, random_state) == (2, 0)

        def fit_transform(self, vectors: np.ndarray) -> np.ndarray:
            seen.append(vectors.shape)
            return np.stack([np.arange(len(vectors)), -np.arange(len(vectors))], axis=1).astype(np.float32)

    module = ModuleType("umap")
    module.UMAP, module.__spec__ = UMAP, ModuleSpec("umap", None)
    monkeypatch.setitem(sys.modules, "umap", module)
    view = view_on(make_memory(tmp_path / "mine"), layout="umap")
    assert view._how.visible and view._how.value == "umap" and view._shown.explained is None
    assert seen[0][0] == 156 and view._shown.points["y"].to_list() == [-at for at in range(156)]
