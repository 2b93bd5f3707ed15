"""Pictures of every view of the workbench, dark and light, wide and narrow, into the vault.

    tools/demo --no-serve && .venv/bin/python tools/screenshots.py

Needs a run in --runs that keeps its memory, chromium, and playwright of the development requirements.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from playwright.sync_api import Page

from megacontext.progress import Progress
from workbench.bench.chromium import DRAWS, HAS_FIGURE, IDLE, chromium, served
from workbench.state import VIEWS, query_of

WIDE, NARROW = (1440, 960), (420, 900)
PATIENCE_MS = 60_000
FIGURES_MS = 5_000
"""Figures come one by one, behind the words."""


@dataclass(frozen=True)
class Screenshots:
    """Draw every view."""

    run: Annotated[str, tyro.conf.Positional] = "demo"
    """Name of the run to show."""
    runs: Path = Path("runs")
    """Folder that holds the runs."""
    out: Path = Path("obsidian/images")
    """Where the pictures go."""
    views: tuple[str, ...] = tuple(VIEWS)
    """Which views."""

    def take(self) -> int:
        self.out.mkdir(parents=True, exist_ok=True)
        shots = [(view, scheme, WIDE) for view in self.views for scheme in ("dark", "light")]
        shots += [(view, "dark", NARROW) for view in self.views]
        with (
            served(self.runs) as (url, _),
            chromium() as browser,
            Progress("pictures", len(shots)) as progress,
        ):
            for view, scheme, (width, height) in shots:
                page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                open_view(page, url + query_of({"run": self.run, "view": view}), scheme)
                prepare(page, view)
                name = f"workbench-{view}-{'narrow' if width == NARROW[0] else scheme}.png"
                page.screenshot(path=self.out / name)
                page.close()
                progress.advance(name)
        return 0


def open_view(page: Page, url: str, scheme: str) -> None:
    """The view in one of the themes, drawn."""
    page.goto(url)
    settle(page)
    if scheme == "light":
        page.get_by_label("Toggle theme").click()
        page.mouse.move(0, 0)
        settle(page)


def prepare(page: Page, view: str) -> None:
    """What a view shows only when somebody does something, or a moment later."""
    if view in DRAWS:
        page.wait_for_function(HAS_FIGURE, timeout=PATIENCE_MS)
    if view in ("results", "runs", "focus"):
        page.wait_for_timeout(FIGURES_MS)
    settle(page)
    if view == "talk":
        ask = page.get_by_role("button", name="Ask the run’s question")
        ask.wait_for(timeout=PATIENCE_MS)
        ask.click()
        page.get_by_text("Read word for word").wait_for(timeout=PATIENCE_MS)
        settle(page)


def settle(page: Page) -> None:
    """Until everything that was asked for is drawn."""
    page.wait_for_function(IDLE, timeout=PATIENCE_MS)
    page.wait_for_timeout(1_200)


if __name__ == "__main__":
    sys.exit(tyro.cli(Screenshots).take())
