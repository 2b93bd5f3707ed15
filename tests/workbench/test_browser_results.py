"""From a table to a sample to its focus steps, in a real browser."""

import pytest
from serving import Served
from test_browser import content_with, settled

pytestmark = pytest.mark.browser

ASKED = "() => new URLSearchParams(location.search).get('{}')"


def test_a_click_leads_from_a_row_to_a_sample_and_on_to_focus(served: Served, watch: object) -> None:
    watched = watch(f"{served.url}?run=finished&view=results", served.url)
    page = settled(watched)
    scores = page.get_by_role("table", name="Scores")
    scores.get_by_role("row").filter(has_text="bm25").first.click()
    page.wait_for_function(ASKED.format("cell") + " == 'group=16k&arm=bm25'")
    page.get_by_text("of 48 samples").wait_for()
    page.get_by_role("button", name="Wrong", exact=True).click()
    page.wait_for_function(ASKED.format("verdict") + " == 'wrong'")
    page.get_by_role("button", name="All samples").click()
    page.get_by_text("samples, ").wait_for()
    page.get_by_placeholder("Search the text").fill("harbour")
    page.wait_for_function(ASKED.format("search") + " == 'harbour'")
    samples = page.get_by_role("table", name="Samples")
    samples.get_by_role("row").nth(1).get_by_text("harbour").wait_for()
    # By keyboard, like everything else.
    samples.get_by_role("row").filter(has_text="lensnet").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_function(ASKED.format("sample") + " !== null")
    page.get_by_text("evidence read").last.wait_for()
    page.reload()
    settled(watched)
    page.get_by_role("table", name="The same by every arm").get_by_text("oracle").wait_for()
    page.get_by_role("button", name="Open in Focus").click()
    page.wait_for_function(ASKED.format("view") + " == 'focus'")
    page.get_by_text("Working context").first.wait_for()
    content_with(watched)


def test_a_cell_that_stands_for_a_part_of_its_row_leads_to_that_part(served: Served, watch: object) -> None:
    watched = watch(f"{served.url}?run=finished&view=results&table=by-depth", served.url)
    page = settled(watched)
    table = page.get_by_role("table", name="By depth")
    table.get_by_role("row").filter(has_text="random").first.get_by_role("button").nth(4).click()
    page.wait_for_function(ASKED.format("cell") + " == 'group=16k&arm=random&depth=0.8-1.0'")
    page.get_by_text("depth 0.8-1.0").wait_for()
    content_with(watched)
