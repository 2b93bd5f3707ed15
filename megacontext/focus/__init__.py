"""What the model sees of its history, and how scores change that within a budget."""

from megacontext.focus import strategies as strategies  # fills STRATEGIES
from megacontext.focus.allocator import FocusStep, Plan, ScoreFunction, plan, refocus
from megacontext.focus.context import Edit, WorkingContext, check_budget
from megacontext.focus.exact import NodeUtilities, best_context, regret, value_of
from megacontext.focus.fitting import fit
from megacontext.focus.groups import Groups
from megacontext.focus.options import STRATEGIES, AllocatorConfig, Options, Strategy, checked_scores
from megacontext.focus.reasons import Reason
from megacontext.focus.rules import NO_RULES, Rules
from megacontext.focus.state import AllocatorState
from megacontext.focus.toward import toward

__all__ = [
    "NO_RULES",
    "STRATEGIES",
    "AllocatorConfig",
    "AllocatorState",
    "Edit",
    "FocusStep",
    "Groups",
    "NodeUtilities",
    "Options",
    "Plan",
    "Reason",
    "Rules",
    "ScoreFunction",
    "Strategy",
    "WorkingContext",
    "best_context",
    "check_budget",
    "checked_scores",
    "fit",
    "plan",
    "refocus",
    "regret",
    "toward",
    "value_of",
]
