"""What runs are there, and how do they compare?

A list of every run in the folder, alive or not; of those that are chosen, what their recipes differ in and their curves
over one another, followed while they go on.
"""

from __future__ import annotations

import time
from typing import Any

import panel as pn
import panel_material_ui as pmui
import polars as pl
from markupsafe import Markup

from workbench.desk import Desk
from workbench.palette import SERIES
from workbench.stores.catalogue import CatalogueRow, sorted_rows
from workbench.stores.comparison import MOST_RUNS, Comparison, names_of, text_of
from workbench.stores.metrics import AXES, GROUPS, METRICS, Metric
from workbench.text import count, duration, percent, plain, series_legend, table, visible
from workbench.turns import in_turn
from workbench.views.comparison import FIGURE_NAME, CurveCard
from workbench.views.exporting import ChartSaver, chart_button, data_buttons, file_name
from workbench.views.grid import Grid, text_cell
from workbench.views.parts import CSS, card, empty, looked_at, problem, prose, side_by_side, stack, toolbar

LIST_PX = 430
"""Height of the list, so that curves are never far below it."""
LISTING_S = 1.0
"""How often the folder is looked at while the list is."""
HALF_LIVES = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500)
"""Choices of the slider, in points."""
USUAL_HALF_LIFE = 2
STATE_TONES = {"running": "good", "done": "muted"}
"""Of the others: bad."""
ALL_METRICS = "all metrics"
DRAW_S = 0.2
"""How long figures are drawn before the page may breathe."""
COLUMNS = [
    {"label": "run", "sort": "name"},
    {"label": "state", "sort": "state"},
    {"label": "kind, recipe", "sort": "kind", "tip": "below the kind its fingerprint: equal ones are equal recipes"},
    {"label": "started, UTC", "sort": "started", "number": True},
    {"label": "took", "sort": "took_s", "number": True, "tip": "from start to end, or to the last sign of life"},
    {"label": "score", "sort": "score", "number": True,
     "tip": "share right of LensNet, or of the best arm below the oracle, in the first group of histories"},
    {"label": "loss, nats", "sort": "loss_nats", "number": True, "tip": "the last that was minimised"},
    {"label": "bits/byte", "sort": "bits_per_byte", "number": True, "tip": "the last of held-out text"},
]  # fmt: skip


class RunsView:
    """The list, the difference of recipes, and the curves."""

    needs = ""

    def __init__(self, desk: Desk):
        self.library, self.selection, self.desk = desk.library, desk.selection, desk
        self._rows: list[CatalogueRow] = []
        self._listed = 0.0
        self._grid = Grid(self._heard, columns=COLUMNS, choosable=True, label="Runs", most_px=LIST_PX)
        self._find = pmui.TextInput(
            placeholder="Find a run", size="small", width=240, margin=0, value=self.selection.find
        )
        self._find.param.watch(lambda event: self.selection.param.update(find=event.new), "value_input")
        self._count = pn.pane.HTML("", stylesheets=[CSS], margin=0)
        self._comparison = Comparison([], self.library.curves)
        self._shown: tuple[object, ...] = ()
        self._cards: dict[str, CurveCard] = {}
        self._waiting: list[Metric] = []
        self._problems, self._differences = prose("", visible=False), prose("")
        self._recipes = card("What the recipes differ in", "", self._differences)
        self._recipes.visible = False
        self._curves, self._place = stack(), side_by_side(least_px=330)
        self._how: tuple[str, int] = ("", 0)
        self._make_controls()
        self.refresh()

    def panel(self) -> pn.viewable.Viewable:
        return stack(
            card(
                "Runs",
                f"Choose up to {MOST_RUNS} to compare; a name opens its run. Heads sort.",
                toolbar(self._find, self._count),
                self._grid,
            ),
            self._problems,
            self._recipes,
            self._bar,
            self._curves,
            self._saver,
        )

    def _make_controls(self) -> None:
        self._group = pmui.RadioButtonGroup(label="", options={}, size="small", margin=0)
        self._group.param.watch(lambda event: event.new and self._choose(curves=event.new), "value")
        self._axis = pmui.RadioButtonGroup(
            label="",
            options={words: name for name, words in AXES.items()},
            value="step",
            size="small",
            margin=0,
        )
        self._axis.param.watch(
            lambda event: self._choose(axis="" if event.new == "step" else event.new), "value"
        )
        self._smooth = pmui.DiscreteSlider(
            label="Smoothing, half-life", options=list(HALF_LIVES), value=USUAL_HALF_LIFE,
            size="small", width=240, margin=(0, 8),
        )  # fmt: skip
        self._smooth.param.watch(
            lambda event: self._choose(smooth=-1 if event.new == USUAL_HALF_LIFE else event.new),
            "value_throttled",
        )
        self._figure = pmui.Select(
            label="Export", options=[ALL_METRICS], value=ALL_METRICS, size="small", width=190, margin=0
        )
        self._saver = ChartSaver()
        self._charts = [chart_button(kind, self._save) for kind in ("png", "svg")]
        self._legend = prose("")
        self._bar = card(
            "Curves", "", self._legend,
            toolbar(self._group, self._axis, self._smooth),
            toolbar(self._figure, *data_buttons(self._exported, self._file), *self._charts),
        )  # fmt: skip
        self._figure.param.watch(lambda event: self._aim(), "value")

    # Following -------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        self._find.value = self.selection.find
        self._list()
        self._compare()

    def tick(self) -> None:
        if time.monotonic() - self._listed >= LISTING_S:
            self._list()
        self._comparison.refresh()
        self._compare()
        for one in self._cards.values():
            one.feed()
        self._tell_problems()
        self._draw_some()  # last: what is fed to a figure that is on its way would overtake it

    # The list ----------------------------------------------------------------------------------------------------

    def _list(self) -> None:
        self._rows = self.library.catalogue.rows()
        self._listed = time.monotonic()
        selection, chosen = self.selection, names_of(self.selection.compare)
        wanted = selection.find.casefold()
        rows = [row for row in sorted_rows(self._rows, selection.sort) if wanted in row.name.casefold()]
        full = len(chosen) >= MOST_RUNS
        self._grid.show(
            rows=[_line(row, chosen, full, row.name == selection.run) for row in rows],
            order=selection.sort,
            nothing="No run here has such a name." if self._rows
            else f"No runs yet in {self.library.runs_folder}. Start one with tools/demo; it will appear here.",
        )  # fmt: skip
        states = [row.state for row in self._rows]
        running = f", {states.count('running')} running" if "running" in states else ""
        self._count.object = f'<p class="muted">{count(len(rows))} of {count(len(states))} runs{running}</p>'

    def _heard(self, told: dict[str, Any]) -> None:
        if isinstance(order := told.get("sort"), str):
            self.selection.sort = order
        elif isinstance(name := told.get("choose"), str):
            chosen = [one for one in names_of(self.selection.compare) if one != name]
            self.selection.compare = text_of([*chosen, name] if told.get("on") else chosen)
        elif isinstance(name := told.get("open"), str):
            self.selection.choose(run=name, view="results")

    # The comparison ------------------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        """The chosen runs; the open one where none is."""
        return names_of(self.selection.compare) or ([self.selection.run] if self.selection.run else [])

    @property
    def _axis_name(self) -> str:
        return self.selection.axis if self.selection.axis in AXES else "step"

    @property
    def _half_life(self) -> int:
        smooth = self.selection.smooth
        return USUAL_HALF_LIFE if smooth < 0 else min(smooth, HALF_LIVES[-1])

    def _compare(self) -> None:
        """Make what is drawn agree with the selection, anew only where other figures are wanted."""
        names = self._names()
        if names != self._comparison.names:
            self._comparison = Comparison(names, self.library.curves)
        comparison = self._comparison
        metrics = comparison.metrics()
        groups = {words: kind for kind, words in GROUPS.items() if any(one.kind == kind for one in metrics)}
        group = (
            self.selection.curves
            if self.selection.curves in groups.values()
            else next(iter(groups.values()), "")
        )
        self._group.param.update(options=groups, value=group or None, visible=len(groups) > 1)
        self._axis.value = self._axis_name
        self._smooth.value = min(HALF_LIVES, key=lambda known: abs(known - self._half_life))
        metrics = [metric for metric in metrics if metric.kind == group]
        wanted = (comparison, tuple(metric.name for metric in metrics))
        if wanted != self._shown:
            self._shown = wanted
            self._begin(metrics)
        elif (how := (self._axis_name, self._half_life)) != self._how:
            for one in self._cards.values():
                one.show(*how)
        self._how = (self._axis_name, self._half_life)

    def _begin(self, metrics: list[Metric]) -> None:
        """Show another choice of runs or metrics."""
        comparison = self._comparison
        self._tell_problems()
        self._recipes.visible = len(comparison.runs) > 1
        if self._recipes.visible:
            self._differences.object = str(recipe_differences(comparison))
        self._legend.object = str(series_legend([visible(name)[:60] for name in comparison.runs], SERIES))
        self._cards, self._waiting = {}, list(metrics)
        self._bar.visible = bool(metrics)
        self._place.objects = []
        self._curves.objects = [self._place] if metrics else [self._nothing()]
        titles = {metric.title: metric.name for metric in metrics}
        kept = self._figure.value if self._figure.value in titles.values() else ALL_METRICS
        self._figure.param.update(options={ALL_METRICS: ALL_METRICS} | titles, value=kept)
        self._aim()

    def _draw_some(self) -> None:
        """Draw figures that wait, for a moment; the rest once the page has taken these: it never stands still."""
        began, drawn = time.monotonic(), []
        while self._waiting and time.monotonic() - began < DRAW_S:
            metric = self._waiting.pop(0)
            self._cards[metric.name] = CurveCard(metric, self._comparison, self._axis_name, self._half_life)
            drawn.append(self._cards[metric.name].card)
        if drawn:
            self._place.extend(drawn)
        if drawn and self._waiting and pn.state.curdoc is not None and looked_at():
            in_turn(self._draw_some)

    def _choose(self, **chosen: object) -> None:
        self.selection.param.update(**chosen)

    def _tell_problems(self) -> None:
        said = "".join(
            str(problem(f"{name}: {sentence}")) for name, sentence in self._comparison.problems.items()
        )
        self._problems.param.update(object=said, visible=bool(said))

    def _nothing(self) -> pn.Column:
        live = any(run.live for run in self._comparison.runs.values())
        what, way_out = (
            (
                "Nothing measured yet",
                "Curves begin with the first step of training or the first tokens stored.",
            )
            if live
            else (
                "No curves",
                "Tick runs above; those of an evaluation of plain text have none: see Results.",
            )
            if self._comparison.names
            else ("No run chosen", "Tick runs above to lay their curves over one another.")
        )
        return card("Curves", "", prose(empty(what, way_out)))

    # Taking away -----------------------------------------------------------------------------------------------------

    def _exported(self) -> pl.DataFrame:
        picked, (_, names) = self._figure.value, self._shown
        metrics = [
            metric for metric in METRICS if metric.name in names and picked in (metric.name, ALL_METRICS)
        ]
        return self._comparison.frame(metrics, self._axis_name, self._half_life)

    def _file(self) -> str:
        figure = "curves" if self._figure.value == ALL_METRICS else str(self._figure.value)
        return file_name("+".join(self._comparison.runs), figure, f"over_{self._axis_name}")

    def _aim(self) -> None:
        """A picture is of one figure; data may be of all."""
        for button in self._charts:
            button.disabled = self._figure.value not in self._cards

    def _save(self, kind: str) -> None:
        picked = self._cards.get(self._figure.value)
        if picked is None:
            return
        chips = [
            (visible(name)[:60], SERIES[at % len(SERIES)]) for at, name in enumerate(self._comparison.runs)
        ]
        file = file_name("+".join(self._comparison.runs), picked.metric.name, f"over_{self._axis_name}")
        self._saver.save(kind, FIGURE_NAME.format(picked.metric.name), picked.metric.title, chips, file)


def _line(row: CatalogueRow, chosen: list[str], full: bool, current: bool) -> dict[str, Any]:
    """One run in the list."""
    on = row.name in chosen
    damaged = row.state == "damaged"
    state: dict[str, Any] = {"text": row.state, "tone": STATE_TONES.get(row.state, "bad")}
    name = text_cell(row.name, 60, told={"open": row.name})
    if row.said:
        sad = damaged or row.state in ("failed", "dead", "interrupted")
        name |= {"under": visible(row.said)[:400], "under_tone": "bad" if sad else ""}
    colour = SERIES[chosen.index(row.name) % len(SERIES)] if on else ""
    return {
        "key": row.name,
        # What cannot be opened cannot be compared; nor can a ninth.
        "chosen": None if damaged or (full and not on) else on,
        "colour": colour,
        "current": current,
        "cells": [
            name | ({"chip": colour} if on else {}), state,
            text_cell(row.kind or "–", 40, under=visible(row.recipe)[:8], under_tone="mono"),
            "–" if row.started is None else f"{row.started:%Y-%m-%d %H:%M}", duration(row.took_s),
            {"text": percent(row.score)} | ({"under": visible(row.score_of)[:60]} if row.score_of else {}),
            {"text": "–" if row.loss_nats is None else f"{row.loss_nats:.3f}"}
            | ({"under": f"step {count(row.step)}"} if row.step is not None else {}),
            "–" if row.bits_per_byte is None else f"{row.bits_per_byte:.3f}",
        ],
    }  # fmt: skip


def recipe_differences(comparison: Comparison) -> Markup:
    """Keys that differ, a column a run."""
    rows = comparison.differences()
    if not rows:
        return Markup('<p class="muted">{}</p>').format(
            "Nothing: the recipes agree in every key, and the models are the same."
        )
    head = (f"{len(rows)} keys", *(plain(name, 60) for name in comparison.runs))
    lines = [
        (Markup('<span class="mono">{}</span>').format(plain(row.key, 120)),
         *("–" if value is None else plain(value, 120) for value in row.values))
        for row in rows
    ]  # fmt: skip
    return Markup('<div class="tall">{}</div>').format(table(head, lines, first=len(head)))
