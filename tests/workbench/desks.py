"""A page's desk without a page, and what a view says in words."""

from __future__ import annotations

from pathlib import Path

import panel as pn
from make_run import run_json, write_json

from workbench.desk import Desk
from workbench.state import Selection
from workbench.stores.library import Library


def desk_on(run: Path, **chosen: object) -> Desk:
    """The desk with a run open on it, and more chosen."""
    desk = Desk(Library(run.parent), Selection(run=run.name, **chosen))
    desk.open_run()
    return desk


def words(view: pn.viewable.Viewable) -> str:
    """All text of the view's panes, as HTML."""
    return " ".join(str(pane.object) for pane in view.select(pn.pane.HTML))


def live_run(folder: Path) -> Path:
    """A run that has just begun."""
    folder.mkdir(parents=True)
    write_json(folder / "run.json", run_json(folder.name, status="running", finished=None))
    return folder
