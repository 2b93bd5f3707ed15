"""An end-to-end training from beginning to end: measure, steps, saved states, measure again, the bundle.

An interrupt is taken at the end of a step: the state is saved, and `--resume` goes on from there. What comes out is a
bundle like that of `train.tiny`, which every command reads.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from megacontext.config import dump_recipe
from megacontext.corpus.book import load_book
from megacontext.errors import ConfigError
from megacontext.focus.context import check_budget
from megacontext.progress import Progress
from megacontext.runtime.bundle import Bundle, model_folder
from megacontext.runtime.run import RunFolder, write_json
from megacontext.train.contexts import ContextSampler
from megacontext.train.curves import ship_curve
from megacontext.train.held_out import held_out_metrics
from megacontext.train.joint.config import JointTrainConfig
from megacontext.train.joint.measure import difference, gist_figures, measured_nats, window_starts
from megacontext.train.joint.passages import BookPassages
from megacontext.train.joint.state import restore_joint_state, save_joint_state
from megacontext.train.joint.trainer import Figures, JointTrainer
from megacontext.train.stopping import Stop, graceful

_LOG_EVERY, _LEAST_ROWS = 10, 9
"""Steps from one row of telemetry to the next, fewer where a short run would have fewer rows than that."""
_CURVE_WINDOWS = 16
"""Of the measurements on the way; those before and after take all."""


@dataclass(frozen=True)
class JointData:
    """What a run goes on from and learns from, looked at before anything is written."""

    bundle: Bundle
    source: BookPassages
    held_out: str
    held_out_ids: np.ndarray


def load_joint_data(config: JointTrainConfig) -> JointData:
    """Raises CheckpointError for a model that is not one, ConfigError or BudgetError for what does not fit it."""
    bundle = Bundle.load(model_folder(config.model))
    if bundle.config.lens.words:
        raise ConfigError(
            f"end-to-end training compares addresses alone, the LensNet of {config.model!r} sees words too; go on from "
            "a model without lens.words"
        )
    tokenizer, size = bundle.tokenizer, bundle.config.block_size
    books = [tokenizer.encode(load_book(name).text) for name in config.books]
    source = BookPassages(ContextSampler(books, tokenizer, size, bundle.config.positions))
    for stage in config.stages:
        check_budget(stage.budget, size)
        source.check(stage.shape)
    held_out = load_book(config.held_out).text
    ids = tokenizer.encode(held_out)
    window_starts(len(ids), config.measure, size)
    return JointData(bundle, source, held_out, ids)


def train_joint(
    config: JointTrainConfig, data: JointData, out: Path, run: RunFolder, resume: Path | None = None
) -> dict[str, Any]:
    """Train `data.bundle` on into the folder `out`; returns the metrics that its metrics.json holds.

    Raises KeyboardInterrupt once an interrupted run is saved.
    """
    trainer = JointTrainer(config, data.bundle, data.source)
    noted: dict[str, Any] = {} if resume is None else restore_joint_state(trainer, resume)
    loop = _Loop(trainer, data, run, noted)
    with graceful() as stop:
        if "before" not in noted:
            noted["before"] = gist_figures(measured_nats(data.bundle, data.held_out_ids, config.measure))
        loop.go(stop)
    for part in trainer.parts.values():
        part.eval().requires_grad_(False)
    data.bundle.save(out)
    trained = Bundle.load(out)
    after = gist_figures(measured_nats(trained, data.held_out_ids, config.measure))
    metrics = held_out_metrics(trained, data.held_out, seed=config.seed)
    metrics |= {f"before_{name}": value for name, value in noted["before"].items()} | after
    metrics |= {
        "training_s": noted["training_s"],
        "positions_read": trainer.positions_read,
        "seed": config.seed,
        "began_from": trainer.began_from,
        "fingerprint": trained.fingerprint(),
    }
    _leave(config, metrics, out, run)
    return metrics


class _Loop:
    """The steps of a run, with what is told of them."""

    def __init__(self, trainer: JointTrainer, data: JointData, run: RunFolder, noted: dict[str, Any]):
        self.trainer, self.data, self.run, self.noted = trainer, data, run, noted
        noted.setdefault("training_s", 0.0)

    def go(self, stop: Stop) -> None:
        trainer, config = self.trainer, self.trainer.config
        every = max(1, min(_LOG_EVERY, config.total_steps // _LEAST_ROWS))
        with Progress("end to end", config.total_steps) as progress:
            progress.set(trainer.step)
            while trainer.step < config.total_steps:
                stage, ends = trainer.stage.name, {phase.stop for phase in trainer.phases}
                began = time.monotonic()
                figures = trainer.train_step()
                self.noted["training_s"] += time.monotonic() - began
                if trainer.step % every == 0 or trainer.step == config.total_steps:
                    self._tell(stage, figures)
                progress.set(trainer.step, f"{stage} · {_said(figures)}")
                due = trainer.step in ends or trainer.step % config.measure.save_every == 0
                if due or stop.wanted:
                    save_joint_state(trainer, self.run.path, **self.noted)
                    if not stop.wanted:
                        self._measure()
                    self.run.flush()
                if stop.wanted and trainer.step < config.total_steps:
                    raise KeyboardInterrupt

    def _tell(self, stage: str, figures: Figures) -> None:
        self.run.telemetry.emit(
            "train",
            stage=stage,
            step=self.trainer.step,
            wall_s=self.noted["training_s"],
            tokens_seen=self.trainer.positions_read,
            **figures,
        )

    def _measure(self) -> None:
        """What gists are worth by now, on a few windows of the held-out book."""
        measure = self.trainer.config.measure
        few = replace(measure, windows=min(measure.windows, _CURVE_WINDOWS))
        nats = measured_nats(self.data.bundle, self.data.held_out_ids, few, ("full", "gists", "drop"))
        cost, error = difference(nats, "gists", "full")
        self.run.telemetry.emit(
            "gist_value",
            step=self.trainer.step,
            wall_s=self.noted["training_s"],
            tokens_seen=self.trainer.positions_read,
            windows=len(nats["gists"]),
            delta_nll_nats=cost,
            delta_nll_se=error,
            gists_minus_drop_nats=difference(nats, "gists", "drop")[0],
            headroom_nats=difference(nats, "drop", "full")[0],
        )


def _said(figures: Figures) -> str:
    names = {
        "lm_loss_nats": "text", "answer_loss_nats": "answers", "lens_loss_nats": "lens",
        "lens_correlation": "agreement", "lens_accuracy": "found",
    }  # fmt: skip
    return " · ".join(f"{names[name]} {value:.2f}" for name, value in figures.items() if name in names)


def _leave(config: JointTrainConfig, metrics: dict[str, Any], out: Path, run: RunFolder) -> None:
    """Metrics, recipe and curve beside the weights."""
    write_json(out / "metrics.json", metrics)
    dump_recipe(config, out / "recipe.toml")
    run.note(model_fingerprint=metrics["fingerprint"])
    run.results({"metrics": metrics})
    ship_curve(run, out)
