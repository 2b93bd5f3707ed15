"""The list of runs and their curves in a real browser: sorted, compared, followed and taken away."""

import io
import shutil
from pathlib import Path

import polars as pl
import pytest
from make_run import run_json, train_rows, write_json
from numpy.random import default_rng
from serving import Served
from test_browser import PATIENCE_MS, content_with, settled

from megacontext.telemetry import TelemetryWriter
from workbench.bench.chromium import IDLE

pytestmark = pytest.mark.browser

LAST_OF_LINES = """() => [...Bokeh.documents[0].all_models]
    .filter((model) => model.type == "ColumnDataSource" && model.data.smooth && model.data.x.length)
    .map((model) => model.data.x[model.data.x.length - 1])"""
ADDRESS = "() => new URLSearchParams(location.search).get('{}') == {}"


def trained(folder: Path, steps: int, **about: object) -> Path:
    folder.mkdir()
    write_json(folder / "run.json", run_json(folder.name, **about))
    (folder / "recipe.toml").write_text(f"seed = {steps}\n\n[focus]\nbudget = 256\n")
    with TelemetryWriter(folder / "telemetry") as writer:
        for row in train_rows(range(steps), default_rng(steps)):
            writer.emit("train", **row)
    return folder


@pytest.fixture
def folder(served: Served) -> Path:
    """Two trained runs, and one that nobody can read, beside the finished one."""
    made = [
        trained(served.folder / "alpha", 12),
        trained(served.folder / "beta", 20),
        served.folder / "newer",
    ]
    made[2].mkdir()
    (made[2] / "run.json").write_text('{"format": 99}')
    yield served.folder
    for run in made:
        shutil.rmtree(run)


def test_runs_are_sorted_ticked_and_laid_over_one_another(
    served: Served, folder: Path, watch: object
) -> None:
    watched = watch(f"{served.url}?view=runs", served.url)
    page = settled(watched)
    page.get_by_text("update MegaContext").wait_for()
    page.get_by_role("button", name="run", exact=True).click()
    page.wait_for_function(ADDRESS.format("sort", "'name'"))
    page.locator("tbody tr").first.get_by_text("alpha").wait_for()
    page.get_by_label("compare alpha").check()
    page.get_by_label("compare beta").check()
    page.wait_for_function(ADDRESS.format("compare", "'alpha/beta'"))
    page.get_by_text("What the recipes differ in").wait_for()
    page.wait_for_function(
        f"() => {{ const last = ({LAST_OF_LINES})(); return last.includes(11) && last.includes(19) }}"
    )
    assert page.get_by_label("compare newer").is_disabled()
    page.get_by_role("button", name="Time").click()
    page.wait_for_function(ADDRESS.format("axis", "'time'"))
    page.wait_for_function(f"() => ({LAST_OF_LINES})().some((last) => Math.abs(last - 19 * 0.4) < 1e-9)")
    page.reload()
    settled(watched)
    page.get_by_text("What the recipes differ in").wait_for()
    assert page.get_by_label("compare beta").is_checked()
    content_with(watched)


def test_a_row_is_reached_and_opened_by_keyboard(served: Served, folder: Path, watch: object) -> None:
    watched = watch(f"{served.url}?view=runs&sort=name", served.url)
    page = settled(watched)
    page.get_by_role("button", name="beta", exact=True).press("Enter")
    page.wait_for_function(ADDRESS.format("run", "'beta'"))
    page.wait_for_function(ADDRESS.format("view", "'results'"))
    content_with(watched)


def test_charts_and_data_are_saved_under_names_that_say_what_they_are(
    served: Served, folder: Path, watch: object
) -> None:
    watched = watch(f"{served.url}?view=runs&compare=alpha/beta", served.url)
    page = settled(watched)
    page.get_by_role("button", name="PNG").wait_for()
    assert page.get_by_role("button", name="PNG").is_disabled()
    page.get_by_label("Export").click()
    page.get_by_role("option", name="Loss minimised").or_(
        page.get_by_role("menuitem", name="Loss minimised")
    ).click()
    files = {}
    for kind in ("PNG", "SVG", "CSV", "Parquet"):
        with page.expect_download() as waiting:
            page.get_by_role("button", name=kind).click()
        name = waiting.value.suggested_filename
        assert name == f"megacontext-alpha+beta-loss_nats-over_step.{kind.lower()}"
        files[kind] = Path(waiting.value.path()).read_bytes()
    assert files["PNG"].startswith(b"\x89PNG") and len(files["PNG"]) > 5_000
    drawn = files["SVG"].decode()
    assert drawn.startswith("<svg") and "alpha" in drawn and "Loss minimised" in drawn and "<path" in drawn
    assert (
        len(pl.read_csv(io.BytesIO(files["CSV"]))) == len(pl.read_parquet(io.BytesIO(files["Parquet"]))) == 32
    )
    content_with(watched)


def test_two_live_runs_are_followed_at_once(served: Served, folder: Path, watch: object) -> None:
    beat = {"status": "running", "finished": None}
    watched = watch(f"{served.url}?view=runs&compare=alpha/beta", served.url)
    page = settled(watched)
    page.wait_for_function(f"() => ({LAST_OF_LINES})().length >= 2")
    figures = "() => Bokeh.documents[0].all_models.size"
    before = 0
    while before != (before := page.evaluate(figures)):  # figures come one by one, behind the words
        page.wait_for_timeout(2_000)
        page.wait_for_function(IDLE)
    for name, step in (("alpha", 90), ("beta", 91)):
        write_json(folder / name / "run.json", run_json(name, **beat))
        with TelemetryWriter(folder / name / "telemetry") as writer:
            writer.emit("train", step=step, stage="base", loss_nats=1.0)
    page.wait_for_function(
        f"() => [90, 91].every((step) => ({LAST_OF_LINES})().includes(step))", timeout=PATIENCE_MS
    )
    assert page.evaluate(figures) == before
    content_with(watched)


def test_a_page_that_draws_nothing_is_sent_nothing_until_it_does(
    served: Served, folder: Path, watch: object
) -> None:
    watched = watch(f"{served.url}?view=runs&compare=alpha", served.url)
    page = settled(watched)
    page.wait_for_function(f"() => ({LAST_OF_LINES})().length >= 1")
    sent = """() => [...Bokeh.documents[0].all_models]
        .find((one) => one.type == "Range1d" && one.js_property_callbacks["change:end"])?.end"""
    page.evaluate("""() => {
        window.frames_kept = []; window.real = window.requestAnimationFrame
        window.requestAnimationFrame = (draw) => frames_kept.push(draw)
    }""")
    page.wait_for_timeout(1_500)  # what was under way comes
    before = page.evaluate(sent)
    assert before > 0
    page.wait_for_timeout(2_500)
    assert page.evaluate(sent) == before
    page.evaluate("""() => {
        window.requestAnimationFrame = window.real
        for (const draw of frames_kept) draw(performance.now())
    }""")
    page.wait_for_function(f"(before) => ({sent})() > before + 1", arg=before)
    content_with(watched)
