"""The page: which runs there are, what is selected, and the views in their place; and the server that shows it.

Everything that the page loads comes from this server. It listens on this machine only, because whoever reaches it can
read the runs. A page follows a live run by itself, from the moment it has loaded.
"""

from __future__ import annotations

import contextlib
import ipaddress
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import panel as pn
import panel_material_ui as pmui
from bokeh.models import CustomJS
from markupsafe import Markup
from tornado.websocket import WebSocketClosedError

from megacontext.errors import ConfigError, MegaContextError
from workbench.palette import BAD, DARK, FONT, GOOD, LIGHT, NEUTRAL
from workbench.runs import RunSummary, list_runs
from workbench.state import VIEWS, Selection
from workbench.store import RunStore
from workbench.text import count, plain, visible
from workbench.views import CurvesView, FocusView, OverviewView, TreeView, View
from workbench.views.parts import empty, pairs, problem, prose, stack

POLL_MS = 500
"""How often a page looks for news; well below the two seconds in which it promises to show them."""

POLLS_PER_LISTING = 4
"""New runs are looked for less often than news of the run that is shown."""

TITLE = "MegaContext workbench"
CLOSE_SIDEBAR_WHERE_NARROW = """
// On a narrow screen the sidebar covers the page; only the browser knows how wide it is.
if (window.innerWidth < 600) {
  for (const root of Bokeh.documents[0].roots()) {
    if (root.data?.attributes && "sidebar_open" in root.data.attributes) root.data.sidebar_open = false
  }
}
"""
VIEW_CLASSES = {"overview": OverviewView, "tree": TreeView, "focus": FocusView, "curves": CurvesView}
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
    """One page. Each browser tab has its own; they share nothing but the files."""

    def __init__(self, runs_folder: str | Path, run_name: str | None = None):
        self.folder = Path(runs_folder)
        self.selection = Selection()
        self.store: RunStore | None = None
        self._views: dict[str, View] = {}
        self._state_shown = ""
        self._runs: list[RunSummary] = []
        self._polls = 0
        self._make_controls()
        self._first_run = run_name or ""
        self._take_url()
        self._list_runs()
        self._open_run()
        self.selection.param.watch(self._selected, list(Selection.KEYS))

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
            *((name.capitalize(), self._holders[name]) for name in VIEWS),
            sizing_mode="stretch_width",
            margin=0,
        )
        for control, name in (
            (self._run, "run"),
            (self._history, "history"),
            (self._arm, "arm"),
            (self._question, "question"),
        ):
            control.param.watch(lambda event, name=name: self._chosen(name, event.new), "value")
        self._tabs.param.watch(lambda event: self._chosen("view", VIEWS[event.new]), "active")

    def page(self) -> pmui.Page:
        """The whole page, ready to be served."""
        page = pmui.Page(
            title=TITLE, main=[stack_with_margin(self._alert, self._tabs)], sidebar_width=290, sidebar_resizable=False,
            sidebar=[self._run, self._about, pmui.Divider(margin=(4, 16)), self._history, self._question, self._arm],
            theme_config=theme(), dark_theme=True, site_url="./", busy_indicator=None,
            favicon=Path(__file__).with_name("icon.svg"),
        )  # fmt: skip
        if pn.state.curdoc is not None:
            pn.state.curdoc.js_on_event("document_ready", CustomJS(code=CLOSE_SIDEBAR_WHERE_NARROW))
        pn.state.onload(self._start)
        return page

    # Following ---------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        pn.state.add_periodic_callback(self.poll, period=POLL_MS)

    def poll(self) -> None:
        """Take in what is new. Whatever goes wrong with a run is a sentence in the page, which lives on."""
        with self._telling():
            self._polls += 1
            if self.store is None or self._polls % POLLS_PER_LISTING == 0:
                self._list_runs()
            if self.store is None:
                self._open_run()
                return
            changed = self.store.refresh()
            if changed:
                self._settle()
            if changed or self.store.state != self._state_shown:
                self._describe()
            view = self._views.get(self.selection.view)
            if changed and view is not None:
                view.refresh()
            elif isinstance(view, OverviewView):
                view.tick()
            if changed:  # the others are made anew when they are looked at
                self._views = {name: made for name, made in self._views.items() if made is view}

    @contextlib.contextmanager
    def _telling(self) -> Any:
        try:
            yield
        except MegaContextError as error:
            self._alert.param.update(object=str(problem(str(error))), visible=True)
        else:
            if self.store is not None and self._alert.visible:
                self._alert.visible = False

    # Selecting -----------------------------------------------------------------------------------------------------

    def _take_url(self) -> None:
        location = pn.state.location
        if location is None:
            return
        self.selection.take_query(location.search or "")
        # Back and forward in the browser.
        location.param.watch(lambda event: self.selection.take_query(event.new or ""), "search")

    def _chosen(self, name: str, value: Any) -> None:
        if value is None or value == getattr(self.selection, name):
            return
        # Another run keeps the view; another question starts at its end.
        fresh = {
            "run": {"history": "", "question": -1, "arm": "", "step": -1},
            "history": {"question": -1, "step": -1},
        }
        self.selection.param.update(
            **({name: value} | fresh.get(name, {} if name in ("view", "step") else {"step": -1}))
        )

    def _selected(self, *events: Any) -> None:
        with self._telling():
            if any(event.name == "run" for event in events):
                self._open_run()
            elif self.store is not None:
                self._settle()
            self._show_view()
            if pn.state.location is not None:
                pn.state.location.search = self.selection.to_query()

    def _settle(self) -> None:
        """Make selection and controls agree with what the run has."""
        store = self.store
        assert store is not None
        self.selection.settle(store)
        chosen = self.selection
        histories = store.histories()
        self._history.param.update(options=histories, value=chosen.history or None, disabled=not histories)
        questions = question_labels(store, chosen.history)
        self._question.param.update(
            options=questions, value=chosen.question if questions else None, disabled=not questions
        )
        arms = store.traced_arms(chosen.history, chosen.question)
        self._arm.param.update(options=arms, value=chosen.arm or None, disabled=not arms)

    # Runs ------------------------------------------------------------------------------------------------------------

    def _list_runs(self) -> None:
        runs = list_runs(self.folder)
        if runs == self._runs and self._run.options:
            return
        self._runs = runs
        names = [run.name for run in runs]
        wanted = self.selection.run or self._first_run or (names[0] if names else "")
        if wanted and wanted not in names:
            names = [*names, wanted]
        # The selection first: a control that differs from it would be taken for a choice of another run.
        self.selection.run = wanted
        self._run.param.update(options=names, value=wanted or None, disabled=not names)

    def _open_run(self) -> None:
        self.store, self._views = None, {}
        name = self.selection.run
        try:
            if not name:
                self._show_nothing(
                    empty(
                        "No runs yet",
                        f"Start one with `tools/demo`; it will appear here. Looking in {self.folder}",
                    )
                )
                return
            self.store = RunStore(run_path(self.folder, name))
            self._settle()
            self._describe()
            self._show_view()
            self._alert.visible = False
        except MegaContextError as error:
            self.store = None
            self._show_nothing(empty("This run cannot be shown", "Choose another one on the left."))
            self._alert.param.update(object=str(problem(str(error))), visible=True)

    def _show_nothing(self, message: Markup) -> None:
        self._about.object = ""
        for control in (self._history, self._question, self._arm):
            control.param.update(options=[], value=None, disabled=True)
        for holder in self._holders.values():
            holder.objects = [prose(message)]

    def _show_view(self) -> None:
        self._tabs.active = VIEWS.index(self.selection.view)
        name = self.selection.view
        if self.store is not None and name not in self._views:
            self._views[name] = VIEW_CLASSES[name](self.store, self.selection)
            self._holders[name].objects = [self._views[name].panel()]

    def _describe(self) -> None:
        store = self.store
        assert store is not None
        self._state_shown = store.state
        self._about.object = str(about(store))


def about(store: RunStore) -> Markup:
    """State and particulars of a run, for the side of the page."""
    info, state = store.info, store.state
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


def run_path(folder: Path, name: str) -> Path:
    """The folder of a run by its name. Raises ConfigError for a name that is a path: it could lead elsewhere."""
    if not name or name in (".", "..") or any(mark in name for mark in "/\\\0"):
        raise ConfigError(f"a run is named by its folder in {folder}, got {name!r}; give the bare name")
    return folder / name


def stack_with_margin(*objects: Any) -> pn.Column:
    """The main area: cards with room around them."""
    column = stack(*objects)
    column.margin = (4, 20, 28, 20)
    return column


def theme() -> dict[str, Any]:
    """Both themes for Material UI: neutral bar, hairlines, system fonts."""

    def one(colours: dict[str, str]) -> dict[str, Any]:
        return {
            "palette": {
                "primary": {"main": colours["accent"]},
                "background": {"default": colours["ground"], "paper": colours["surface"]},
                "text": {"primary": colours["text"], "secondary": colours["muted"]},
                "divider": colours["line"],
            },
            "typography": {"fontFamily": FONT, "fontSize": 14, "h3": {"fontSize": 18, "fontWeight": 600}},
            "shape": {"borderRadius": 8},
            "components": {
                "MuiAppBar": {
                    "styleOverrides": {
                        "root": {
                            "backgroundColor": colours["surface"], "backgroundImage": "none", "boxShadow": "none",
                            "color": colours["text"], "borderBottom": f"1px solid {colours['line']}",
                            "& .title": {"color": colours["text"]},
                        }
                    }
                },
                "MuiDrawer": {"styleOverrides": {"paper": {"backgroundImage": "none"}}},
                "MuiTab": {"styleOverrides": {"root": {"textTransform": "none", "fontWeight": 500}}},
            },
        }  # fmt: skip

    return {"light": one(LIGHT), "dark": one(DARK)}


def build_app(runs_folder: str | Path, run_name: str | None = None) -> pmui.Page:
    """A page over the runs in a folder, opened on `run_name`, else on what the URL names, else on the newest."""
    pn.extension(notifications=False)
    return Workbench(runs_folder, run_name).page()


def serve(
    runs_folder: str | Path,
    run_name: str | None = None,
    port: int = 0,
    address: str = "127.0.0.1",
    open_browser: bool = False,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the workbench until Ctrl-C (or SIGTERM), then return. `on_ready` gets the address once it answers.

    Port 0 takes a free one. Raises ConfigError for an address that is not this machine's own, for a port that is
    taken, and for a `run_name` that is no run.
    """
    folder = Path(runs_folder)
    if not _is_loopback(address):
        raise ConfigError(
            f"the workbench shows runs to whoever reaches it, so it listens on a loopback address only, "
            f"got {address!r}; use 127.0.0.1 and an SSH tunnel"
        )
    if run_name is not None:
        RunStore(run_path(folder, run_name))
    port = _free_port(address, port)
    host = f"[{address}]" if ":" in address else address
    url = f"http://{host}:{port}/" + (Selection(run=run_name).to_query() if run_name else "")
    server = pn.serve(
        {"/": lambda: build_app(folder, run_name)}, port=port, address=address, start=False, show=False,
        title=TITLE, websocket_origin=[f"{host}:{port}", f"localhost:{port}"], verbose=False,
        # A page that is gone is forgotten soon, so that an open workbench keeps its size.
        check_unused_sessions=10_000, unused_session_lifetime=30_000,
    )  # fmt: skip

    def ready() -> None:
        if on_ready is not None:
            on_ready(url)
        if open_browser:
            server.show("/")

    server.io_loop.asyncio_loop.set_exception_handler(_quiet_about_closed_pages)
    previous = _on_sigterm(signal.default_int_handler)
    try:
        server.start()
        server.io_loop.add_callback(ready)
        server.io_loop.start()
    except KeyboardInterrupt:
        pass
    finally:
        _on_sigterm(previous)
        server.stop()


def _quiet_about_closed_pages(loop: Any, context: dict[str, Any]) -> None:
    """A page that is closed while the server still speaks to it is no news for the terminal."""
    if not isinstance(context.get("exception"), WebSocketClosedError):
        loop.default_exception_handler(context)


def _on_sigterm(handler: Any) -> Any:
    """Another handler for SIGTERM where one can be set: in the main thread. The one before."""
    try:
        return signal.signal(signal.SIGTERM, handler)
    except ValueError:
        return None


def _is_loopback(address: str) -> bool:
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _free_port(address: str, port: int) -> int:
    """`port`, or a free one for 0. The server needs it beforehand, to know which origins it may answer."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            if sys.platform != "win32":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
            return probe.getsockname()[1]
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"the workbench needs a free port, {address}:{port} is not ({error}); use --port 0"
        ) from None
