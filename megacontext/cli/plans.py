"""A pretraining's plan as a table."""

from __future__ import annotations

from rich.console import Console

from megacontext.cli.answers import answer
from megacontext.cli.tables import plain_table
from megacontext.train.pretrain.plan import Plan


def print_plan(plan: Plan, as_json: bool) -> None:
    """Tell a plan on standard output."""
    answer(plan.described(), as_json, lambda: _print(plan))


def _print(plan: Plan) -> None:
    table = plain_table("plan", "")
    for what, value in (
        ("parameters", f"{plan.parameters:,}"),
        ("... embeddings, looked up", f"{plan.embeddings:,}"),
        ("... matrices of the layers", f"{plan.matrices:,}"),
        ("... head", f"{plan.head:,}"),
        ("steps", f"{plan.steps:,}"),
        ("tokens a step", f"{plan.batch_tokens:,}"),
        ("... in passes on each device", f"{plan.micro_steps:,}"),
        ("tokens", f"{plan.tokens:,}"),
        ("tokens a parameter", f"{plan.tokens_per_parameter:.2f}"),
        ("FLOPs a token", f"{plan.flops_per_token:.3e}"),
        ("FLOPs", f"{plan.flops:.3e}"),
        ("devices", f"{plan.devices}"),
        ("memory on each, GiB (estimate)", f"{plan.memory_gib:.2f}"),
        ("... weights, gradients, optimisers", f"{plan.weights_gib:.2f}"),
        ("... activations of one pass", f"{plan.activations_gib:.2f}"),
    ):
        table.add_row(what, value)
    Console().print(table)
