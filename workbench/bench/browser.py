"""How soon does a page show its first words, and how soon does it follow a hand, in a real browser?

    tools/demo --no-serve && python -m workbench.bench.browser --json

Pages over a run that keeps its memory (--run), and the tree of a synthetic memory of ten million tokens. First paint
is the browser's own first contentful paint, where the run is named. First words is the time from navigation until words
of the view itself that only the run's files can have given are visible. Both are cold in a browser that has never been
there, warm in one that was there before. An interaction is timed by the page itself, from
the moment of the key, wheel or click to the second frame after what it leads to stands in the page, so that it is
drawn. What does not come within a minute is an error and no figure. All of it is worth what the machine was worth: the
load before and after is told beside every figure, and it includes the browser's own.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from megacontext.bench.machine import machine
from megacontext.progress import Progress
from workbench.bench.chromium import DRAWS, HAS_FIGURE, IDLE, chromium, served
from workbench.bench.tree import make_large
from workbench.desk import Desk
from workbench.state import VIEWS, Selection, query_of
from workbench.stores.library import Library
from workbench.text import count

PATIENCE_MS = 60_000
SIZE = {"width": 1440, "height": 960}
PAINT_REST_S = 2.0
"""Between two pages: the last one is put away meanwhile, as nobody opens one every second."""
REST_MS = 400
"""Between two interactions: nothing else is under way."""
FEW_TOKENS = 200
"""In sight: from there it is zoomed out again."""
TREE_HEIGHT_SHARE = 0.6
"""Of the figure, from its top: there the levels of a large memory are."""

# Text as a reader sees it: Panel keeps every pane in a shadow root of its own. To walk through all of them in
# every frame would be most of what is timed, so the roots are found before, and again only now and then.
WATCH = """([kind, condition]) => {
  const parts = [], collect = (root) => {
    for (const one of root.querySelectorAll("*")) if (one.shadowRoot) { parts.push(one); collect(one.shadowRoot) }
  }
  let frame = 0
  const roots = () => {
    if (frame++ % 12 == 0) { parts.length = 0; collect(document) }
    return parts
  }
  const shows = (text) =>
    roots().some((part) => part.shadowRoot.textContent.includes(text) && part.checkVisibility() &&
      [...part.shadowRoot.querySelectorAll("*")].some((e) =>
        e.tagName != "STYLE" && e.textContent.includes(text) && e.checkVisibility()))
  const heading = () => roots().flatMap((part) => [...part.shadowRoot.querySelectorAll("h2")])
    .find((one) => one.textContent.startsWith("Node"))?.textContent ?? ""
  const models = () => [...Bokeh.documents[0].all_models]
  const cells = () => models().find((one) => one.type == "ColumnDataSource" && one.data.fill_alpha)
  const before = cells()?.data.left
  const holds = eval(condition)
  roots()
  window.tookMs = undefined
  window.addEventListener(kind, (event) => {
    const began = event.timeStamp
    const look = () => {
      if (!holds()) return requestAnimationFrame(look)
      requestAnimationFrame(() => requestAnimationFrame(() => { window.tookMs = performance.now() - began }))
    }
    look()
  }, { capture: true, once: true })
}"""
FIRST_PAINT_MS = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
FIGURE_BOX = """() => {
  const figure = [...Bokeh.documents[0].all_models].find((one) => one.type == "Figure" && one.x_range.min_interval)
  const views = []
  const collect = (view) => { views.push(view); for (const child of view.children?.() ?? []) collect(child) }
  for (const root of Bokeh.index.roots) collect(root)
  const view = views.find((one) => one.model === figure)
  const box = view.canvas_view.el.getBoundingClientRect(), frame = view.frame.bbox
  return { x: box.x + frame.left, y: box.y + frame.top, width: frame.width, height: frame.height,
    levels: [1, 2].map((lod) => box.y + view.frame.y_scale.compute(lod)) }
}"""
SPAN = """() => { const range = [...Bokeh.documents[0].all_models].find((one) => one.type == "Figure" &&
  one.x_range.min_interval).x_range; return [range.start, range.end] }"""
CELLS_CAME = "() => cells().data.left !== before && cells().data.left.length > 0"

Part = Literal["paint", "tabs", "focus", "tree"]


@dataclass(frozen=True)
class BrowserBench:
    """Time first paints and interactions in Chromium."""

    run: Path = Path("runs/demo")
    """A run that keeps the memory of its history and has traced questions."""
    tokens: int = 10_000_000
    """Length of the synthetic memory."""
    memory: Path | None = None
    """Where the synthetic memory is kept, to be found there by the next run; default: a temporary folder."""
    repeats: int = 12
    """Of every figure."""
    parts: tuple[Part, ...] = ("paint", "tabs", "focus", "tree")
    """What is timed."""
    views: tuple[str, ...] = tuple(VIEWS)
    """Whose first paint is timed."""
    json: bool = False
    """Print JSON."""

    def main(self) -> int:
        figures = self.measure()
        if self.json:
            print(json.dumps(figures, indent=1))
            return 0
        for name, one in figures["figures"].items():
            print(f"{name:34} " + "   ".join(f"{key} {value}" for key, value in one.items()))
        return 0

    def measure(self) -> dict[str, Any]:
        """Milliseconds of each figure with the machine's load, and what the machine is."""
        figures: dict[str, Any] = {}
        rounds = len(self.views) * 2 * ("paint" in self.parts) + len(self.parts) - ("paint" in self.parts)
        with (
            tempfile.TemporaryDirectory(prefix="browser-bench-") as folder,
            Progress("pages", rounds) as progress,
        ):
            scratch = Path(folder)
            if set(self.parts) - {"tree"}:
                with served(self.run.parent) as (url, _):
                    words = words_of(self.run)
                    if "paint" in self.parts:
                        figures |= self._paints(url, words, scratch, progress)
                    with chromium() as browser:
                        for part, measured in (("tabs", self._tabs), ("focus", self._steps)):
                            if part in self.parts:
                                figures |= measured(browser, url, words)
                                progress.advance(part)
            if "tree" in self.parts:
                memory = self.memory or scratch / "large"
                if not (memory / "current").exists():
                    make_large(memory, self.tokens)
                with served(scratch / "no-runs", memory) as (url, _), chromium() as browser:
                    figures |= self._tree(browser, url)
                    progress.advance("tree")
        return {"machine": machine(), "figures": figures}

    # First paint ---------------------------------------------------------------------------------------------------

    def _paints(self, url: str, words: dict[str, str], scratch: Path, progress: Progress) -> dict[str, Any]:
        figures = {}
        for view in self.views:
            with chromium() as browser:
                figures |= self._times(browser, url, view, words[view], "cold")
            progress.advance(view)
        with chromium(scratch / "profile") as context:
            for view in self.views:
                for _ in range(2):  # the second visit lets the browser keep what it has compiled
                    self._painted(context, url, view, words[view])
                figures |= self._times(context, url, view, words[view], "warm")
                progress.advance(view)
        return figures

    def _times(self, browser: Any, url: str, view: str, words: str, how: str) -> dict[str, Any]:
        load = os.getloadavg()[0]
        pages = [self._painted(browser, url, view, words) for _ in range(self.repeats)]
        return {
            f"first {what} of {view}, {how}": _quantiles([page[what] for page in pages], load)
            for what in pages[0]
        }

    def _painted(self, browser: Any, url: str, view: str, words: str) -> dict[str, float]:
        """Milliseconds until a new page's first paint, until words of the view, and until its first figure.

        `browser` may be a context.
        """
        page = browser.new_page(**({} if hasattr(browser, "add_cookies") else {"viewport": SIZE}))
        began = time.perf_counter()
        page.goto(url + query_of({"run": self.run.name, "view": view}), wait_until="commit")
        page.get_by_text(words).first.wait_for(timeout=PATIENCE_MS)
        found = {"words": 1000 * (time.perf_counter() - began)}
        if view in DRAWS:
            page.wait_for_function(HAS_FIGURE, timeout=PATIENCE_MS)
            found["figure"] = 1000 * (time.perf_counter() - began)
        found["paint"] = page.evaluate(FIRST_PAINT_MS)
        page.close()
        time.sleep(PAINT_REST_S)
        return found

    # Interactions --------------------------------------------------------------------------------------------------

    def _opened(self, browser: Any, address: str, words: str) -> Any:
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(PATIENCE_MS)
        page.goto(address)
        page.get_by_text(words).first.wait_for()
        page.wait_for_function(IDLE)
        page.wait_for_timeout(4_000)  # figures come one by one, behind the words
        page.wait_for_function(IDLE)
        return page

    def _tabs(self, browser: Any, url: str, words: dict[str, str]) -> dict[str, Any]:
        """Between views: opened for the first time on a page, and gone back to."""
        first, again = [], []
        load = os.getloadavg()[0]
        for _ in range(max(self.repeats // 3, 1)):
            page = self._opened(
                browser, url + query_of({"run": self.run.name, "view": "results"}), words["results"]
            )
            for found in (first, again):
                for view in ("focus", "seen", "tree", "results"):
                    took_ms = _reacted(
                        page, "pointerdown", f"() => shows({json.dumps(words[view])})",
                        page.get_by_role("tab", name=VIEWS[view], exact=True).click,
                    )  # fmt: skip
                    if view != "results":
                        found.append(took_ms)
                    page.wait_for_timeout(2_500)
            page.close()
        return {
            "a tab, opened first": _quantiles(first, load),
            "a tab, gone back to": _quantiles(again, load),
        }

    def _steps(self, browser: Any, url: str, words: dict[str, str]) -> dict[str, Any]:
        figures = {}
        last = last_step(self.run)
        for view in ("focus", "seen"):
            page = self._opened(
                browser, url + query_of({"run": self.run.name, "view": view, "step": 0}), f"Step 0 of {last}"
            )
            steps = _to_and_fro(last)

            def step(page: Any = page, steps: Iterator[tuple[str, int]] = steps) -> float:
                key, at = next(steps)
                wanted = f'() => shows("Step {at} of {last}")'
                return _reacted(page, "keydown", wanted, lambda: page.keyboard.press(key))

            figures[f"a step in {view}"] = _told(step, 2 * self.repeats)
            page.close()
        return figures

    def _tree(self, browser: Any, url: str) -> dict[str, Any]:
        page = self._opened(browser, url + "?view=tree", f"{count(self.tokens)} tokens")
        page.wait_for_function(
            "() => [...Bokeh.documents[0].all_models].some((one) => one.type == 'ColumnDataSource' && "
            "one.data.fill_alpha && one.data.left.length > 100)"
        )
        rng = np.random.default_rng(0)
        box = page.evaluate(FIGURE_BOX)
        jumps = itertools.count()
        inward = True

        def zoom() -> float:
            nonlocal inward
            before = page.evaluate(SPAN)
            seen = before[1] - before[0]
            inward = seen > self.tokens / 2 or (inward and seen > FEW_TOKENS)
            page.mouse.move(
                box["x"] + box["width"] * rng.uniform(0.3, 0.7), box["y"] + box["height"] * TREE_HEIGHT_SHARE
            )
            took_ms = _reacted(
                page, "wheel", CELLS_CAME, lambda: page.mouse.wheel(0, -600 if inward else 600)
            )
            after = page.evaluate(SPAN)
            assert (after[1] - after[0] < before[1] - before[0]) == inward, "the wheel turned the other way"
            return took_ms

        def click() -> float:
            address = page.evaluate("() => location.search")
            x = box["x"] + box["width"] * rng.uniform(0.05, 0.95)
            y = box["levels"][int(rng.integers(0, 2))]  # wide levels: hardly ever the same node twice
            heading = page.evaluate(HEADING)
            took_ms = _reacted(
                page, "pointerdown", f"() => heading() != {json.dumps(heading)}",
                lambda: page.mouse.click(x, y),
            )  # fmt: skip
            page.wait_for_function(f"() => location.search != {json.dumps(address)}")
            assert "node=" in page.evaluate("() => location.search"), "a click chose no node"
            return took_ms

        def jump() -> float:
            key = ("ArrowUp", "ArrowRight", "ArrowDown", "ArrowRight")[next(jumps) % 4]
            heading = page.evaluate(HEADING)
            return _reacted(
                page, "keydown", f"() => heading() != {json.dumps(heading)}",
                lambda: page.keyboard.press(key),
            )  # fmt: skip

        figures = {"zoom by the wheel": _told(zoom, 2 * self.repeats)}
        page.get_by_role("button", name="See all").click()
        page.wait_for_timeout(1_500)
        figures["click on a node"] = _told(click, 2 * self.repeats)
        figures["jump by a key"] = _told(jump, 2 * self.repeats)
        page.close()
        return figures


HEADING = """(() => { const find = (root) => { for (const one of root.querySelectorAll('*')) {
    if (one.tagName == 'H2' && one.textContent.startsWith('Node')) return one.textContent
    if (one.shadowRoot) { const found = find(one.shadowRoot); if (found) return found } } return '' }
    return find(document) })"""


def words_of(run: Path) -> dict[str, str]:
    """For every view, words that stand in it and that only the run's own files can have given."""
    desk = Desk(Library(run.parent), Selection(run=run.name))
    desk.open_run()
    store, memory = desk.run, desk.memory()
    assert store is not None and memory is not None, (
        f"{run} keeps no memory; make one with tools/demo --no-serve"
    )
    step = f"Step {last_step(run)} of {last_step(run)}"
    tokens = f"{count(memory.num_tokens)} tokens"
    runs = count(len(desk.library.runs()))
    desk.library.close()
    return {
        "runs": f"{runs} of {runs} runs", "results": store.sentences[0], "tree": tokens, "gists": "numbers each",
        "focus": step, "seen": step, "talk": "Ask the run",
    }  # fmt: skip


def last_step(run: Path) -> int:
    """The last refocus step of the question that a page opens with."""
    desk = Desk(Library(run.parent), Selection(run=run.name))
    desk.open_run()
    chosen, store = desk.selection, desk.run
    assert store is not None
    return int(store.entries(chosen.history, chosen.arm, chosen.question)["step"].max())


def _to_and_fro(last: int) -> Iterator[tuple[str, int]]:
    """Keys that walk from step 0 to the last and back, each with the step that it leads to."""
    while True:
        yield from (("ArrowRight", at) for at in range(1, last + 1))
        yield from (("ArrowLeft", at) for at in range(last - 1, -1, -1))


def _reacted(page: Any, kind: str, condition: str, act: Callable[[], object]) -> float:
    """Milliseconds from an event of that kind, which `act` causes, to the picture in which the condition holds."""
    page.wait_for_timeout(REST_MS)
    page.evaluate(WATCH, [kind, condition])
    act()
    page.wait_for_function("() => window.tookMs !== undefined", timeout=PATIENCE_MS, polling=20)
    return float(page.evaluate("() => window.tookMs"))


def _told(timed: Callable[[], float], repeats: int) -> dict[str, Any]:
    load = os.getloadavg()[0]
    return _quantiles([timed() for _ in range(repeats)], load)


def _quantiles(took_ms: list[float], load_before: float) -> dict[str, Any]:
    return {
        "n": len(took_ms),
        "p50_ms": round(float(np.quantile(took_ms, 0.5))),
        "p95_ms": round(float(np.quantile(took_ms, 0.95))),
        "max_ms": round(max(took_ms)),
        "load": [round(load_before, 1), round(os.getloadavg()[0], 1)],
    }


if __name__ == "__main__":
    sys.exit(tyro.cli(BrowserBench).main())
