"""`megacontext train RECIPE`: train what a recipe describes, from scratch or from where it was stopped."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from megacontext.cli.answers import answer
from megacontext.cli.overrides import Overrides, parsed
from megacontext.cli.plans import print_plan
from megacontext.errors import ConfigError
from megacontext.train.trainers import Kind, Order, load_training


@dataclass(frozen=True)
class Train:
    """Train by a recipe: `tiny` makes all parts, `tiny-joint` trains them on, `tiny-cpu` pretrains a base model.

    All recipes, what each goes on from and writes, and which resume: obsidian/operations/Operations.md.

    On several GPUs: torchrun --nproc_per_node=8 -m megacontext train RECIPE
    """

    recipe: Annotated[str, tyro.conf.Positional] = "tiny"
    """A recipe in data/recipes, or the path of one."""
    plan: bool = False
    """Print what a pretraining, or a training of pooled gists, will take (steps, arithmetic, memory); start nothing."""
    out: Path | None = None
    """Folder for what is trained; default: in the run's folder."""
    name: str | None = None
    """Name of the run; default: the first free of train, train-2, ..."""
    runs: Path = Path("runs")
    """Folder that holds the runs."""
    resume: Path | None = None
    """Folder of an interrupted run that goes on, by the same recipe."""
    wandb_run: str = ""
    """Name of a run at Weights & Biases (extra `wandb`); default: none."""
    set: Overrides = ()
    """Changes to the recipe, as key=value with dotted keys, e.g. base.answer_weight=1.5"""
    json: bool = False
    """Print the metrics, or the plan, as JSON on standard output."""

    def resolved(self) -> tuple[Kind, Any]:
        """Which training this is and its configuration, `--set` included. Raises ConfigError."""
        return load_training(self.recipe, parsed(self.set))

    def run(self) -> int:
        kind, config = self.resolved()
        if self.plan:
            if kind.plan is None:
                raise ConfigError(
                    f"a plan is of a pretraining or of pooled gists, recipe {self.recipe} is neither; leave --plan out"
                )
            print_plan(kind.plan(config), self.json)
            return 0
        order = Order(
            runs=self.runs, name=self.name, out=self.out, resume=self.resume, wandb_run=self.wandb_run
        )
        outcome = kind.train(config, order)
        if not outcome.leads:
            return 0
        told = {"run": str(outcome.run), "model": str(outcome.model), "metrics": outcome.metrics}
        answer(told, self.json, lambda: _print(told))
        return 0


def _print(told: dict[str, Any]) -> None:
    print(f"trained parts in {told['model']}, telemetry in {told['run']}", file=sys.stderr)
    for name, value in told["metrics"].items():
        print(f"{name:32} {value:.4g}" if isinstance(value, float) else f"{name:32} {value}")
