"""`megacontext train RECIPE`: train all parts from scratch."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from megacontext.cli.overrides import Overrides, parsed
from megacontext.config import load_recipe
from megacontext.errors import ConfigError
from megacontext.runtime.run import RunFolder
from megacontext.train.tiny import TinyTrainConfig, load_texts, train_tiny


@dataclass(frozen=True)
class Train:
    """Train tokenizer, base model, GistNet, addresses and LensNet from scratch by a recipe."""

    recipe: Annotated[str, tyro.conf.Positional] = "tiny"
    """A recipe in data/recipes, or the path of one."""
    out: Path | None = None
    """Folder for the trained parts; default: model/ in the run's folder."""
    name: str | None = None
    """Name of the run; default: the first free of train, train-2, ..."""
    runs: Path = Path("runs")
    """Folder that holds the runs."""
    set: Overrides = ()
    """Changes to the recipe, as key=value with dotted keys, e.g. base.answer_weight=1.5"""
    json: bool = False
    """Print the metrics as JSON on standard output."""

    def run(self) -> int:
        config = load_recipe(TinyTrainConfig, self.recipe, parsed(self.set))
        texts = load_texts(config)
        if self.out is not None and self.out.exists() and not self.out.is_dir():
            raise ConfigError(f"--out must be a folder, {self.out} is a file; choose another")
        with RunFolder.create(self.runs, self.name, config, kind="train", seed=config.seed) as run:
            out = self.out or run.path / "model"
            metrics = train_tiny(config, texts, out, run)
        if self.json:
            print(json.dumps({"run": str(run.path), "model": str(out), "metrics": metrics}, indent=2))
        else:
            print(f"trained parts in {out}, telemetry in {run.path}", file=sys.stderr)
            for name, value in metrics.items():
                print(f"{name:32} {value:.4g}" if isinstance(value, float) else f"{name:32} {value}")
        return 0
