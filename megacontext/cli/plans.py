"""A training's plan as a table."""

from __future__ import annotations

from rich.console import Console

from megacontext.cli.answers import answer
from megacontext.cli.tables import plain_table
from megacontext.train.plans import TrainingPlan


def print_plan(plan: TrainingPlan, as_json: bool) -> None:
    """Tell a plan on standard output."""
    answer(plan.described(), as_json, lambda: _print(plan))


def _print(plan: TrainingPlan) -> None:
    table = plain_table("plan", "")
    for row in plan.rows():
        table.add_row(*row)
    Console().print(table)
