"""The samples behind a place in the results: filtered, paged, and one of them in full.

A question leads to the focus steps that were traced for it.
"""

from __future__ import annotations

from typing import Any

import panel as pn
import panel_material_ui as pmui
import polars as pl
from markupsafe import Markup

from workbench.desk import Desk
from workbench.palette import ARMS, arm_colour, arm_order
from workbench.stores.samples import (
    DIFFERENCE,
    GROUP,
    NUMBER,
    PAGE_ROWS,
    VERDICTS,
    Page,
    arm_of,
    compared_arms,
    conditions_of,
    scores_of,
    text_of_conditions,
)
from workbench.text import count, percent, plain
from workbench.views.grid import Grid, text_cell
from workbench.views.parts import CARD_CSS, CSS, card, pairs, prose, toolbar

EVERY_ARM, BOTH = "every arm", "right and wrong"
SHOWN = {
    "model": "model", "genre": "genre", "text": "text", "document": "document", "segment": "segment", "start": "from",
    "start_block": "from block", "history": "history", "question": "no.", "arm": "arm", "kind": "kind",
    "depth": "depth", "prompt": "question", "expected": "expected", "answered": "answered", "correct": "verdict",
    "hit": "evidence read", "cost_positions": "positions",
}  # fmt: skip
"""Columns of a sample that a list shows, and their heads, in order; scores of arms come behind."""
_NUMBERS = {"question", "depth", "cost_positions", "start", "start_block"}
_MOST_SCORES = 7
LIST_PX = 400
"""Height of the list, so that the sample in full is seen below it."""


class SamplesCard:
    """The card, and the one sample in it."""

    def __init__(self, desk: Desk):
        assert desk.run is not None
        self.desk, self.store, self.selection = desk, desk.run, desk.selection
        self._place = pn.pane.HTML("", stylesheets=[CSS], margin=0)
        self._clear = pmui.Button(
            label="All samples", size="small", variant="outlined", color="default", margin=0
        )
        self._clear.on_click(lambda _: self.selection.choose(cell="", verdict="", search=""))
        self._arm = pmui.Select(
            label="Arm", options=[EVERY_ARM], value=EVERY_ARM, size="small", width=170, margin=0
        )
        self._arm.param.watch(lambda event: self._arm_chosen(event.new), "value")
        self._verdict = pmui.RadioButtonGroup(
            label="",
            options={"All": "", "Right": "right", "Wrong": "wrong"},
            value="",
            size="small",
            margin=0,
        )
        self._verdict.param.watch(lambda event: self._choose(verdict=event.new or ""), "value")
        self._search = pmui.TextInput(placeholder="Search the text", size="small", width=220, margin=0)
        self._search.param.watch(lambda event: self._choose(search=event.new), "value_input")
        self._grid = Grid(
            self._heard,
            label="Samples",
            nothing="No sample is like that; ask for less above.",
            most_px=LIST_PX,
        )
        self._pages = pmui.Pagination(count=1, value=0, size="small", margin=0)
        self._pages.param.watch(lambda event: self._page_chosen(event.new), "value")
        self._focus = pmui.Button(
            label="Open in Focus", size="small", variant="contained", margin=0, visible=False
        )
        self._focus.on_click(lambda _: self._open_focus())
        self._one = prose("")
        self._beside = Grid(self._heard, label="The same by every arm")
        self._detail = pn.Column(
            self._one, self._focus, self._beside, stylesheets=[CARD_CSS], sizing_mode="stretch_width", margin=0,
            visible=False,
        )  # fmt: skip
        self.card = card(
            "Samples", "", self._place,
            toolbar(self._arm, self._verdict, self._search, self._clear), self._grid, self._pages, self._detail,
        )  # fmt: skip
        self._shown: object = None
        self._showing = False
        """While controls are made to agree with the selection, they choose nothing."""

    def _choose(self, **chosen: object) -> None:
        if not self._showing:
            self.selection.choose(**chosen)

    def refresh(self) -> None:
        """Show what is selected, if that differs from what is shown."""
        selection, samples = self.selection, self.store.samples
        wanted = (
            selection.cell, selection.verdict, selection.search, selection.order, selection.page, selection.sample,
            len(samples.frame),
        )  # fmt: skip
        if wanted == self._shown:
            return
        self._shown = wanted
        self.card.visible = len(samples.frame) > 0
        if not self.card.visible:
            return
        conditions = conditions_of(selection.cell)
        page = samples.select(
            conditions, selection.verdict, selection.search, selection.order, selection.page
        )
        self._showing = True
        self._show_controls(conditions, page)
        self._showing = False
        columns, rows = self._listed(page.rows)
        self._grid.show(columns=columns, rows=rows, order=selection.order)
        self._show_one(samples.one(selection.sample))

    def _show_controls(self, conditions: dict[str, str], page: Page) -> None:
        selection, samples = self.selection, self.store.samples
        arms = arm_order(samples.values("arm"))
        self._arm.param.update(
            options=[EVERY_ARM, *arms], visible=len(arms) > 1,
            value=conditions["arm"] if conditions.get("arm") in arms else EVERY_ARM,
        )  # fmt: skip
        self._verdict.param.update(
            visible=page.right is not None, value=selection.verdict if selection.verdict in VERDICTS else ""
        )
        if self._search.value_input != selection.search:
            self._search.param.update(value=selection.search, value_input=selection.search)
        self._clear.disabled = not (conditions or selection.verdict or selection.search)
        self._pages.param.update(count=page.pages, value=page.number, visible=page.pages > 1)
        first = page.number * PAGE_ROWS
        shown = f"{count(first + 1)}–{count(first + len(page.rows))} of " if page.pages > 1 else ""
        right = ""
        if page.right is not None and page.total:
            right = f", {count(page.right)} right ({percent(page.right / page.total)})"
        where = " · ".join(f"{_head(name)} {value}" for name, value in conditions.items())
        self._place.object = str(
            Markup('<p class="muted">{}{} samples{}{}</p>').format(
                shown, count(page.total), right, Markup(" · {}").format(plain(where, 200)) if where else ""
            )
        )

    # The list ---------------------------------------------------------------------------------------------------

    def _listed(self, rows: pl.DataFrame) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Columns and rows of the grid."""
        whole = self.store.samples.frame
        names = [name for name in SHOWN if name in whole.columns and whole.schema[name] != pl.Null]
        scores = scores_of(whole)[:_MOST_SCORES]
        compared = compared_arms(whole)
        columns = [
            {"label": SHOWN[name], "sort": name, "number": name in _NUMBERS, "wide": name in ("prompt",)}
            for name in names
        ]
        columns += [
            {"label": arm_of(score), "sort": score, "number": True, "tip": "nats a token"} for score in scores
        ]
        if compared is not None:
            columns.append({
                "label": " − ".join(map(arm_of, compared)), "sort": DIFFERENCE, "number": True,
                "tip": "nats a token; below 0 the gists are better",
            })  # fmt: skip
            scores = [*scores, DIFFERENCE]
        shown = [
            {
                "key": str(row[NUMBER]),
                "told": {"sample": row[NUMBER]},
                "current": row[NUMBER] == self.selection.sample,
                "cells": [
                    *(_cell(name, row[name]) for name in names),
                    *(_score(score, row[score]) for score in scores),
                ],
            }
            for row in rows.to_dicts()
        ]
        return columns, shown

    def _heard(self, told: dict[str, Any]) -> None:
        if isinstance(order := told.get("sort"), str):
            self.selection.choose(order=order)
        elif isinstance(sample := told.get("sample"), int) and sample >= 0:
            self.selection.sample = -1 if sample == self.selection.sample else sample

    def _arm_chosen(self, arm: str | None) -> None:
        conditions = conditions_of(self.selection.cell)
        if arm is None or conditions.get("arm", EVERY_ARM) == arm:
            return
        others = {name: value for name, value in conditions.items() if name != "arm"}
        self._choose(cell=text_of_conditions(others | ({} if arm == EVERY_ARM else {"arm": arm})))

    def _page_chosen(self, page: int | None) -> None:
        if page is not None and page != max(self.selection.page, 0):
            self._choose(page=page or -1)

    # One sample --------------------------------------------------------------------------------------------------

    def _show_one(self, row: dict[str, object] | None) -> None:
        self._detail.visible = row is not None
        if row is None:
            return
        self._one.object = str(in_full(row))
        beside = self.store.samples.beside(self.selection.sample)
        self._beside.visible = len(beside) > 1
        if self._beside.visible:
            if "arm" in beside.columns:
                order = {arm: at for at, arm in enumerate(arm_order(beside["arm"].to_list()))}
                beside = beside.sort(pl.col("arm").replace_strict(order, return_dtype=pl.Int64))
            columns, rows = self._listed(beside)
            self._beside.show(columns=[{**one, "sort": ""} for one in columns], rows=rows)
        arms = self._traced(row)
        self._focus.visible = bool(arms)
        if arms:
            own = row.get("arm") in arms
            self._focus.label = "Open in Focus" if own else f"Open in Focus, as {arms[0]} read it"

    def _traced(self, row: dict[str, object]) -> list[str]:
        """Arms whose focus steps on the question of a sample were recorded, its own first."""
        if not isinstance(row.get("history"), str) or not isinstance(row.get("question"), int):
            return []
        arms = self.store.traced_arms(row["history"], row["question"])
        return sorted(arms, key=lambda arm: arm != row.get("arm"))

    def _open_focus(self) -> None:
        row = self.store.samples.one(self.selection.sample)
        if row is not None and (arms := self._traced(row)):
            self.selection.choose(history=row["history"], question=row["question"], arm=arms[0], view="focus")


def in_full(row: dict[str, object]) -> Markup:
    """Everything that a sample says, its scores as numbers of four digits."""
    first = [name for name in ("prompt", "expected", "answered", "correct", "hit") if name in row]
    rest = [name for name in row if name not in first and name not in (NUMBER, GROUP)]
    items = []
    for name in (*first, *rest):
        value = row[name]
        shown = (_score if isinstance(value, float) and name != "depth" else _cell)(name, value)["text"]
        if name in ("prompt", "answered", "expected"):
            items.append(
                (_head(name), Markup('<span class="quote">{}</span>').format(plain(str(row[name]).strip())))
            )
        else:
            items.append((_head(name), plain(shown, 400)))
    return Markup("<h2>Sample {}</h2>{}").format(row[NUMBER], pairs(items))


def _head(name: str) -> str:
    return {GROUP: "cell", DIFFERENCE: "difference"}.get(name, SHOWN.get(name) or name.replace("_", " "))


def _cell(name: str, value: object) -> dict[str, Any]:
    if value is None:
        return {"text": "–"}
    if name == "correct":
        return {"text": "✓ right", "tone": "good"} if value else {"text": "✗ wrong", "tone": "bad"}
    if isinstance(value, bool):
        return {"text": "yes" if value else "no"}
    if name == "depth":
        return {"text": percent(float(value), 0)}
    if name == "arm":
        return text_cell(value, 60, **({"chip": arm_colour(str(value))} if value in ARMS else {}))
    if isinstance(value, list):
        return text_cell(", ".join(map(str, value)), 200)
    return text_cell(str(value).strip(), 160)


def _score(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, float):
        return {"text": "–"}
    return {"text": f"{value:+.4f}" if name == DIFFERENCE else f"{value:.4f}"}
