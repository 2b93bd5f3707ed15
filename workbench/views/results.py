"""What did the run find, how sure is that, and which samples stand behind it?

Sentences and key figures; shares right, and means with intervals, as charts; every table of the run, whose rows and
cells lead to their samples. A training run shows the figures that it ended with and where its curves have come to.
"""

from __future__ import annotations

from typing import Any

import panel as pn
import panel_material_ui as pmui
from markupsafe import Markup

from megacontext.errors import MegaContextError
from workbench import plots
from workbench.conclusions import group_subtitle, headline, key_figures
from workbench.desk import Desk
from workbench.palette import ARMS, arm_colour
from workbench.stores.findings import Estimates, ResultTable, estimates, last_values, metrics, tables
from workbench.stores.run import RunStore
from workbench.stores.samples import conditions_of, text_of_conditions
from workbench.text import arm_legend, count, plain
from workbench.views.comparison import number
from workbench.views.grid import Grid, text_cell
from workbench.views.parts import Drawings, card, drawing, empty, figures, prose, side_by_side, stack
from workbench.views.samples import SamplesCard

LIST_PX = 460
LEAST_CHART_PX = 300


class ResultsView:
    """Headline, key figures, charts, tables, samples."""

    needs = "run"

    def __init__(self, desk: Desk):
        assert desk.run is not None
        self.desk, self.store, self.selection = desk, desk.run, desk.selection
        self._headline, self._figures = prose(""), prose("")
        self._charts = stack()
        self._charts_shown: object = None
        self._groups: dict[str, tuple[pn.pane.HoloViews, pn.pane.HoloViews, pn.pane.HTML]] = {}
        self._tables = TableCard(self.store, self._placed)
        self._samples = SamplesCard(desk)
        self._training = stack()
        self._trained: object = None
        self._nothing = stack()
        self._rows_seen = -1
        self._drawings = Drawings()
        self.refresh()

    def panel(self) -> pn.viewable.Viewable:
        return stack(
            self._headline, self._figures, self._charts, self._tables.card, self._samples.card, self._training,
            self._nothing,
        )  # fmt: skip

    def tick(self) -> None:
        """Draw what waits."""
        self._drawings.tick()

    def refresh(self) -> None:
        store = self.store
        if (seen := self._state()) != self._rows_seen:
            self._rows_seen = seen
            _say(self._headline, headline(store))
            _say(self._figures, figures(key_figures(store)))
            self._tables.read()
            self._show_charts()
            self._show_training()
        self._tables.show(self.selection.table, self.selection.cell)
        self._samples.refresh()
        for part in (self._charts, self._training):
            part.visible = bool(part.objects)
        self._nothing.visible = not self._has_something()
        if bool(self._nothing.objects) == self._has_something():
            self._nothing.objects = [] if self._has_something() else [_nothing(store)]

    def _state(self) -> object:
        """What everything but the samples depends on."""
        return (
            len(self.store.samples.frame),
            len(self.store.frame("answer")),
            id(self.store.results),
            self.store.state,
        )

    # Charts -----------------------------------------------------------------------------------------------------

    def _show_charts(self) -> None:
        groups, means = self.store.groups(), estimates(self.store)
        shown = (tuple(groups), [(one.title, one.frame.to_dicts()) for one in means])
        if shown != self._charts_shown:
            self._charts_shown = shown
            self._drawings.forget()
            self._groups = {group: (drawing(None), drawing(None), prose("")) for group in groups}
            for bars, by_depth, _ in self._groups.values():
                bars.min_height = by_depth.min_height = (
                    LEAST_CHART_PX  # what comes later must not move the rest
                )
            self._charts.objects = [
                *(self._group_cards(group) for group in groups),
                *([side_by_side(*_means(means), least_px=480)] if means else []),
            ]
        for group, (_, _, legend) in self._groups.items():
            _say(legend, arm_legend(self.store.rows(group)["arm"].to_list()))
            self._drawings.ask((group, "bars"), lambda group=group: self._draw_bars(group))
            self._drawings.ask((group, "depth"), lambda group=group: self._draw_depth(group))

    def _draw_bars(self, group: str) -> None:
        rows = self.store.rows(group)
        # As tall as its neighbour, whose legend and axis take about as much again.
        height_px = max(LEAST_CHART_PX, 64 + 34 * rows["arm"].n_unique())
        self._groups[group][0].object = plots.accuracy_bars(rows, height_px)

    def _draw_depth(self, group: str) -> None:
        self._groups[group][1].object = plots.accuracy_by_depth(self.store.depth(group))

    def _group_cards(self, group: str) -> pn.Column:
        bars, by_depth, legend = self._groups[group]
        return side_by_side(
            card(f"{group}: accuracy", group_subtitle(self.store, group), bars),
            card(f"{group}: by place of the fact", "Share answered exactly in each fifth of the history",
                 legend, by_depth),
        )  # fmt: skip

    # Tables -----------------------------------------------------------------------------------------------------

    def _placed(self, table: str, conditions: dict[str, str] | None) -> None:
        """A table was chosen, or a place in it."""
        if conditions is None:
            self.selection.choose(table=table)
        else:
            self.selection.choose(table=table, cell=text_of_conditions(conditions), verdict="", search="")

    # Training ---------------------------------------------------------------------------------------------------

    def _show_training(self) -> None:
        """Figures at the end and last values of curves, for runs that measured nothing else."""
        if self._tables.tables:
            self._training.objects = []
            return
        try:
            last = last_values(self.desk.library.curves(self.store.name))
        except MegaContextError:
            last = []  # the page says what is wrong with the run
        found = metrics(self.store)
        if (shown := (last, found)) == self._trained:
            return
        self._trained = shown
        cards = []
        if found:
            grid = Grid(columns=METRIC_COLUMNS, label="Figures at the end", most_px=LIST_PX)
            cells = ((name, [text_cell(name, 120), text_cell(value, 80)]) for name, value in found)
            grid.show(rows=[{"key": name, "cells": shown} for name, shown in cells])
            cards.append(card("Figures at the end", "As the run measured them itself", grid))
        if last:
            grid = Grid(self._curve_chosen, columns=CURVE_COLUMNS, label="Where the curves have come to")
            grid.show(rows=[
                {"key": one.title, "told": {"curves": one.kind}, "cells": [
                    {"text": one.title, "under": one.unit},
                    number(one.last, one.format), number(one.lowest, one.format), number(one.highest, one.format),
                    {"text": count(one.at), "under": one.over},
                ]}
                for one in last
            ])  # fmt: skip
            cards.append(card("Where the curves have come to", "A row opens its curves", grid))
        self._training.objects = [side_by_side(*cards, least_px=480)] if cards else []

    def _curve_chosen(self, told: dict[str, Any]) -> None:
        if isinstance(kind := told.get("curves"), str):
            self.selection.choose(view="runs", curves=kind, compare="")

    # Nothing ----------------------------------------------------------------------------------------------------

    def _has_something(self) -> bool:
        return bool(self._tables.tables or self._training.objects or len(self.store.samples.frame))


METRIC_COLUMNS = [{"label": "figure", "wide": True}, {"label": "value", "number": True}]
CURVE_COLUMNS = [
    {"label": "curve", "wide": True}, {"label": "last", "number": True}, {"label": "lowest", "number": True},
    {"label": "highest", "number": True}, {"label": "at", "number": True},
]  # fmt: skip


class TableCard:
    """The tables of a run, one at a time. `chosen` hears of a table, and of the conditions of a place in it."""

    def __init__(self, store: RunStore, chosen: Any):
        self.store, self._chosen = store, chosen
        self.tables: list[ResultTable] = []
        self._which = pmui.RadioButtonGroup(label="", options={}, size="small", margin=0)
        self._which.param.watch(
            lambda event: event.new and not self._showing and self._chosen(event.new, None), "value"
        )
        self._showing = False
        self._note, self._grid = prose(""), Grid(self._heard, most_px=LIST_PX)
        self.card = card(
            "Tables", "A row, or an underlined cell, opens the samples behind it.",
            self._which, self._note, self._grid,
        )  # fmt: skip

    def read(self) -> None:
        """Take the tables from the store anew."""
        self.tables = tables(self.store)
        self.card.visible = bool(self.tables)

    def show(self, slug: str, cell: str) -> None:
        """Show the table of that name, the first for none, with the place of these conditions."""
        if not self.tables:
            return
        table = next((one for one in self.tables if one.slug == slug), self.tables[0])
        self._showing = True
        self._which.param.update(
            options={one.title: one.slug for one in self.tables},
            value=table.slug,
            visible=len(self.tables) > 1,
        )
        self._showing = False
        _say(self._note, Markup('<p class="muted">{}</p>').format(plain(table.note)) if table.note else "")
        here = conditions_of(cell) if cell else None
        self._grid.show(
            label=table.title,
            columns=[{"label": head, "number": at >= table.texts} for at, head in enumerate(table.columns)],
            rows=[_table_row(table, at, here) for at in range(len(table.rows))],
        )

    def _heard(self, told: dict[str, Any]) -> None:
        slug, conditions = told.get("table"), told.get("where")
        if isinstance(slug, str) and isinstance(conditions, dict):
            self._chosen(slug, {str(key): str(value) for key, value in conditions.items()})


def _table_row(table: ResultTable, at: int, here: dict[str, str] | None) -> dict[str, Any]:
    cells = []
    for place, cell in enumerate(table.rows[at]):
        shown = text_cell(cell, 80)
        if table.columns[place] == "arm" and "arm" in (table.own[at] or {}) and cell in ARMS:
            shown["chip"] = arm_colour(cell)
        if (part := table.places[at][place]) is not None:
            shown["told"] = {"table": table.slug, "where": part}
            if here == part:
                shown["tone"] = "here"
        cells.append(shown)
    row: dict[str, Any] = {"key": str(at), "cells": cells, "marked": "lensnet" in table.rows[at][:2]}
    if (own := table.own[at]) is not None:
        row |= {"told": {"table": table.slug, "where": own}}
        row["current"] = (
            here is not None and all(here.get(key) == value for key, value in own.items()) and bool(own)
        )
    return row


def _means(means: list[Estimates]) -> list[pn.Column]:
    """A card each; an arm has one colour in all of them."""
    colours = plots.series_colours([name for one in means for name in one.frame["series"]])
    return [
        card(one.title, one.note, drawing(plots.intervals(one.frame, one.axis, colours))) for one in means
    ]


def _say(pane: pn.pane.HTML, said: Markup | str) -> None:
    """Nothing is sent for what stands there already."""
    if pane.object != str(said):
        pane.object = str(said)


def _nothing(store: RunStore) -> pn.Column:
    way_out = (
        "They appear here as soon as the run comes to them; Runs shows what it does now."
        if store.live
        else "This run ended before it measured anything; start one with `tools/demo`."
    )
    return card("Answers", "", prose(empty("No answers yet" if store.live else "No answers", way_out)))
