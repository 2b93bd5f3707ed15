"""Asking, keeping and forgetting, in a real browser; and that looking changes no file."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import started

from megacontext.runtime.bundle import Bundle, model_folder
from megacontext.runtime.encoding import BundleEncoder
from megacontext.tree import Memory
from workbench.state import VIEWS

pytestmark = pytest.mark.browser

READY = "() => window.Bokeh && Bokeh.documents.length && Bokeh.documents.every((one) => one.is_idle)"
PATIENCE_MS = 60_000
SERVE = """
import sys
from workbench.server import serve
from workbench.stores.library import Library
library = Library(sys.argv[1], sys.argv[2], writable=sys.argv[3] == "write")
serve(library, port=0, on_ready=lambda url: print(url, flush=True))
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A memory of some pages. Do not change it: copy it."""
    encoder = BundleEncoder(Bundle.load(model_folder("tiny")))
    path = tmp_path_factory.mktemp("talk") / "walks"
    with Memory.create(path, encoder.identity(), encoder) as memory, memory.document("walks.txt"):
        memory.append(
            encoder.tokenizer.encode("She had a very agreeable walk along the river that morning. " * 400)
        )
    return path


@pytest.fixture
def served_memory(written: Path, finished_run: Path, tmp_path: Path) -> Iterator[tuple[Path, object]]:
    """Opens a workbench on copies of a run and a memory, for reading or writing; the folder of both."""
    shutil.copytree(written, tmp_path / "walks")
    shutil.copytree(finished_run, tmp_path / "runs" / "finished")
    processes = []

    def serve(how: str) -> str:
        processes.append(started(SERVE, str(tmp_path / "runs"), str(tmp_path / "walks"), how))
        return processes[-1].stdout.readline().strip()

    yield tmp_path, serve
    for process in processes:
        process.terminate()
        process.communicate(timeout=20)


def ask(page: object, question: str) -> None:
    box = page.get_by_role("textbox", name="Question")
    box.wait_for(timeout=PATIENCE_MS)
    box.fill(question)
    page.keyboard.press("Enter")


def test_a_note_is_kept_found_pinned_and_forgotten(served_memory: tuple[Path, object], watch: object) -> None:
    url = served_memory[1]("write")
    watched = watch(f"{url}?view=talk&memory=walks", url)
    page = watched.page
    page.get_by_role("textbox", name="Note").wait_for(timeout=PATIENCE_MS)
    page.get_by_role("textbox", name="Note").fill("The crest of Lady Fieldack is golden kettle.")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Keep the note").click()
    page.get_by_role("button", name="Keep it in the memory").click()
    page.get_by_text("Kept as document 1.").wait_for(timeout=PATIENCE_MS)
    ask(page, "What is Lady Fieldack's crest?")
    page.get_by_text("golden kettle", exact=True).wait_for(timeout=PATIENCE_MS)
    page.get_by_text("Read word for word").wait_for(timeout=PATIENCE_MS)
    page.get_by_role("button", name="Pin").first.click()
    page.wait_for_function("() => location.search.includes('pinned=')")
    page.get_by_role("button", name="Forget", exact=True).first.click()
    page.get_by_role("button", name="for good").first.click()
    page.get_by_text("are forgotten").wait_for(timeout=PATIENCE_MS)
    assert watched.errors == [] and watched.foreign == []


def test_a_passage_leads_to_its_place_in_the_tree(served_memory: tuple[Path, object], watch: object) -> None:
    url = served_memory[1]("read")
    watched = watch(f"{url}?view=talk&memory=walks", url)
    page = watched.page
    ask(page, "Where did she walk?")
    page.get_by_role("button", name="Show in the tree").first.click(timeout=PATIENCE_MS)
    page.wait_for_function("() => location.search.includes('view=tree') && location.search.includes('node=')")
    page.wait_for_function(READY, timeout=PATIENCE_MS)
    assert page.get_by_role("button", name="Forget", exact=True).count() == 0
    assert watched.errors == [] and watched.foreign == []


def test_looking_at_every_view_changes_no_file(served_memory: tuple[Path, object], watch: object) -> None:
    folder, serve = served_memory
    before = digests(folder)
    url = serve("read")
    watched = watch(f"{url}?run=finished&memory=walks", url)
    page = watched.page
    for view, words in VIEWS.items():
        page.get_by_role("tab", name=words, exact=True).click(timeout=PATIENCE_MS)
        page.wait_for_function(f"() => location.search.includes('view={view}')")
        page.wait_for_function(READY, timeout=PATIENCE_MS)
        page.wait_for_timeout(500)
        assert watched.errors == [] and watched.foreign == [], view
    ask(page, "Where did she walk?")
    page.get_by_text("Read word for word").wait_for(timeout=PATIENCE_MS)
    assert digests(folder) == before


def digests(folder: Path) -> dict[str, str]:
    """Of every file but LMDB's table of readers, in which a reader enters itself."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith("-lock")
    }
