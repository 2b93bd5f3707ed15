"""The page, without a browser: what it says when something is amiss, and what it lets in."""

import shutil
from pathlib import Path

import pytest
from desks import live_run
from make_run import run_json, write_json

from megacontext.errors import ConfigError
from megacontext.tree import Identity, Memory
from workbench.page import Workbench, question_labels
from workbench.server import serve
from workbench.stores.library import Library
from workbench.stores.run import RunStore


def test_question_labels_put_the_traced_ones_first(finished_run: Path) -> None:
    labels = question_labels(RunStore(finished_run), "16k-0")
    assert list(labels.values())[:4] == [0, 1, 2, 3] and "traced" in next(iter(labels))


def test_the_page_of_a_damaged_run_is_a_sentence_and_lives_on(run_copy: Path) -> None:
    page = Workbench(Library(run_copy.parent))
    (run_copy / "run.json").write_text("{")
    page.poll()
    assert page._alert.visible and "run.json" in page._alert.object
    write_json(run_copy / "run.json", run_json("copy", status="interrupted"))
    page.poll()
    assert not page._alert.visible and page.desk.run.state == "interrupted"


def test_a_folder_without_runs_says_how_to_make_one_and_shows_it_when_it_comes(tmp_path: Path) -> None:
    page = Workbench(Library(tmp_path / "runs"))
    assert "tools/demo" in page._holders["results"].objects[0].object
    live_run(tmp_path / "runs" / "first")
    page.poll()
    page.poll()
    assert page.desk.run is not None and page.selection.run == "first"


@pytest.mark.parametrize("name", ["../secrets", "a/b", "..", ""])
def test_a_run_is_named_and_not_pathed(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="named by its folder"):
        Library(tmp_path).run_path(name)


def test_the_server_refuses_other_addresses_and_unknown_runs(tmp_path: Path) -> None:
    library = Library(tmp_path)
    with pytest.raises(ConfigError, match="must hold run"):
        serve(library, "nothing")
    with pytest.raises(ConfigError, match="free port"):
        serve(library, port=99_999)


def test_a_mistake_of_ours_is_a_sentence_and_the_page_follows_on(
    run_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Workbench(Library(run_copy.parent))
    monkeypatch.setattr(page.desk.run, "refresh", lambda: 1 / 0)
    page.poll()
    assert page._alert.visible and "ZeroDivisionError" in page._alert.object
    monkeypatch.undo()
    page.poll()
    assert not page._alert.visible


def test_a_run_that_is_deleted_while_it_is_shown_is_a_sentence(run_copy: Path) -> None:
    page = Workbench(Library(run_copy.parent))
    shutil.rmtree(run_copy)
    page.poll()
    assert page._alert.visible and "run.json" in page._alert.object


def test_a_memory_without_a_run_opens_on_its_tree(tmp_path: Path) -> None:
    identity = Identity(tokenizer="a", embedding="b", encoder="c", block_size=32)
    with Memory.create(tmp_path / "plain", identity, None) as memory:
        memory.append(range(100))
    library = Library(tmp_path / "runs", tmp_path / "plain")
    page = Workbench(library)
    assert page.selection.view == "tree" and "plain" in page._about.object and "100" in page._about.object
    library.close()
