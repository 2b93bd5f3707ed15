"""The page, without a browser: what it says when something is amiss, and what it lets in."""

import gc
import shutil
from pathlib import Path
from types import SimpleNamespace

import panel as pn
import pytest
from desks import live_run
from make_run import run_json, write_json

from megacontext.errors import ConfigError
from megacontext.tree import Identity, Memory
from workbench.page import Workbench, question_labels
from workbench.server import serve
from workbench.stores.library import RUNS_KEPT, Library
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


def test_the_foreword_names_the_run_that_the_page_will_show(finished_run: Path, run_copy: Path) -> None:
    folder = finished_run.parent
    assert ">finished</b>" in Workbench(Library(folder), "finished").foreword()
    newest = Workbench(Library(run_copy.parent))
    assert f">{newest.selection.run}</b>" in newest.foreword()


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 99}', ""])
def test_the_foreword_of_a_run_that_cannot_be_read_is_its_name(run_copy: Path, content: str) -> None:
    (run_copy / "run.json").write_text(content)
    said = Workbench(Library(run_copy.parent), "copy").foreword()
    assert ">copy</b>" in said and 'class="state' not in said


def test_the_foreword_shows_foreign_text_as_text(tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>"
    live_run(tmp_path / name)
    written = run_json(name, status="failed", message="</style><script>alert(2)</script>")
    write_json(tmp_path / name / "run.json", written)
    said = Workbench(Library(tmp_path)).foreword()
    assert "<img" not in said and "&lt;img" in said and "<script" not in said


def test_without_runs_the_foreword_names_none(tmp_path: Path) -> None:
    said = Workbench(Library(tmp_path / "runs")).foreword()
    assert "<b></b>" in said and "Opening" in said


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


def test_pages_share_the_store_of_a_run_and_each_shows_what_is_new(run_copy: Path) -> None:
    library = Library(run_copy.parent)
    one, other = Workbench(library), Workbench(library)
    assert one.desk.run is other.desk.run
    write_json(run_copy / "run.json", run_json("copy", status="failed"))
    one.poll()
    other.poll()
    assert "failed" in one._about.object and "failed" in other._about.object


def test_a_store_goes_with_the_last_page_that_shows_it_but_for_the_last_few(
    finished_run: Path, tmp_path: Path
) -> None:
    for number in range(RUNS_KEPT + 2):
        shutil.copytree(finished_run, tmp_path / f"run-{number}")
    library = Library(tmp_path)
    shown = library.run("run-0")
    for number in range(RUNS_KEPT + 2):
        library.run(f"run-{number}")
    gc.collect()
    assert len(library._runs) == 1 + RUNS_KEPT and library.run("run-0") is shown


def test_another_run_under_the_same_name_is_another_store(
    run_copy: Path, finished_run: Path, tmp_path: Path
) -> None:
    library = Library(run_copy.parent)
    before = library.run("copy")
    run_copy.rename(tmp_path / "away")
    shutil.copytree(finished_run, run_copy)
    assert library.run("copy") is not before and library.run("copy") is library.run("copy")


def test_a_damaged_run_is_told_until_it_is_none_any_more(run_copy: Path) -> None:
    page = Workbench(Library(run_copy.parent))
    (run_copy / "run.json").write_text("{")
    for _ in range(3):
        page.poll()
        assert page._alert.visible


def test_a_page_whose_browser_has_gone_reads_nothing(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Workbench(Library(run_copy.parent))
    gone = SimpleNamespace(session_context=SimpleNamespace(session=SimpleNamespace(connection_count=0)))
    write_json(run_copy / "run.json", run_json("copy", status="failed"))
    with monkeypatch.context() as patched:
        patched.setattr(type(pn.state), "curdoc", gone)
        page.poll()
    assert "failed" not in page._about.object
    page.poll()
    assert "failed" in page._about.object
