"""What the model sees of its history, and how scores change that within a budget."""

from megacontext.focus.allocator import (
    STRATEGIES,
    AllocatorConfig,
    AllocatorState,
    FocusStep,
    Options,
    Plan,
    checked_scores,
    fit,
    plan,
    refocus,
)
from megacontext.focus.context import Edit, WorkingContext, check_budget

__all__ = [
    "STRATEGIES",
    "AllocatorConfig",
    "AllocatorState",
    "Edit",
    "FocusStep",
    "Options",
    "Plan",
    "WorkingContext",
    "check_budget",
    "checked_scores",
    "fit",
    "plan",
    "refocus",
]
