"""How soon does the tree of ten million tokens answer: a zoom, another colour, a click, a jump?

    python -m workbench.bench.tree --json

A memory with synthetic vectors is made first (a minute or two), and its answers are checked: what a column shows is the
highest of what it stands for, a jump lands on the node, a click on the one below it. Only then interactions are timed,
in the store alone, and in the page without a browser, which is all that the server does for one, its messages apart.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from megacontext.bench.machine import machine
from megacontext.bench.store import FirstNumbers
from megacontext.errors import ConfigError
from megacontext.spans import Node
from megacontext.tree import Memory
from workbench.page import Workbench
from workbench.stores import colouring
from workbench.stores.levels import Levels
from workbench.stores.library import Library
from workbench.stores.nodes import facts, near
from workbench.views.tree import TreeView

DOCUMENTS = 200
_CHUNK_TOKENS = 250_000


@dataclass(frozen=True)
class TreeBench:
    """Time the interactions of the tree on a large memory."""

    tokens: int = 10_000_000
    """Length of the history."""
    rounds: int = 60
    """How often each interaction is timed."""
    folder: Path | None = None
    """Where the memory is kept, to be found there by the next run; default: a temporary folder."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        figures = self.measure()
        if self.json:
            print(json.dumps(figures, indent=1))
        else:
            for place in ("store", "page"):
                for name, one in figures[place].items():
                    print(f"{place:5}  {name:28} p50 {one['p50_ms']:8.1f} ms   p95 {one['p95_ms']:8.1f} ms")
        return 0

    def measure(self) -> dict[str, Any]:
        """All figures. Raises ConfigError where an answer is wrong: then nothing is timed."""
        folder = self.folder or Path(tempfile.mkdtemp(prefix="tree-bench-"))
        try:
            path = folder / "large"
            if not (path / "current").exists():
                make_large(path, self.tokens)
            return self._measured(path)
        finally:
            if self.folder is None:
                shutil.rmtree(folder, ignore_errors=True)

    def _measured(self, path: Path) -> dict[str, Any]:
        library, rng = Library(path.parent / "runs", path), np.random.default_rng(0)
        began = time.perf_counter()
        page = Workbench(library)
        first_ms = (time.perf_counter() - began) * 1000
        view = page._views["tree"]
        assert isinstance(view, TreeView)
        store = library.memory(path.name)
        _settled(view)
        self._check(view)
        levels, size, length = view._colours.levels, store.block_size, store.num_tokens

        def span() -> tuple[float, float]:
            width = 10 ** rng.uniform(1.5, np.log10(length))
            start = rng.uniform(0, length - width)
            return start, start + width

        def node() -> Node:
            lod = int(rng.integers(1, levels.top + 1))
            return Node(lod, int(rng.integers(0, length // size**lod)))

        documents = colouring.document_table(store)
        documents.wait(60)
        awaited = near(store, node(), "first")
        awaited.wait(600)
        in_store = {
            "columns of a range": self._timed(lambda: levels.cells(*span())),
            "colour by document": self._timed(
                lambda: colouring.by_document(documents.result, length, size), rounds=10
            ),
            "colour by gist version": self._timed(
                lambda: colouring.by_version(store.memory, length), rounds=10
            ),
            "facts of a node": self._timed(lambda: facts(store, node())),
            "nearest blocks": self._timed(lambda: near(store, node(), "bench").wait(60)),
        }
        colours = ("version", "residency", "document")

        def zoom() -> None:
            view._figure.look(*span())

        def click() -> None:
            token = rng.uniform(*view._figure.span)
            view._tapped(token, 1)

        def recolour() -> None:
            page.selection.colour = colours[int(rng.integers(0, len(colours)))]
            _settled(view)

        in_page = {
            "page until it is drawn": {"p50_ms": first_ms, "p95_ms": first_ms},
            "zoom step": self._timed(zoom),
            "another colour": self._timed(recolour, rounds=20),
            "click on a node": self._timed(click),
            "jump to a node": self._timed(lambda: view._select(node())),
        }
        library.close()
        return {"machine": machine(), "tokens": length, "store": in_store, "page": in_page}

    def _check(self, view: TreeView) -> None:
        """Raises ConfigError for a wrong answer."""
        blocks = np.random.default_rng(1).normal(size=view._subject.num_tokens // 32).astype(np.float32)
        levels = Levels.of_blocks(blocks, view._subject.num_tokens, 32)
        row = levels.cells(0, view._subject.num_tokens).filter(lod=1)
        right = all(
            blocks[first:last].max() == np.float32(value)
            for first, last, value in row.select("first", "last", "value").iter_rows()
        )
        view._select(Node(1, 1_000))
        landed = view.selection.node == "1:1000" and view._figure.span[0] <= 32_000 < view._figure.span[1]
        view._tapped(32_000 + 16, 1)
        if not right or not landed or view.selection.node != "1:1000":
            raise ConfigError(
                "timings are told of right answers only, these are wrong; run the tests of the tree"
            )

    def _timed(self, work: Callable[[], object], rounds: int | None = None) -> dict[str, float]:
        took = []
        for _ in range(rounds or self.rounds):
            began = time.perf_counter()
            work()
            took.append((time.perf_counter() - began) * 1000)
        return {"p50_ms": float(np.quantile(took, 0.5)), "p95_ms": float(np.quantile(took, 0.95))}


def make_large(path: Path, num_tokens: int) -> None:
    """A memory of random ids in documents of equal length, with vectors that cost nearly nothing."""
    encoder, rng = FirstNumbers(32, 64), np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    each = max(num_tokens // DOCUMENTS, 1)
    with Memory.create(path, encoder.identity(), encoder, durability="batch") as memory:
        for number in range(DOCUMENTS):
            with memory.document(f"document {number}"):
                for start in range(0, each, _CHUNK_TOKENS):
                    memory.append(rng.integers(0, 4096, min(_CHUNK_TOKENS, each - start)))
        count = memory.num_blocks
        for step in range(20):
            seen = np.unique(rng.integers(0, count, 500))
            memory.record_access(
                np.ones(len(seen), dtype=int), seen, rng.random(len(seen)) < 0.1, time_ms=step + 1
            )


def _settled(view: TreeView) -> None:
    """Until nothing is awaited any more."""
    while view._colours._waits:
        time.sleep(0.002)
        view.tick()


if __name__ == "__main__":
    raise SystemExit(tyro.cli(TreeBench).run())
