"""Focus and what the model saw, in a real browser: stepping, playing, another scorer, opening a gist, going on."""

import shutil
from collections.abc import Iterator

import pytest
from serving import Served
from test_browser import content_with, settled
from test_seen_view import EVIL, make_seen

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def seen(served: Served) -> Iterator[str]:
    """Address of a run whose memory is there, with hostile text in it."""
    make_seen(served.folder / "seen", EVIL * 3)
    yield f"{served.url}?run=seen&history=h-0&question=0&arm=bm25"
    shutil.rmtree(served.folder / "seen")


def test_keys_step_and_play(served: Served, watch: object) -> None:
    watched = watch(f"{served.url}?run=finished&view=focus&history=16k-0&question=0&step=0", served.url)
    page = settled(watched)
    page.get_by_text("Step 0 of 2").wait_for()
    page.keyboard.press("ArrowRight")
    page.get_by_text("Step 1 of 2").wait_for()
    page.wait_for_function("() => location.search.includes('step=1')")
    page.keyboard.press("Home")
    page.get_by_text("Step 0 of 2").wait_for()
    page.keyboard.press("Space")
    page.get_by_text("Step 2 of 2").wait_for()
    page.get_by_role("button", name="Play").wait_for()
    content_with(watched)


def test_another_scorer_that_cannot_run_is_a_sentence_with_the_recorded_arm_beside_it(
    served: Served, watch: object
) -> None:
    watched = watch(
        f"{served.url}?run=finished&view=focus&history=16k-0&question=0&step=0&against=bm25", served.url
    )
    page = settled(watched)
    page.get_by_text("kept none; compare with a recorded arm").first.wait_for()
    page.get_by_text("as recorded at its own step 0").wait_for()
    page.get_by_text("Rank correlation").wait_for()
    content_with(watched)


def test_a_gist_opens_on_a_click_and_a_place_leads_into_the_tree(
    served: Served, seen: str, watch: object
) -> None:
    watched = watch(f"{seen}&view=seen&step=0", served.url)
    page = settled(watched)
    fold = page.locator(".fold").first
    fold.click()
    page.get_by_text("Not read by the model").first.wait_for()
    assert fold.get_attribute("aria-expanded") == "true"
    page.locator(".inside .fold").first.focus()
    page.keyboard.press("Enter")
    page.locator(".inside .inside .words").first.wait_for()
    assert page.evaluate("window.hacked") is None
    page.locator("a[data-go]").first.click()
    page.wait_for_function("() => /view=tree/.test(location.search) && /node=2/.test(location.search)")
    content_with(watched)


def test_the_exact_text_can_be_copied_and_shaded(served: Served, seen: str, watch: object) -> None:
    watched = watch(f"{seen}&view=seen", served.url)
    page = settled(watched)
    page.get_by_label("Shade by score").check()
    assert page.locator(".context.shaded").count() == 1
    page.get_by_role("button", name="Copy the exact text").click()
    page.get_by_text("Copied").wait_for()
    assert page.evaluate("window.hacked") is None
    content_with(watched)


def test_nothing_sticks_out_of_a_narrow_page(served: Served, seen: str, watch: object) -> None:
    for view in ("seen", "focus"):
        watched = watch(f"{seen}&view={view}&step=0", served.url, width=420)
        page = settled(watched)
        page.get_by_text("Step 0 of").wait_for()
        page.wait_for_timeout(1_500)
        assert (
            page.locator("h2").first.evaluate("(e) => e.getRootNode().host.getBoundingClientRect().right")
            <= 420
        )
        content_with(watched)
