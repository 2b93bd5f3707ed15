"""Views: each answers one question about one run, from a store and a selection. They draw and never compute."""

from workbench.views.curves import CurvesView
from workbench.views.focus import FocusView
from workbench.views.overview import OverviewView
from workbench.views.parts import View
from workbench.views.tree import TreeView

__all__ = ["CurvesView", "FocusView", "OverviewView", "TreeView", "View"]
