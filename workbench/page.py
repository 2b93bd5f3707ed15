"""The page: what there is to choose from, what is chosen, and the views in their place.

Everything that the page loads comes from its own server. A page follows a live run by itself, from the moment it has
loaded. Whatever goes wrong with what is shown is a sentence in the page, which lives on.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import panel as pn
import panel_material_ui as pmui
from bokeh.models import CustomJS
from markupsafe import Markup
from panel.util import edit_readonly

from megacontext.errors import MegaContextError
from workbench.desk import Desk
from workbench.foreword import foreword
from workbench.html import WITHOUT_FOREWORD, dress
from workbench.palette import BAD, GOOD, NEUTRAL
from workbench.pulse import Pulse
from workbench.state import VIEWS, Selection
from workbench.stores.library import Library
from workbench.stores.memory import MemoryStore
from workbench.stores.run import RunStore
from workbench.stores.runs import RunInfo, RunSummary, read_info
from workbench.text import count, plain, size, visible
from workbench.theme import theme
from workbench.turns import in_one_go, in_turn
from workbench.views import VIEW_CLASSES, View
from workbench.views.parts import empty, looked_at, pairs, problem, prose, stack

_log = logging.getLogger(__name__)

POLL_MS = 500
"""How often a page looks for news; well below the two seconds in which it promises to show them."""

POLLS_PER_LISTING = 4
"""New runs are looked for less often than news of the run that is shown."""

HEAD_START_MS = 100
"""Of a browser over the server, to ask for the page's scripts: while the server reads runs it answers nobody."""

TITLE = "MegaContext workbench"
CLOSE_SIDEBAR_WHERE_NARROW = """
// On a narrow screen the sidebar covers the page; only the browser knows how wide it is.
if (window.innerWidth < 600) {
  for (const root of Bokeh.documents[0].roots()) {
    if (root.data?.attributes && "sidebar_open" in root.data.attributes) root.data.sidebar_open = false
  }
}
"""
STATE_COLOURS = {
    "running": GOOD,
    "done": NEUTRAL,
    "failed": BAD,
    "interrupted": BAD,
    "dead": BAD,
    "damaged": BAD,
}
STATE_WORDS = {"dead": "dead: its process is gone"}


class Workbench:
    """One page. Each browser tab has its own; they share what is open in the library."""

    def __init__(self, library: Library, run_name: str | None = None):
        self.library = library
        self.selection = Selection()
        self.desk = Desk(library, self.selection)
        self._views: dict[str, View] = {}
        self._stale: set[str] = set()
        self._state_shown = ""
        self._runs: list[RunSummary] = []
        self._polls = 0
        self._make_controls()
        self._first_run = run_name or ""
        self._pulse = Pulse(pn.state.curdoc)
        self._take_url()
        self._view_asked = self.selection.view
        self._is_open = False
        # Until then Panel puts every change off, each to a turn of its own, and some would be lost: see `follow`.
        self._is_followed = False
        self._chosen_early: list[str] = []
        self._open_while_scripts_load()

    # Parts -----------------------------------------------------------------------------------------------------

    def _make_controls(self) -> None:
        wide = {"sizing_mode": "stretch_width", "margin": (8, 16), "size": "small"}
        self._run = pmui.Select(label="Run", options=[], **wide)
        self._history = pmui.Select(label="History", options=[], **wide)
        self._question = pmui.Select(label="Question", options={}, **wide)
        self._arm = pmui.Select(label="Arm", options=[], **wide)
        self._about = prose("")
        self._about.margin = (4, 16)
        self._alert = prose("", visible=False)
        self._holders = {name: stack() for name in VIEWS}
        for holder in self._holders.values():
            holder.margin = (14, 0, 0, 0)
        self._tabs = pmui.Tabs(
            *((words, self._holders[name]) for name, words in VIEWS.items()),
            sizing_mode="stretch_width",
            margin=0,
            # What was looked at stays in the page: a figure that comes back into it is measured before it is laid out.
            dynamic=False,
        )
        for control, name in (
            (self._run, "run"),
            (self._history, "history"),
            (self._arm, "arm"),
            (self._question, "question"),
        ):
            control.param.watch(lambda event, name=name: self._chosen(name, event.new), "value")
        self._tabs.param.watch(lambda event: self._chosen("view", list(VIEWS)[event.new]), "active")

    def page(self) -> pmui.Page:
        """The whole page, ready to be served."""
        page = pmui.Page(
            title=TITLE, main=[stack_with_margin(self._alert, self._tabs)], sidebar_width=290, sidebar_resizable=False,
            sidebar=[self._run, self._about, pmui.Divider(margin=(4, 16)), self._history, self._question, self._arm],
            theme_config=theme(), dark_theme=True, site_url="./", busy_indicator=None,
            favicon=Path(__file__).with_name("icon.svg"),
        )  # fmt: skip
        with edit_readonly(page):
            # Else it would follow whether the server is at work, and go through all models of the page each time.
            page.busy = False
        if pn.state.curdoc is not None:
            for code in (CLOSE_SIDEBAR_WHERE_NARROW, WITHOUT_FOREWORD):
                pn.state.curdoc.js_on_event("document_ready", CustomJS(code=code))
        return page

    def foreword(self) -> Markup:
        """What is painted before the page is there: of the run no more than its run.json says."""
        wanted = self._wanted([run.name for run in self.library.runs()])
        known = Markup("")
        with contextlib.suppress(MegaContextError):  # the page will say what is wrong
            if wanted:
                info = read_info(self.library.run_path(wanted))
                known = about(info, info.state())
        return foreword(TITLE, self.selection.view, visible(wanted or self.library.given_memory)[:80], known)

    def _open_while_scripts_load(self) -> None:
        """Fill the page while its browser loads scripts; at once where there is none.

        Both take about a second, and there are two of them: server and browser. A browser that has come for the page
        before must not be sent changes until it has made it: it drops them. Then it is filled once it has.
        """
        document = pn.state.curdoc
        context = None if document is None else document.session_context
        if context is None:
            self._is_followed = True
            self._open()
        else:
            document.add_timeout_callback(lambda: None if looked_at() else self._open(), HEAD_START_MS)

    def _open(self) -> None:
        self._is_open = True
        clicked = self.selection.view != self._view_asked  # a quick hand, before there was anything to see
        with self._telling():
            self._list_runs()
            self._open_run()
        self.selection.param.watch(self._selected, [*Selection.KEYS, "passing"])
        if clicked:
            self._tell_address()

    # Following ---------------------------------------------------------------------------------------------------

    def follow(self) -> None:
        """The browser has made the page: look for news from now on."""
        in_turn(self._catch_up)
        pn.state.add_periodic_callback(self.poll, period=POLL_MS)
        self._poll_soon()

    def _catch_up(self) -> None:
        """Show what the page is to show, and what a quick hand has chosen before it was ready."""
        self._is_followed = True
        if not self._is_open:
            self._open()
        elif self._chosen_early:
            self._show_selected("run" in self._chosen_early)

    def _poll_soon(self) -> None:
        document = pn.state.curdoc
        if document is not None and document.session_context is not None and looked_at():
            in_turn(self.poll)

    def poll(self) -> None:
        """Take in what is new, while somebody looks and has seen what was new before."""
        if not self._is_followed or not looked_at() or not self._pulse.free:
            return
        with self._telling(), in_one_go():
            self._polls += 1
            run = self.desk.run
            if run is None or self._polls % POLLS_PER_LISTING == 0:
                self._list_runs()
            if run is None and self.selection.run:
                self._open_run()
            elif run is not None:
                changed = self.desk.follow()
                if changed:
                    self.desk.settle()
                    self._show_choices()
                    self._stale = set(self._views)
                if changed or run.state != self._state_shown:
                    self._describe()
            self._show_view()
            if (view := self._views.get(self.selection.view)) is not None:
                view.tick()
        self._pulse.beat()

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """An error inside becomes a sentence above the views; without one, the last sentence goes."""
        try:
            yield
        except MegaContextError as error:
            self._tell(str(error))
        except Exception as mistake:
            # Ours, and no reason for a page to stop following what it shows.
            _log.exception("a page went on after a mistake of the workbench")
            self._tell(f"The workbench made a mistake ({type(mistake).__name__}); its terminal says more.")
        else:
            if self.desk.run is not None or not self.selection.run:
                self._alert.visible = False

    def _tell(self, sentence: str) -> None:
        self._alert.param.update(object=str(problem(sentence)), visible=True)

    # Selecting -----------------------------------------------------------------------------------------------------

    def _take_url(self) -> None:
        location = pn.state.location
        if location is None:
            return
        self.selection.take_query(location.search or "")
        # Back and forward in the browser.
        location.param.watch(lambda event: self.selection.take_query(event.new or "", whole=True), "search")

    def _chosen(self, name: str, value: Any) -> None:
        if value is None or value == getattr(self.selection, name):
            return
        self.selection.choose(**{name: value})

    def _selected(self, *events: Any) -> None:
        """In the page's turn: a click arrives beside it. With the selection as it is by then."""
        names = [event.name for event in events]
        if self._is_followed:
            in_turn(partial(self._show_selected, "run" in names))
        else:
            self._chosen_early += names

    def _show_selected(self, another_run: bool) -> None:
        with self._telling():
            if another_run:
                self._open_run()
            else:
                self.desk.settle()
                self._show_choices()
                self._stale = set(self._views)
                self._show_view()
            self._tell_address()

    def _tell_address(self) -> None:
        if pn.state.location is not None and not self.selection.passing:
            pn.state.location.search = self.selection.to_query()

    def _show_choices(self) -> None:
        """Make the controls agree with the selection."""
        run, chosen = self.desk.run, self.selection
        histories = [] if run is None else run.histories()
        for control in (self._history, self._question, self._arm):
            control.visible = run is not None
        self._history.param.update(options=histories, value=chosen.history or None, disabled=not histories)
        questions = {} if run is None else question_labels(run, chosen.history)
        self._question.param.update(
            options=questions, value=chosen.question if questions else None, disabled=not questions
        )
        arms = [] if run is None else run.traced_arms(chosen.history, chosen.question)
        self._arm.param.update(options=arms, value=chosen.arm or None, disabled=not arms)

    # Runs ------------------------------------------------------------------------------------------------------------

    def _list_runs(self) -> None:
        runs = self.library.runs()
        if runs == self._runs and self._run.options:
            return
        self._runs = runs
        names = [run.name for run in runs]
        wanted = self._wanted(names)
        if wanted and wanted not in names:
            names = [*names, wanted]
        # The selection first: a control that differs from it would be taken for a choice of another run.
        self.selection.run = wanted
        # A list that has no word for "none" takes its first one instead.
        options = {name: name for name in names} if wanted else {"none": "", **{name: name for name in names}}
        self._run.param.update(options=options, value=wanted, disabled=not names)
        self._run.visible = bool(names) or not self.library.given_memory

    def _wanted(self, names: list[str]) -> str:
        """The run to show, of those of that name, the newest first; empty for none."""
        # Who opens a memory wants to see that, and not whatever run is newest.
        newest = "" if self.library.given_memory else next(iter(names), "")
        return self.selection.run or self._first_run or newest

    def _open_run(self) -> None:
        self._views, self._stale = {}, set()
        for holder in self._holders.values():
            holder.objects = []
        try:
            self.desk.open_run()
            self._alert.visible = False
        except MegaContextError as error:
            self._tell(str(error))
        if self.library.given_memory and not self.selection.run and self.selection.view == "results":
            self.selection.view = "tree"
        self._show_choices()
        self._describe()
        self._show_view()

    def _show_view(self) -> None:
        """Make the chosen view, or bring it up to date."""
        name = self.selection.view
        self._tabs.active = list(VIEWS).index(name)
        holder, kind = self._holders[name], VIEW_CLASSES[name]
        if (missing := self._missing(kind)) is not None:
            self._views.pop(name, None)
            if not holder.objects or holder.objects[0].object != missing:
                holder.objects = [prose(missing)]
        elif name not in self._views:
            self._views[name] = kind(self.desk)
            holder.objects = [self._views[name].panel()]
            self._poll_soon()  # figures come behind the words
        elif name in self._stale:
            self._views[name].refresh()
        self._stale.discard(name)

    def _missing(self, kind: type[View]) -> Markup | None:
        """What to say instead of a view whose subject is not there."""
        if kind.needs == "run" and self.desk.run is None:
            if self.selection.run:
                return empty("This run cannot be shown", "Choose another one on the left.")
            folder = self.library.runs_folder
            return empty(
                "No runs yet", f"Start one with `tools/demo`; it will appear here. Looking in {folder}"
            )
        if kind.needs == "memory" and not self.desk.memory_name:
            return empty(
                "No memory here",
                "Choose a run that keeps the memory of its history, or open one with "
                "`megacontext workbench MEMORY`; `megacontext memory ingest` makes one.",
            )
        return None

    def _describe(self) -> None:
        run = self.desk.run
        self._state_shown = "" if run is None else run.state
        if run is not None:
            self._about.object = str(about(run.info, run.state))
            return
        with self._telling():
            memory = self.desk.memory()
            self._about.object = "" if memory is None else str(about_memory(self.desk.memory_name, memory))


def about(info: RunInfo, state: str) -> Markup:
    """State and particulars of a run, for the side of the page."""
    badge = Markup('<p class="state {}" style="color:{}"><i></i>{}</p>').format(
        state, STATE_COLOURS[state], STATE_WORDS.get(state, state)
    )
    book = info.raw.get("book") if isinstance(info.raw.get("book"), dict) else {}
    items = [
        ("kind", plain(info.kind, 40)),
        ("started", "–" if info.started is None else f"{info.started:%d %b %Y, %H:%M} UTC"),
        ("book", plain(book.get("title") or "–", 80)),
        ("budget", f"{count(info.budget_positions)} positions"),
        ("seed", plain(info.raw.get("seed", "–"), 20)),
        ("device", plain(info.raw.get("device", "–"), 40)),
    ]
    said = (
        Markup('<p class="quote muted">{}</p>').format(plain(info.message, 500))
        if info.message
        else Markup("")
    )
    return badge + said + pairs(items)


def about_memory(name: str, store: MemoryStore) -> Markup:
    """Name and size of a memory that belongs to no run."""
    return Markup("<h2>{}</h2>").format(plain(name, 80)) + pairs([
        ("tokens", count(store.num_tokens)),
        ("documents", count(len(store.memory.documents))),
        ("gist versions", count(len(store.memory.catalogue.versions))),
        ("file", size(store.memory.store_bytes)),
        ("opened", "for writing" if store.memory.writable else "for reading"),
    ])  # fmt: skip


def question_labels(store: RunStore, history: str) -> dict[str, int]:
    """What the list of questions says, and the question that it stands for; traced ones first."""
    if not history:
        return {}
    rows = store.questions(history).sort("traced", "question", descending=[True, False]).to_dicts()
    labels = {}
    for row in rows:
        words = visible(str(row["prompt"] or row["kind"] or ""))[:60]
        label = f"{row['question']} · {row['kind'] or '?'}{' · traced' if row['traced'] else ''} · {words}"
        labels[label] = row["question"]
    return labels


def stack_with_margin(*objects: Any) -> pn.Column:
    """The main area: cards with room around them."""
    column = stack(*objects)
    column.margin = (4, 20, 28, 20)
    return column


def build_page(library: Library, run_name: str | None = None) -> None:
    """Make the document at work a page over a library, opened on what the URL names, else on `run_name`, else on the
    newest run."""
    pn.extension(notifications=False)
    document = pn.state.curdoc
    workbench = Workbench(library, run_name)
    workbench.page().server_doc(document, TITLE)
    dress(document, workbench.foreword())
    pn.state.onload(workbench.follow)
