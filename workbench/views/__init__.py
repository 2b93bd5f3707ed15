"""Views: each answers one question about what lies on the desk. They draw and never compute."""

from workbench.views.focus import FocusView
from workbench.views.gists import GistsView
from workbench.views.parts import View
from workbench.views.results import ResultsView
from workbench.views.runs import RunsView
from workbench.views.seen import SeenView
from workbench.views.talk import TalkView
from workbench.views.tree import TreeView

VIEW_CLASSES: dict[str, type[View]] = {
    "runs": RunsView,
    "results": ResultsView,
    "tree": TreeView,
    "gists": GistsView,
    "focus": FocusView,
    "seen": SeenView,
    "talk": TalkView,
}
"""By the names of `workbench.state.VIEWS`."""

__all__ = [
    "VIEW_CLASSES",
    "FocusView",
    "GistsView",
    "ResultsView",
    "RunsView",
    "SeenView",
    "TalkView",
    "TreeView",
    "View",
]
