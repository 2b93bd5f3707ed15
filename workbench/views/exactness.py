"""How far is the context of one step from the best one that its budget allows, and in what do they differ?

Two answers, each named by what it goes by (`workbench.stores.yardstick`): the exact context for numbers of all blocks,
which come from the scorer that is compared with or else from the recorded cosines of addresses; and the gists that the
step's own scores would have paid for.
"""

from __future__ import annotations

import numpy as np
import panel as pn
import polars as pl
from markupsafe import Markup

from megacontext.errors import MegaContextError
from megacontext.focus import AllocatorConfig
from workbench import plots
from workbench.desk import Desk
from workbench.palette import level_colour
from workbench.stores.replay import ADDRESSES
from workbench.stores.seen import span_text
from workbench.stores.steps import context_of, level_raster, needed_standing, room_positions
from workbench.stores.yardstick import BestEdits, best_edits
from workbench.text import plain, table
from workbench.views.parts import card, drawing, empty, prose, stack
from workbench.views.texts import Texts, texts_of
from workbench.views.wishes import Asked

MOST_BLOCKS = 8
SAID_CHARACTERS = 110
_DEFAULTS = AllocatorConfig()


class ExactCard:
    """A card."""

    def __init__(self, desk: Desk):
        assert desk.run is not None
        self._desk, self._store, self._selection = desk, desk.run, desk.selection
        self._said, self._edits, self._blocks = prose(""), prose(""), prose("")
        self._plot, self._feed = drawing(None), plots.Feed()
        self._end = 0.0
        self._drawing = stack(self._plot)
        self._drawing.visible = False
        self._asked = Asked(desk)
        self._now = pl.DataFrame()
        self._key: tuple[object, ...] = ()

    def panel(self) -> pn.viewable.Viewable:
        return card(
            "Against the exact allocator",
            "The best context of the whole history within the same room, found by dynamic programming: a block that "
            "stands as tokens is worth its number, a gist nothing.",
            self._said, self._drawing, self._blocks, self._edits,
        )  # fmt: skip

    def refresh(self, entries: pl.DataFrame, step: int) -> None:
        """Show that step of `entries`, which are all of the question."""
        chosen = self._selection
        key = (chosen.run, chosen.history, chosen.question, chosen.arm, step, len(entries))
        if key != self._key:
            self._key = key
            self._now = entries.filter(pl.col("step") == step)
            self._edits.object = str(edits_words(self._best_edits(), self._now))
            self._asked.again()
        if self._asked.want(step, chosen.against or ADDRESSES):
            self._show()

    def tick(self) -> None:
        """Show the exact context when it has come."""
        if self._asked.look():
            self._show()

    def _best_edits(self) -> BestEdits | None:
        chosen, store, size = self._selection, self._store, self._store.block_size
        allocator = store.recipe.get("focus", {}).get("allocator", {})
        scores = self._now.sort("slot")["score"].cast(pl.Float64)
        if size is None or scores.null_count() or allocator.get("strategy") == "exact":
            return None
        steps = store.focus_steps(chosen.history, chosen.arm, chosen.question)
        answers = store.answers(chosen.history, chosen.question).filter(pl.col("arm") == chosen.arm)
        opened = self._now.filter(pl.col("edit") == "expand")["slot"].to_list()
        return best_edits(
            context_of(self._now, size), scores.to_numpy(), room_positions(steps, answers),
            store.threshold if store.threshold is not None else _DEFAULTS.threshold, opened,
            int(allocator.get("protect_recent_tokens", _DEFAULTS.protect_recent_tokens)),
        )  # fmt: skip

    def _show(self) -> None:
        answer, size = self._asked.answer, self._store.block_size
        self._drawing.visible = False
        self._blocks.object = ""
        if answer is None:
            self._said.object = '<p class="muted" role="status">The best context is being looked for.</p>'
            return
        exact = answer.get("exact")
        by = self._selection.against
        if exact is None or size is None:
            self._said.object = str(no_exact(by, self._asked.sentence))
            return
        regret = exact["best"] - exact["value"]
        numbers = f"the numbers of {by}" if by else "the recorded cosines of addresses with the question"
        self._said.object = str(
            Markup(
                "<p>By {}, within {:,} positions: the blocks that this step shows as tokens are worth <b>{:.2f}</b>, "
                "those of the best context <b>{:.2f}</b>. Regret <b>{:.2f}</b>; missed: {}, in their place: {}.</p>"
            ).format(
                plain(numbers, 100), exact["room"], exact["value"], exact["best"], regret,
                _number(len(exact["missed"]), "block"), _number(len(exact["spent"]), "block"),
            )
        )  # fmt: skip
        self._draw(exact, size)
        texts = texts_of(self._desk)
        self._blocks.object = str(blocks_table(exact, size, texts))

    def _draw(self, exact: dict[str, list[int]], size: int) -> None:
        """Both contexts over the history, one above the other."""
        lod, index = np.array(exact["lod"], dtype=np.int64), np.array(exact["index"], dtype=np.int64)
        width = size ** np.maximum(lod, 1)
        end = int(self._now["stop"].max())
        stop = np.minimum((index + 1) * width, end)
        best = pl.DataFrame({
            "step": np.ones(len(lod), dtype=np.int64), "slot": np.arange(len(lod)), "lod": lod, "index": index,
            "start": index * width, "stop": stop, "cost_positions": np.where(lod > 0, 1, stop - index * width),
        })  # fmt: skip
        both = pl.concat([self._now.with_columns(step=pl.lit(0, dtype=pl.Int64)).select(best.columns), best])
        raster = level_raster(both, "tokens")
        needed = needed_standing(
            both, self._store.needed_tokens(self._selection.history, self._selection.question)
        )
        if raster.end != self._end:
            self._end, self._feed = raster.end, plots.Feed()
            self._plot.object = plots.context_rows(
                raster.levels,
                ["this step", "exact"],
                raster.end,
                "tokens",
                needed=needed,
                feed=self._feed,
                ylabel="",
            )
        else:
            plots.feed_rows(self._feed, raster.levels, raster.end, "tokens", needed)
        self._drawing.visible = True


def no_exact(by: str, sentence: str) -> Markup:
    """Why there is no exact context."""
    if sentence:
        return Markup('<p class="muted">{}</p>').format(plain(sentence))
    return Markup(
        '<p class="muted">{} scores entries of a context and no blocks, so there is no best context by its numbers; '
        "compare with a scorer of blocks, such as bm25 or dense.</p>"
    ).format(plain(by, 60))


def edits_words(found: BestEdits | None, entries: pl.DataFrame) -> Markup:
    """What the step's own scores would have paid for, beside what was done."""
    if found is None:
        return Markup("")
    opened = entries.filter(pl.col("edit") == "expand")["slot"].to_list()
    left = [slot for slot in found.expand if slot not in opened]
    said = Markup(
        '<p class="muted">By this step\'s own scores alone: they pay for opening {}{}, worth <b>{:.2f}</b>; it '
        "opened {}, worth <b>{:.2f}</b>. Regret <b>{:.2f}</b>.{}</p>"
    )
    folded = f" with {_number(found.folded, 'group')} folded for them" if found.folded else ""
    rows = entries.filter(pl.col("slot").is_in(left[:MOST_BLOCKS])).sort("score", descending=True).to_dicts()
    names = ", ".join(f"L{row['lod']} at token {row['start']:,} ({row['score']:+.2f})" for row in rows)
    rest = f" Left closed: {names}{' and more' if len(left) > len(rows) else ''}." if names else ""
    return said.format(
        _number(len(found.expand), "gist"), folded, found.best, len(opened), found.value, found.regret, rest
    )


def _number(many: int, what: str) -> str:
    return f"{many} {what}" if many == 1 else f"{many} {what}s"


def blocks_table(exact: dict[str, list[list[float]]], size: int, texts: Texts | str) -> Markup:
    """The blocks in which both differ, with their numbers and words."""
    differing = [("▲ only the exact one", *one) for one in exact["missed"][:MOST_BLOCKS]]
    differing += [
        ("▼ only this step", *one) for one in exact["spent"][: max(0, MOST_BLOCKS - len(differing))]
    ]
    if not differing:
        return empty("Both show the same blocks as tokens", "By these numbers nothing could be better.")
    lines = [
        (
            Markup('<i class="chip" style="background:{}"></i>{:,}–{:,}').format(
                level_colour(0), int(block) * size, (int(block) + 1) * size
            ),
            whose, f"{worth:+.2f}", _beginning(int(block), size, texts),
        )
        for whose, block, worth in differing
    ]  # fmt: skip
    left = len(exact["missed"]) + len(exact["spent"]) - len(differing)
    more = Markup('<p class="muted">and {} more</p>').format(left) if left else Markup("")
    return table(("tokens", "shown as tokens by", "worth", "words"), lines, first=9) + more


def _beginning(block: int, size: int, texts: Texts | str) -> Markup:
    if isinstance(texts, str):
        return Markup("–")
    try:
        said = span_text(texts.memory, texts.vocabulary, block * size, (block + 1) * size)
    except MegaContextError as problem:
        said = str(problem)
    return plain(" ".join(said.split()), SAID_CHARACTERS)
