"""How well does each way of spending the budget answer, and does that depend on where the fact stands?"""

from __future__ import annotations

import panel as pn
import polars as pl
from markupsafe import Markup

from workbench import plots
from workbench.desk import Desk
from workbench.stores.run import RunStore
from workbench.text import arm_legend, arm_name, count, duration, percent, plain, size, table
from workbench.views.parts import Redraw, card, drawing, empty, figures, prose, side_by_side, stack


class ResultsView:
    """Headline, key figures, and per group of histories: accuracy, accuracy by depth, the table."""

    needs = "run"

    def __init__(self, desk: Desk):
        assert desk.run is not None
        self.store = desk.run
        self._headline = prose("")
        self._figures = prose("")
        self._groups = stack()
        self._groups_shown: list[str] | None = None
        self._shown: dict[str, tuple[pn.pane.HoloViews, pn.pane.HoloViews, pn.pane.HTML, pn.pane.HTML]] = {}
        self._redraw = Redraw(self._draw_plots)
        self.refresh()

    def panel(self) -> pn.viewable.Viewable:
        return stack(self._headline, self._figures, self._groups)

    def refresh(self) -> None:
        groups = self.store.groups()
        if groups != self._groups_shown:
            self._groups_shown = groups
            self._shown = {group: _group_panes() for group in groups}
            self._groups.objects = [self._group_cards(group) for group in groups] or [_nothing(self.store)]
        self._headline.object = str(headline(self.store))
        self._figures.object = str(figures(key_figures(self.store)))
        for group, (_, _, legend, rows) in self._shown.items():
            frame = self.store.rows(group)
            legend.object = str(arm_legend(frame["arm"].to_list()))
            rows.object = str(results_table(frame))
        self._redraw.ask()

    def tick(self) -> None:
        """Catch up with plots that had to wait."""
        self._redraw.tick()

    def _draw_plots(self) -> None:
        for group, (bars, by_depth, _, _) in self._shown.items():
            bars.object = plots.accuracy_bars(self.store.rows(group))
            by_depth.object = plots.accuracy_by_depth(self.store.depth(group))

    def _group_cards(self, group: str) -> pn.Column:
        bars, by_depth, legend, rows = self._shown[group]
        return stack(
            side_by_side(
                card(f"{group}: accuracy", group_subtitle(self.store, group), bars),
                card(f"{group}: by place of the fact", "Share answered exactly in each fifth of the history",
                     legend, by_depth),
            ),
            card(f"{group}: table", "All arms read the same history through the same allocator and weights.", rows),
        )  # fmt: skip


def headline(store: RunStore) -> Markup:
    """What the run concluded; before that, how far it has come."""
    if store.sentences:
        first, *rest = store.sentences
        more = Markup("").join(Markup('<p class="muted">{}</p>').format(plain(sentence)) for sentence in rest)
        return Markup('<p class="lead">{}</p>{}').format(plain(first), more)
    answered = len(store.frame("answer"))
    if store.live:
        return Markup(
            '<p class="lead">In progress: {} answers so far. Intervals come at the end.</p>'
        ).format(count(answered))
    return Markup('<p class="lead">This run has {} answers and no conclusions.</p>').format(count(answered))


def key_figures(store: RunStore) -> list[tuple[str, str, str]]:
    """The few numbers to see first: what, how much, remark."""
    items: list[tuple[str, str, str]] = []
    rows = store.rows()
    for group in store.groups():
        here = {row["arm"]: row for row in rows.filter(pl.col("history") == group).to_dicts()}
        if lens := here.get("lensnet"):
            ratio = "" if lens["of_oracle"] is None else f"{percent(lens['of_oracle'])} of the oracle, "
            items.append((f"LensNet, {group}", percent(lens["accuracy"]), f"{ratio}n = {lens['n']}"))
    if store.info.budget_positions:
        longest = max((store.num_tokens(name) for name in store.histories()), default=0)
        share = (
            f"{percent(store.info.budget_positions / longest, 2)} of the longest history" if longest else ""
        )
        items.append(("Budget", count(store.info.budget_positions), f"positions, {share}".rstrip(", ")))
    ingest = store.ingest_summary()
    if len(ingest):
        speed = ingest["tokens"].sum() / max(ingest["wall_s"].sum() or 0, 1e-9)
        items.append(("Ingested", count(ingest["tokens"].sum()), f"tokens at {count(speed)} tokens/s"))
        items.append(("Stored", size(ingest["store_bytes"].sum()), "on disk, all histories"))
    if store.info.started and store.info.finished:
        items.append(
            ("Took", duration((store.info.finished - store.info.started).total_seconds()), store.info.kind)
        )
    return items


def group_subtitle(store: RunStore, group: str) -> str:
    """Length of the histories, budget and number of questions, in words."""
    rows = store.rows(group)
    tokens, questions = rows["history_tokens"].max(), rows["n"].max()
    budget = f", budget {store.info.budget_positions:,} positions" if store.info.budget_positions else ""
    smoke = "" if (questions or 0) >= 200 else " (a smoke test: a claim needs 200)"
    asked = f"{count(questions)} questions{smoke}"
    return f"{count(tokens)} tokens of history{budget}, {asked}; whiskers are 95 % intervals"


def results_table(rows: pl.DataFrame) -> Markup:
    """The arms of one group as a table; LensNet stands out."""
    head = (
        "arm", "right", "accuracy", "95 % interval", "of oracle", "plain", "superseded", "needed block read",
        "positions", "bytes a step",
    )  # fmt: skip
    lines, marked = [], []
    for at, row in enumerate(rows.to_dicts()):
        if row["arm"] == "lensnet":
            marked.append(at)
        interval = "–" if row["low"] is None else f"{percent(row['low'])} – {percent(row['high'])}"
        lines.append((
            arm_name(row["arm"]), f"{count(row['correct'])} of {count(row['n'])}", percent(row["accuracy"]), interval,
            percent(row["of_oracle"]), _kind(row, "plain"), _kind(row, "superseded"), percent(row["hit_rate"]),
            count(row["cost_positions_mean"]), size(row["bytes_per_step"]),
        ))  # fmt: skip
    return table(head, lines, marked)


def _kind(row: dict[str, object], kind: str) -> str:
    return "–" if not row[f"{kind}_n"] else f"{percent(row[f'{kind}_accuracy'])} of {count(row[f'{kind}_n'])}"


def _group_panes() -> tuple[pn.pane.HoloViews, pn.pane.HoloViews, pn.pane.HTML, pn.pane.HTML]:
    return drawing(None), drawing(None), prose(""), prose("")


def _nothing(store: RunStore) -> pn.Column:
    way_out = (
        "They appear here as soon as the run comes to them; Curves shows what it does now."
        if store.live
        else "A training run has none: see Curves. Otherwise start one with `tools/demo`."
    )
    return card("Answers", "", prose(empty("No answers yet" if store.live else "No answers", way_out)))
