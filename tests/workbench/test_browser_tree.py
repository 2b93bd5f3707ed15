"""The tree in a real browser: zoom, click, keys, search, on memories that rest and on one that is being written."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from make_memory import append_elsewhere, make_memory
from make_run import make_run, run_json, write_json
from serving import Served

pytestmark = pytest.mark.browser

READY = (
    "() => window.Bokeh !== undefined && Bokeh.documents.length > 0"
    " && Bokeh.documents.every((doc) => doc.is_idle)"
)
MODELS = "[...Bokeh.documents[0].all_models]"
CELLS = f"{MODELS}.find((model) => model.type == 'ColumnDataSource' && model.data.fill_alpha)"
FIGURE = f"{MODELS}.find((model) => model.type == 'Figure')"
X_RANGE = f"{FIGURE}.x_range"
LEVELS = f"() => [{FIGURE}.y_range.start, {FIGURE}.y_range.end]"
VIEW_OF_FIGURE = f"""
  const views = []
  const collect = (view) => {{ views.push(view); for (const child of view.children?.() ?? []) collect(child) }}
  for (const root of Bokeh.index.roots) collect(root)
  const view = views.find((one) => one.model === {FIGURE})
"""
PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def with_memories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A run with the memories of two histories, one of which others may write to."""
    folder = tmp_path_factory.mktemp("trees")
    run = make_run(folder / "kept", questions=2, traced=1)
    make_memory(run / "memory" / "16k-0", 16_384)
    # Beyond 32^3: no level is added while it is written to, which would move the rows under the pointer.
    make_memory(run / "memory" / "16k-1", 33_000)
    served = Served(folder)
    yield served
    if served.process.poll() is None:
        served.stop()


def opened(watch: object, served: Served, query: str, **how: object) -> object:
    watched = watch(f"{served.url}?run=kept&view=tree&{query}", served.url, **how)
    watched.page.wait_for_function(READY, timeout=PATIENCE_MS)
    watched.page.wait_for_function(f"() => {CELLS} && {CELLS}.data.left.length > 10", timeout=PATIENCE_MS)
    at_rest(watched.page)
    return watched


def at_rest(page: object) -> None:
    """Until the figure stays where it is: cards that come above it move it, and a click would go where it was."""
    before = None
    while (now := level_at(page, 0, 0)) != before:
        before = now
        page.wait_for_timeout(500)


def level_at(page: object, token: float, level: int) -> tuple[float, float]:
    """Where on the screen a token of a level is."""
    x, y = page.evaluate(f"""() => {{
        {VIEW_OF_FIGURE}
        const box = view.canvas_view.el.getBoundingClientRect()
        return [box.x + view.frame.x_scale.compute({token}), box.y + view.frame.y_scale.compute({level})]
    }}""")
    return x, y


def click(page: object, token: float, level: int) -> None:
    page.mouse.click(*level_at(page, token, level))


def comes(element: object) -> bool:
    """Whether it is there within ten seconds."""
    for _ in range(100):
        if element.count():
            return True
        element.page.wait_for_timeout(100)
    return False


def test_the_wheel_zooms_tokens_and_never_levels(with_memories: Served, watch: object) -> None:
    watched = opened(watch, with_memories, "history=16k-0&colour=document")
    page = watched.page
    levels = page.evaluate(LEVELS)
    page.mouse.move(*level_at(page, 8_000, 1))
    for _ in range(20):
        page.mouse.wheel(0, -400)
        page.wait_for_timeout(40)
    page.wait_for_function(f"() => {X_RANGE}.end - {X_RANGE}.start < 400", timeout=PATIENCE_MS)
    # Tokens come into sight, the address follows, and a reload is in the same place.
    page.wait_for_function(f"() => {CELLS}.data.bottom.some((y) => y < 0)", timeout=PATIENCE_MS)
    page.wait_for_function("() => location.search.includes('span=')", timeout=PATIENCE_MS)
    assert levels == page.evaluate(LEVELS)
    there = page.evaluate(f"() => Math.round({X_RANGE}.start)")
    page.reload()
    page.wait_for_function(READY, timeout=PATIENCE_MS)
    page.wait_for_function(f"() => {FIGURE} && Math.abs({X_RANGE}.start - {there}) < 2", timeout=PATIENCE_MS)
    page.get_by_role("button", name="See all").click()
    page.wait_for_function("() => !location.search.includes('span=')", timeout=PATIENCE_MS)
    assert watched.errors == [] and watched.foreign == []


def test_a_click_shows_the_node_and_keys_walk_on_from_it(with_memories: Served, watch: object) -> None:
    watched = opened(watch, with_memories, "history=16k-0&span=2048-6144")
    page = watched.page
    click(page, 100 * 32 + 16, 1)
    page.get_by_text("Node L1 · 100").wait_for()
    page.get_by_text("tokens 3,200 to 3,232").wait_for()
    for key, name in (("ArrowRight", "L1 · 101"), ("ArrowUp", "L2 · 3"), ("ArrowDown", "L1 · 96")):
        page.keyboard.press(key)
        page.get_by_role("heading", name=f"Node {name}").wait_for()
    page.wait_for_function("() => location.search.includes('node=1%3A96')")
    page.get_by_role("link", name="L2 · 3").click()
    page.get_by_role("heading", name="Node L2 · 3").wait_for()
    assert watched.errors == [] and watched.foreign == []


def test_a_click_hits_every_time_on_a_memory_that_is_being_written(
    with_memories: Served, watch: object
) -> None:
    """A figure that is drawn anew under the pointer loses clicks: one in five was found to get through."""
    run = with_memories.folder / "kept"
    write_json(run / "run.json", run_json("kept", status="running", finished=None))
    writer = append_elsewhere(run / "memory" / "16k-1", 2_000, pause_s=0.05)
    try:
        watched = opened(watch, with_memories, "history=16k-1&colour=version&span=0-1024")
        page = watched.page
        length = f"() => {X_RANGE}.bounds[1]"
        before = page.evaluate(length)
        for block in range(5, 25):
            write_json(run / "run.json", run_json("kept", status="running", finished=None))
            node = page.get_by_role("heading", name=f"Node L1 · {block}", exact=True)
            place = level_at(page, block * 32 + 16, 1)
            page.mouse.click(*place)
            if not comes(node):
                # Where the row itself has moved meanwhile, as when a legend comes above it, anybody would click again.
                assert level_at(page, block * 32 + 16, 1) != place, f"the click on {block} is lost"
                click(page, block * 32 + 16, 1)
                assert comes(node)
        assert writer.poll() is None and page.evaluate(length) > before
    finally:
        writer.kill()
        writer.wait()
    assert watched.errors == [] and watched.foreign == []


def test_a_search_jumps_to_what_it_found(with_memories: Served, watch: object) -> None:
    watched = opened(watch, with_memories, "history=16k-0")
    page = watched.page
    page.get_by_label("Exact text").fill("needle 4711")
    page.keyboard.press("Enter")
    page.get_by_text("1 place with").wait_for()
    page.get_by_role("link", name="8,19").click()
    page.get_by_text("Node token 8,19").wait_for()
    page.wait_for_function(f"() => {X_RANGE}.end - {X_RANGE}.start < 100")
    assert watched.errors == [] and watched.foreign == []


def test_two_tabs_colour_one_memory_each_as_it_likes(with_memories: Served, watch: object) -> None:
    one = opened(watch, with_memories, "history=16k-0&colour=words&query=needle")
    other = opened(watch, with_memories, "history=16k-0&colour=document&node=1:7", width=420)
    one.page.get_by_text("BM25 of the query").first.wait_for()
    other.page.get_by_text("second.txt").first.wait_for()
    assert one.errors == other.errors == []


def test_the_tab_can_be_left_and_come_back_to(with_memories: Served, watch: object) -> None:
    watched = opened(watch, with_memories, "history=16k-0&node=1:7&span=0-2000")
    page = watched.page
    for view in ("Focus", "Tree"):
        page.get_by_role("tab", name=view).click()
        page.wait_for_function(f"() => location.search.includes('view={view.lower()}')")
    page.get_by_text("Node L1 · 7").wait_for()
    page.wait_for_timeout(500)
    click(page, 8 * 32 + 16, 1)
    page.get_by_text("Node L1 · 8").wait_for()
    assert watched.errors == []


def test_a_memory_that_vanishes_and_returns_is_told_in_an_open_page(
    with_memories: Served, watch: object, tmp_path: Path
) -> None:
    run = make_run(with_memories.folder / "brief", questions=1, traced=0)
    make_memory(run / "memory" / "16k-0", 2_000)
    watched = watch(f"{with_memories.url}?run=brief&view=tree&history=16k-0", with_memories.url)
    page = watched.page
    page.get_by_text("2,000 tokens").wait_for(timeout=PATIENCE_MS)
    (run / "memory" / "16k-0").rename(tmp_path / "away")
    page.get_by_text("2,000 tokens").wait_for(state="hidden", timeout=PATIENCE_MS)
    shutil.move(tmp_path / "away", run / "memory" / "16k-0")
    page.get_by_text("2,000 tokens").wait_for(timeout=PATIENCE_MS)
    assert watched.errors == []


def test_gists_are_laid_out_and_a_click_on_one_shows_its_node(with_memories: Served, watch: object) -> None:
    watched = watch(f"{with_memories.url}?run=kept&view=gists&history=16k-0", with_memories.url)
    page = watched.page
    page.get_by_text("numbers each").first.wait_for(timeout=PATIENCE_MS)
    page.wait_for_function(f"() => {FIGURE} && {FIGURE}.inner_width > 0 && ({READY})()", timeout=PATIENCE_MS)
    dots = f"{FIGURE}.renderers[0].data_source"
    assert page.evaluate(f"() => {dots}.data.x.length") > 10
    at_rest(page)
    x, y = page.evaluate(f"() => [{dots}.data.x[3], {dots}.data.y[3]]")
    page.mouse.click(*level_at(page, x, y))
    page.wait_for_function("() => location.search.includes('view=tree') && location.search.includes('node=')")
    page.get_by_role("heading", name="Node L").wait_for()
    assert watched.errors == [] and watched.foreign == []


def test_a_memory_that_is_taken_away_while_it_is_shown_leaves_what_was_recorded(
    with_memories: Served, watch: object
) -> None:
    run = make_run(with_memories.folder / "leaving", questions=1, traced=1)
    make_memory(run / "memory" / "16k-0", 3_000)
    watched = watch(f"{with_memories.url}?run=leaving&view=tree&history=16k-0", with_memories.url)
    page = watched.page
    page.wait_for_function(READY, timeout=PATIENCE_MS)
    page.get_by_label("Exact text").wait_for()
    shutil.rmtree(run / "memory")
    # What the run recorded of it is shown alone.
    page.get_by_label("Exact text").wait_for(state="hidden")
    page.get_by_role("tab", name="Results").click()
    page.wait_for_function("() => location.search.includes('view=results')")
    shutil.rmtree(run)
    assert watched.errors == [] and watched.foreign == []


def test_an_empty_folder_says_in_every_view_what_to_do_next(tmp_path: Path, watch: object) -> None:
    served = Served(tmp_path)
    try:
        watched = watch(served.url, served.url)
        page = watched.page
        for view, words in (
            ("Runs", "No runs yet in"), ("Results", "No runs yet"), ("Tree", "No memory here"),
            ("Gists", "No memory here"), ("Focus", "No runs yet"), ("What the model saw", "No runs yet"),
            ("Talk", "No memory here"),
        ):  # fmt: skip
            page.get_by_role("tab", name=view, exact=True).click()
            page.get_by_text(words).locator("visible=true").first.wait_for(timeout=PATIENCE_MS)
        assert watched.errors == [] and watched.foreign == []
    finally:
        served.stop()
