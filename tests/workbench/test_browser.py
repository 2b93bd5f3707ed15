"""The workbench and the report in a real browser."""

import http.client
import json
import shutil
import signal
import time
from pathlib import Path

import pytest
from make_run import make_run, run_json, train_rows, write_json
from numpy.random import default_rng
from serving import Served

from megacontext.telemetry import TelemetryWriter
from workbench.palette import DARK, LIGHT
from workbench.report import write_report

pytestmark = pytest.mark.browser

READY = "Bokeh.documents.length > 0 && Bokeh.documents.every((doc) => doc.is_idle)"
LAST_STEP = """() => Math.max(...[...Bokeh.documents[0].all_models]
    .filter((model) => model.type == "ColumnDataSource" && model.data.smooth)
    .map((model) => model.data.x[model.data.x.length - 1]), -1)"""
CURRENT_WITHIN_MS = 2_000
PATIENCE_MS = 60_000
"""For a machine that is busy with something else; nothing is timed by it."""


def settled(watched: object) -> object:
    """The page, once everything is drawn."""
    watched.page.wait_for_function("() => window.Bokeh !== undefined && " + READY, timeout=PATIENCE_MS)
    watched.page.wait_for_timeout(150)
    return watched.page


def content_with(watched: object) -> None:
    assert watched.errors == [] and watched.foreign == []


def test_every_view_opens_without_complaint(served: Served, watch: object) -> None:
    watched = watch(f"{served.url}?run=finished&history=book-0&question=1", served.url)
    page = settled(watched)
    for view in ("Tree", "Focus", "Runs"):
        show(watched, view)
    page.get_by_text("Loss minimised").first.wait_for()
    content_with(watched)


def test_the_run_is_named_before_any_script_has_run_and_once_when_the_page_is_there(
    served: Served, browser: object, watch: object
) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.route("**/*.js*", lambda route: route.abort())
    page.goto(f"{served.url}?run=finished&view=focus")
    page.locator("#foreword").get_by_text("finished", exact=True).wait_for(timeout=10_000)
    assert page.locator("#foreword .chosen").inner_text() == "Focus"
    page.close()
    watched = watch(f"{served.url}?run=finished&view=focus", served.url)
    page = settled(watched)
    page.wait_for_function("() => !document.getElementById('foreword')")
    assert page.evaluate("() => performance.getEntriesByName('first-contentful-paint').length") == 1
    content_with(watched)


def test_the_light_theme_on_a_narrow_screen_shows_content_and_no_complaint(
    served: Served, watch: object
) -> None:
    watched = watch(f"{served.url}?run=finished&view=focus", served.url, width=420)
    page = settled(watched)
    page.get_by_label("Open drawer").wait_for()  # the sidebar does not cover the page
    surface = (
        "() => getComputedStyle(document.documentElement).getPropertyValue('--panel-surface-color').trim()"
    )
    assert page.evaluate(surface).upper() == DARK["surface"]
    page.get_by_label("Toggle theme").click()
    page.wait_for_function(f"() => ({surface})().toUpperCase() == '{LIGHT['surface']}'")
    show(watched, "Tree")
    content_with(watched)


def show(watched: object, view: str) -> None:
    watched.page.get_by_role("tab", name=view).click()
    watched.page.wait_for_function(f"() => location.search.includes('view={view.lower()}')")
    settled(watched)


def test_the_slider_moves_the_step_and_the_address_follows(served: Served, watch: object) -> None:
    watched = watch(f"{served.url}?run=finished&view=focus&history=16k-0&question=0", served.url)
    page = settled(watched)
    page.get_by_text("no edits: the final context").wait_for()
    page.get_by_role("slider").focus()
    page.keyboard.press("ArrowLeft")
    page.get_by_text("Step 1 of 2").wait_for()
    page.wait_for_function("() => location.search.includes('step=1')")
    page.reload()
    settled(watched)
    page.get_by_text("Step 1 of 2").wait_for()
    content_with(watched)


def test_one_open_page_keeps_up_with_a_growing_run(served: Served, watch: object) -> None:
    run = served.folder / "growing"
    run.mkdir()
    beat = {"status": "running", "finished": None}
    write_json(run / "run.json", run_json("growing", **beat))
    rows = train_rows(range(60), default_rng(0))
    with TelemetryWriter(run / "telemetry", flush_seconds=0) as writer:
        for row in rows[:5]:
            writer.emit("train", **row)
        watched = watch(f"{served.url}?run=growing&view=runs", served.url)
        page = settled(watched)
        page.wait_for_function(f"() => ({LAST_STEP})() == 4", timeout=PATIENCE_MS)
        delays_ms = []
        for row in rows[5:12]:
            write_json(run / "run.json", run_json("growing", **beat))
            writer.emit("train", **row)
            began = time.monotonic()
            page.wait_for_function(f"() => ({LAST_STEP})() == {row['step']}", timeout=PATIENCE_MS, polling=50)
            delays_ms.append((time.monotonic() - began) * 1000)
    # The middle one, for a busy machine may hold up any single one.
    assert sorted(delays_ms)[len(delays_ms) // 2] < CURRENT_WITHIN_MS, delays_ms
    page.get_by_text("running").first.wait_for(timeout=PATIENCE_MS)
    # The run dies without a word; the page says so.
    write_json(run / "run.json", run_json("growing", **beat, pid=2**22 + 1))
    page.get_by_text("its process is gone").wait_for(timeout=PATIENCE_MS)
    content_with(watched)
    shutil.rmtree(run)


def test_untrusted_text_is_shown_and_not_run(served: Served, watch: object) -> None:
    evil = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
    make_run(served.folder / "evil", questions=2, traced=1, prompt=evil, message=evil)
    watched = watch(f"{served.url}?run=evil&view=focus", served.url)
    page = settled(watched)
    page.get_by_text("<img src=x").first.wait_for()
    assert page.evaluate("window.hacked") is None
    content_with(watched)
    shutil.rmtree(served.folder / "evil")


def test_a_damaged_run_is_a_sentence_and_another_can_be_chosen(served: Served, watch: object) -> None:
    (served.folder / "broken").mkdir()
    (served.folder / "broken" / "run.json").write_text(json.dumps({"format": 99}))
    watched = watch(f"{served.url}?run=broken", served.url)
    page = settled(watched)
    page.get_by_text("update MegaContext").wait_for()
    page.get_by_label("Run", exact=True).click()
    page.get_by_role("menuitem", name="finished").click()
    page.get_by_text("LensNet answers 92 %").wait_for()
    content_with(watched)
    shutil.rmtree(served.folder / "broken")


def test_the_report_opens_from_disk_alone_in_both_schemes(
    finished_run: Path, tmp_path: Path, watch: object
) -> None:
    report = write_report(shutil.copytree(finished_run, tmp_path / "run"))
    watched = watch(report.as_uri(), "file://", scheme="light", width=900)
    page = settled(watched)
    assert page.locator("canvas").count() > 10
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    label = (
        "() => [...Bokeh.documents[0].all_models].find((m) => m.type == 'LinearAxis').major_label_text_color"
    )
    assert page.evaluate(label) == LIGHT["muted"]
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"() => ({label})() == '{DARK['muted']}'")
    content_with(watched)


def test_ctrl_c_ends_the_server_with_code_zero(tmp_path: Path) -> None:
    for with_signal in (signal.SIGINT, signal.SIGTERM):
        code, said = Served(tmp_path).stop(with_signal)
        assert code == 0 and "Traceback" not in said, said


def test_the_server_answers_only_pages_of_its_own(served: Served) -> None:
    host = served.url.removeprefix("http://").rstrip("/")
    connection = http.client.HTTPConnection(host, timeout=5)
    upgrade = {
        "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Origin": "http://elsewhere.example",
    }  # fmt: skip
    connection.request("GET", "/ws", headers=upgrade)
    assert connection.getresponse().status == 403


def test_two_pages_on_one_run_do_not_disturb_each_other(served: Served, watch: object) -> None:
    one = watch(f"{served.url}?run=finished&view=focus&history=16k-0&question=0", served.url)
    other = watch(f"{served.url}?run=finished&view=focus&history=book-0&question=2", served.url)
    settled(one).get_by_text("lantern").first.wait_for()
    settled(other).get_by_text("harbour").first.wait_for()
    content_with(one)
    content_with(other)
