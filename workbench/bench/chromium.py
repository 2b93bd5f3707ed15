"""A workbench in a process of its own and a browser that looks at it: what every bench, picture and test starts with.

The browser is Debian's Chromium, without a screen and without a network of its own. It draws in software, so what is
timed in it is slower than on a desk.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megacontext.errors import BackendUnavailableError

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
    "--disable-component-update", "--disable-sync", "--enable-precise-memory-info", "--js-flags=--expose-gc",
)  # fmt: skip
IDLE = "() => window.Bokeh && Bokeh.documents.length && Bokeh.documents.every((one) => one.is_idle)"
"""Whether a page has drawn all that it has."""
DRAWS = ("runs", "tree", "gists", "focus")
"""Views that open with a figure, which comes behind their words."""
HAS_FIGURE = """() => Bokeh.documents[0].is_idle &&
  [...Bokeh.documents[0].all_models].some((one) => one.type == "Figure" && one.inner_width > 0)"""
"""Whether a figure stands in the page."""


def executable() -> str | None:
    """Where Chromium is, None where it is not."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def chromium(profile: Path | None = None) -> Iterator[Any]:
    """Playwright's browser; with a `profile`, its one context, whose cache is on disk as a reader's is.

    Raises BackendUnavailableError where there is no Chromium or no playwright.
    """
    path = executable()
    if path is None:
        raise BackendUnavailableError("pages are watched in chromium, there is none; install it")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise BackendUnavailableError(
            "pages are watched through playwright, which is not installed; install the development requirements"
        ) from None
    with sync_playwright() as playwright:
        if profile is None:
            browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        else:
            browser = playwright.chromium.launch_persistent_context(
                str(profile), executable_path=path, args=list(FLAGS), viewport={"width": 1440, "height": 960}
            )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def served(runs: Path, memory: Path | None = None) -> Iterator[tuple[str, int]]:
    """A workbench over a folder of runs, perhaps with one memory beside: its address and its process."""
    command = [sys.executable, "-m", "megacontext", "workbench", "--runs", str(runs), "--json"]
    command += [] if memory is None else [str(memory)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())["url"], server.pid
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


def resident_bytes(pid: int) -> int:
    """What a process holds; 0 where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS")), 0)
