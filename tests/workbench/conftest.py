"""Runs to look at, made once, and a browser to look with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from make_run import make_run
from serving import Served


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run. Do not change it: copy it."""
    return make_run(tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture
def run_copy(finished_run: Path, tmp_path: Path) -> Path:
    """A finished run to be damaged."""
    return Path(shutil.copytree(finished_run, tmp_path / "runs" / "copy"))


@dataclass
class Watched:
    """A page, the errors that it has told its console, and the addresses outside that it has asked for."""

    page: object
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


@pytest.fixture
def watch(browser: object) -> Iterator[object]:
    """Opens a page on an address and listens to what it complains of."""
    pages = []

    def open_page(url: str, home: str, scheme: str = "light", width: int = 1280) -> Watched:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        watched = Watched(page)
        page.on("console", lambda said: watched.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: watched.errors.append(str(error)))
        own = (home, home.replace("http", "ws", 1), "data:", "blob:")
        page.on(
            "request", lambda asked: None if asked.url.startswith(own) else watched.foreign.append(asked.url)
        )
        page.on(
            "websocket",
            lambda asked: None if asked.url.startswith(own) else watched.foreign.append(asked.url),
        )
        page.set_default_timeout(60_000)
        page.goto(url)
        pages.append(page)
        return watched

    yield open_page
    for page in pages:
        page.close()


@pytest.fixture(scope="session")
def served(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A workbench over a folder of runs, to which tests may add some."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(finished_run, folder / "finished")
    served = Served(folder)
    yield served
    if served.process.poll() is None:
        served.stop()
