"""The kinds of training that a recipe can ask for, by the name in its key `trainer`.

A recipe says what is trained; an order says where it goes. Each kind takes both and answers with the same outcome,
so the command line and the notebooks need not know which one it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megacontext.config import dump_recipe, from_mapping, load_table, recipe_source, to_mapping
from megacontext.errors import ConfigError
from megacontext.registry import Registry
from megacontext.runtime.pooled_gists import save_pooled
from megacontext.runtime.run import RunFolder, write_json
from megacontext.train.curves import ship_curve
from megacontext.train.gist_tokens.config import GistTokensTrainConfig
from megacontext.train.gist_tokens.loop import load_gist_tokens_data, train_gist_tokens
from megacontext.train.gists.config import GistTrainConfig
from megacontext.train.gists.loop import load_gist_data, train_gists
from megacontext.train.joint.config import JointTrainConfig
from megacontext.train.joint.loop import load_joint_data, train_joint
from megacontext.train.plans import TrainingPlan
from megacontext.train.pooled.config import PooledTrainConfig
from megacontext.train.pooled.loop import load_pooled_data, train_pooled
from megacontext.train.pooled.plan import plan_pooled
from megacontext.train.pooled.state import read_state
from megacontext.train.pretrain.config import PretrainConfig
from megacontext.train.pretrain.loop import Destination, pretrain
from megacontext.train.pretrain.plan import plan
from megacontext.train.pretrain.state import find_state
from megacontext.train.pretrain.world import join_world
from megacontext.train.reader import ReaderTrainConfig, load_reader_data, train_reader
from megacontext.train.tiny import TinyTrainConfig, load_texts, train_tiny

_USUAL = "parts"
TOKEN_CACHE = ".tokens"
"""Folder beside the runs where the tokens of a corpus are kept."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """Where a training goes."""

    runs: Path
    """Folder that holds the runs."""
    name: str | None = None
    """Name of the run; None = the first free of kind, kind-2, ..."""
    out: Path | None = None
    """Folder for what is trained; None = inside the run."""
    resume: Path | None = None
    """A run that goes on."""
    resume_step: int | None = None
    """The saved state that it goes on from; None = the last."""
    wandb_run: str = ""
    tag: str = ""
    """Folder of the checkpoint in nanochat's layout; empty = d and the depth."""
    told: Mapping[str, Any] | None = None
    """Put into that checkpoint's meta as `user_config`."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a training."""

    run: Path
    model: Path
    metrics: dict[str, Any]
    leads: bool = True
    """False in the processes whose results another one tells."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of training."""

    config: type
    train: Callable[[Any, Order], Outcome]
    plan: Callable[[Any], TrainingPlan] | None = None
    """None where a plan would say nothing that the recipe does not."""


TRAINERS: Registry[Kind] = Registry("trainer")


def load_training(recipe: str | Path, overrides: Mapping[str, object]) -> tuple[Kind, Any]:
    """The kind of training that a recipe asks for, and its configuration. Raises ConfigError, UnknownVariantError."""
    table = load_table(recipe, overrides)
    kind = TRAINERS.get(str(table.get("trainer", _USUAL)))
    return kind, from_mapping(kind.config, table, where=recipe_source(recipe))


def _check(order: Order, trainer: str, *, resumes: bool) -> None:
    """What a trainer that logs into its run alone cannot obey is refused before anything is read or written."""
    if order.wandb_run or (order.resume is not None and not resumes):
        cannot = "does not log" if resumes else "neither resumes nor logs"
        options = "--wandb-run" if resumes else "--resume and --wandb-run"
        raise ConfigError(f"the trainer {trainer!r} {cannot} elsewhere; leave {options} out")
    if order.out is not None and order.out.exists() and not order.out.is_dir():
        raise ConfigError(f"--out must be a folder, {order.out} is a file; choose another")


def _train_parts(config: TinyTrainConfig, order: Order) -> Outcome:
    _check(order, "parts", resumes=False)
    texts = load_texts(config)
    with RunFolder.create(order.runs, order.name, config, kind="train", seed=config.seed) as run:
        out = order.out or run.path / "model"
        metrics = train_tiny(config, texts, out, run)
    return Outcome(run=run.path, model=out, metrics=metrics)


def _pretrain(config: PretrainConfig, order: Order) -> Outcome:
    state = None if order.resume is None else find_state(order.resume, order.resume_step)
    with join_world(config.device) as world, ExitStack() as stack:
        plan(config, world.size)  # what cannot be is refused before a run's folder is made
        run = None
        if world.leads:
            if order.resume is not None:
                run = RunFolder.reopen(order.resume, config)
            else:
                run = RunFolder.create(order.runs, order.name, config, kind="pretrain", seed=config.seed)
            stack.enter_context(run)
            run.note(device=str(world.device), processes=world.size)
        folder = run.path if run is not None else order.runs
        nanochat = order.out or folder / "nanochat"
        tag = order.tag or f"d{config.model.n_layer}"
        metrics = pretrain(
            config,
            world,
            Destination(
                run=run,
                nanochat=nanochat,
                tag=tag,
                cache=order.runs / TOKEN_CACHE,
                wandb_run=order.wandb_run,
                resume=state,
                told=dict(order.told or {}),
            ),
        )
        if run is not None:
            run.results({"metrics": metrics})
    return Outcome(run=folder, model=nanochat / "base_checkpoints" / tag, metrics=metrics, leads=world.leads)


def _train_pooled(config: PooledTrainConfig, order: Order) -> Outcome:
    _check(order, "pooled", resumes=True)
    data = load_pooled_data(config)
    if order.resume is not None:
        read_state(order.resume)  # what is not there is refused before a run is opened
        folder = RunFolder.reopen(order.resume, config)
    else:
        folder = RunFolder.create(order.runs, order.name, config, kind="pooled", seed=config.seed)
    with folder as run:
        run.note(decoder_fingerprint=data.decoder.fingerprint, decoder_dtype=data.decoder.dtype)
        net, metrics = train_pooled(config, data, run.telemetry, run.path, resume=order.resume is not None)
        out = order.out or run.path / "model"
        made = {"recipe": to_mapping(config), "metrics": metrics}
        if data.told:
            made["initial"] = data.told
        save_pooled(out, net, data.decoder, **made)
        run.results({"metrics": metrics})
    return Outcome(run=run.path, model=out, metrics=metrics)


def _train_gists(config: GistTrainConfig, order: Order) -> Outcome:
    _check(order, "gists", resumes=False)
    data = load_gist_data(config)
    with RunFolder.create(order.runs, order.name, config, kind="gists", seed=config.seed) as run:
        out = order.out or run.path / "model"
        metrics = train_gists(config, data, run.telemetry)
        data.bundle.save(out)
        dump_recipe(config, out / "recipe.toml")
        write_json(out / "metrics.json", metrics)
        run.note(model_fingerprint=data.bundle.fingerprint())
        run.results({"metrics": metrics})
    return Outcome(run=run.path, model=out, metrics=metrics)


def _train_reader(config: ReaderTrainConfig, order: Order) -> Outcome:
    _check(order, "reader", resumes=False)
    data = load_reader_data(config)
    with RunFolder.create(order.runs, order.name, config, kind="reader", seed=config.seed) as run:
        run.note(decoder_fingerprint=data.reader.decoder.fingerprint)
        metrics = train_reader(config, data, run.telemetry)
        out = order.out or run.path / "model"
        data.reader.save(out, recipe=to_mapping(config), metrics=metrics)
        ship_curve(run, out)
        run.results({"metrics": metrics})
    return Outcome(run=run.path, model=out, metrics=metrics)


def _train_joint(config: JointTrainConfig, order: Order) -> Outcome:
    _check(order, "joint", resumes=True)
    state = None if order.resume is None else find_state(order.resume, order.resume_step)
    data = load_joint_data(config)
    if order.resume is not None:
        run = RunFolder.reopen(order.resume, config)
    else:
        run = RunFolder.create(order.runs, order.name, config, kind="joint", seed=config.seed)
    with run:
        out = order.out or run.path / "model"
        metrics = train_joint(config, data, out, run, state)
    return Outcome(run=run.path, model=out, metrics=metrics)


def _train_gist_tokens(config: GistTokensTrainConfig, order: Order) -> Outcome:
    _check(order, "gist-tokens", resumes=False)
    data = load_gist_tokens_data(config)
    with RunFolder.create(order.runs, order.name, config, kind="gist-tokens", seed=config.seed) as run:
        out = order.out or run.path / "model"
        metrics = train_gist_tokens(config, data, out, run)
        run.results({"metrics": metrics})
    return Outcome(run=run.path, model=out, metrics=metrics)


def planned_devices(config: PretrainConfig) -> int:
    """Devices that a plan counts with: those that torchrun started, or those that the recipe is meant for."""
    return int(os.environ.get("WORLD_SIZE", config.batch.devices))


TRAINERS.register("gists")(Kind(config=GistTrainConfig, train=_train_gists))
TRAINERS.register("parts")(Kind(config=TinyTrainConfig, train=_train_parts))
TRAINERS.register("gist-tokens")(Kind(config=GistTokensTrainConfig, train=_train_gist_tokens))
TRAINERS.register("joint")(Kind(config=JointTrainConfig, train=_train_joint))
TRAINERS.register("pooled")(
    Kind(
        config=PooledTrainConfig,
        train=_train_pooled,
        # Made where the device need not be.
        plan=lambda config: plan_pooled(config, load_pooled_data(replace(config, device="cpu"))),
    )
)
TRAINERS.register("reader")(Kind(config=ReaderTrainConfig, train=_train_reader))
TRAINERS.register("pretrain")(
    Kind(config=PretrainConfig, train=_pretrain, plan=lambda config: plan(config, planned_devices(config)))
)
