"""One run's networks, averages and optimisers, and the step that moves them.

A step is a function of the weights and of its number: all that is drawn is drawn from seed and step anew, so a run that
goes on from a saved state is the run that was never interrupted, bit for bit.

What a step does depends on the kind of its stage. "joint" goes through the named steps, build, sample, siblings,
horizon, preference, and moves what is not frozen by the horizon loss (base and GistNet), by InfoNCE (addresses), and by
the preferences (LensNet). "counterfactual" and "cloze" move LensNet alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megacontext.errors import ConfigError
from megacontext.evals.statistics import spearman
from megacontext.focus.context import WorkingContext
from megacontext.runtime.bundle import Bundle
from megacontext.scoring.lens import collate
from megacontext.train.joint.build import Tree, View, build, question_addresses, views
from megacontext.train.joint.cloze import cloze_batch, cloze_contexts, cloze_loss
from megacontext.train.joint.config import JointTrainConfig, Kind, StageConfig
from megacontext.train.joint.counterfactual import (
    Measured,
    counterfactual_loss,
    measure,
    targets_of,
    walked,
)
from megacontext.train.joint.horizon import Row, foretold, pack
from megacontext.train.joint.passages import Passage, PassageSpec, Source
from megacontext.train.joint.preference import prefer, preference_loss
from megacontext.train.joint.sample import sample_contexts
from megacontext.train.joint.siblings import Sibling, siblings
from megacontext.train.optimisers import Group, Optimisers

_TRIES = 100

Figures = dict[str, float]
"""What a step tells, by the names of telemetry's columns."""


@dataclass(frozen=True)
class Phase:
    """Consecutive stages of one kind: steps [start, stop)."""

    kind: Kind
    start: int
    stop: int
    parts: tuple[str, ...]
    """Parts that learn in any of its stages."""


@dataclass(frozen=True)
class Family:
    """A sampled context with its siblings, and which rows of the batch hold them."""

    view: View
    row: int
    siblings: list[Sibling]
    sibling_rows: list[int]


def phases(stages: Sequence[StageConfig]) -> list[Phase]:
    """The phases of a run, in order."""
    found: list[Phase] = []
    done = 0
    for stage in stages:
        start, parts = done, stage.learn.learning()
        if found and found[-1].kind == stage.kind:
            before = found.pop()
            start, parts = before.start, tuple(dict.fromkeys((*before.parts, *parts)))
        done += stage.steps
        found.append(Phase(stage.kind, start, done, parts))
    return found


class JointTrainer:
    """A bundle under training. Made anew from a configuration; `train.joint.state` carries a run over."""

    def __init__(self, config: JointTrainConfig, bundle: Bundle, source: Source):
        self.config, self.bundle, self.source = config, bundle, source
        self.parts = dict(bundle.parts())
        self.began_from = bundle.fingerprint()
        self.phases = phases(config.stages)
        self.step = 0
        self.positions_read = 0
        """Positions that the base has read with a gradient."""
        self.optimisers: dict[str, Optimisers] = {}
        self.averages: dict[str, Tensor] = {}
        """Running averages of the weights that learn in this phase, by part and name."""
        self._begin(self.phases[0])

    @property
    def stage(self) -> StageConfig:
        """The stage of the next step; at the end, the last one."""
        done = 0
        for stage in self.config.stages:
            done += stage.steps
            if self.step < done:
                return stage
        return self.config.stages[-1]

    @property
    def phase(self) -> Phase:
        """The phase of the next step; at the end, the last one."""
        return next((one for one in self.phases if self.step < one.stop), self.phases[-1])

    def train_step(self) -> Figures:
        """Read passages, move the weights once. Raises ConfigError where the loss is no number any more."""
        config, stage, phase = self.config, self.stage, self.phase
        self._freeze(stage)
        told: list[Figures] = []
        for micro_step in range(stage.micro_steps):
            rng = np.random.default_rng((config.seed, self.step, micro_step))
            with self._arithmetic():
                loss, figures = self._loss(stage, rng)
            if not torch.isfinite(loss):
                raise ConfigError(
                    f"the loss must be finite, got {loss.item()} at step {self.step} of stage {stage.name!r}; lower "
                    "the optimiser's rates"
                )
            if not loss.requires_grad:
                raise ConfigError(
                    f"the loss must depend on the parts that learn, that of stage {stage.name!r} does not; check what "
                    "its learn table leaves free"
                )
            (loss / stage.micro_steps).backward()
            told.append(figures | {"loss_nats": loss.item()})
        factor = config.optimiser.factor(self.step - phase.start, phase.stop - phase.start)
        for name, optimiser in self.optimisers.items():
            if config.grad_clip:
                nn.utils.clip_grad_norm_(self.parts[name].parameters(), config.grad_clip)
            optimiser.step(factor * stage.learn.share(name))
        self.step += 1
        self._average(phase)
        if self.step == phase.stop:
            self._end()
        return _means(told) | {"learning_rate": factor * config.optimiser.matrix_lr}

    def go_to(self, step: int) -> None:
        """Stand after `step` steps with fresh optimisers and averages; the caller restores what they held."""
        self.step = step
        if step < self.config.total_steps:
            self._begin(self.phase)

    # Phases.

    def _begin(self, phase: Phase) -> None:
        self.optimisers = {name: Optimisers(self._groups(name)) for name in phase.parts}
        self.averages = {key: weight.detach().clone() for key, weight in self._weights(phase)}

    def _groups(self, name: str) -> list[Group]:
        rates = self.config.optimiser
        groups = rates.groups((self.parts[name],))
        if name in self.config.muon_parts:
            return groups
        return [replace(group, kind="adamw", lr=rates.other_lr) for group in groups]

    def _average(self, phase: Phase) -> None:
        """Averages start as the weights, and follow closely at first."""
        if not self.config.average:
            return
        steps = self.step - phase.start
        decay = min(self.config.average, steps / (steps + 10))
        with torch.no_grad():
            for key, weight in self._weights(phase):
                self.averages[key].lerp_(weight, 1 - decay)

    def _end(self) -> None:
        """The phase's averages take the place of its weights; the next one begins."""
        phase = next(one for one in self.phases if one.stop == self.step)
        if self.config.average:
            with torch.no_grad():
                for key, weight in self._weights(phase):
                    weight.copy_(self.averages[key])
        if self.step < self.config.total_steps:
            self._begin(self.phase)

    def _weights(self, phase: Phase) -> Iterator[tuple[str, nn.Parameter]]:
        for name in phase.parts:
            for own, weight in self.parts[name].named_parameters():
                yield f"{name}.{own}", weight

    def _freeze(self, stage: StageConfig) -> None:
        for name, part in self.parts.items():
            part.requires_grad_(stage.learn.share(name) > 0)
            part.train(stage.learn.share(name) > 0)

    def _arithmetic(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bf16")

    # Losses.

    def _loss(self, stage: StageConfig, rng: np.random.Generator) -> tuple[Tensor, Figures]:
        losses = {"joint": self._joint, "counterfactual": self._counterfactual, "cloze": self._cloze}
        draw = self.source.cloze if stage.kind == "cloze" else self.source.passage
        passages = [_with_asks(draw, rng, stage) for _ in range(stage.passages)]
        return losses[stage.kind](stage, passages, rng)

    def _views(self, passages: Sequence[Passage], *, gradient: bool) -> tuple[list[Tree], Tensor, list[View]]:
        """Step build: trees, addresses (Q, A) of all questions, and a view of each ask."""
        with torch.set_grad_enabled(gradient):
            trees = build(self.bundle, [passage.history for passage in passages])
            asks = [passage.asks for passage in passages]
            addresses = question_addresses(self.bundle, [ask for own in asks for ask in own])
        return trees, addresses, views(trees, asks, addresses)

    def _joint(
        self, stage: StageConfig, passages: Sequence[Passage], rng: np.random.Generator
    ) -> tuple[Tensor, Figures]:
        config, bundle, learn = self.config, self.bundle, stage.learn
        trees, addresses, seen = self._views(passages, gradient=True)
        rows: list[Row] = []
        families: list[Family] = []
        for view in seen:
            tree, room = view.tree, stage.budget - len(view.ask.prompt)
            place: dict[WorkingContext, int] = {}
            for context in sample_contexts(tree.num_tokens, tree.block_size, room, stage.contexts, rng):
                others = siblings(
                    context,
                    view.scores(bundle.lens),
                    room,
                    config.allocator,
                    stage.siblings,
                    noise=config.noise,
                    max_steps=config.max_steps,
                    rng=rng,
                )
                for one in (context, *(other.context for other in others)):
                    if one not in place:
                        place[one] = len(rows)
                        rows.append(Row(tree, one, view.ask))
                families.append(
                    Family(view, place[context], others, [place[other.context] for other in others])
                )
        with torch.set_grad_enabled(learn.base + learn.gistnet > 0):
            packed = pack(rows, bundle.base, bundle.config.positions)
            nats = foretold(bundle.base, packed)
        self.positions_read += int(packed.ids.numel())
        loss, figures = self._horizon_loss(rows, nats)
        if learn.address > 0 and config.address_weight:
            own, told = self._address_loss(trees, addresses, seen)
            loss, figures = loss + config.address_weight * own, figures | told
        if learn.lens > 0 and config.preference_weight:
            own, told = self._preference_loss(rows, nats, families)
            loss, figures = loss + config.preference_weight * own, figures | told
        return loss, figures

    def _horizon_loss(self, rows: Sequence[Row], nats: Tensor) -> tuple[Tensor, Figures]:
        """Mean nats a token, of text and of answers apart, over all contexts that were read."""
        is_answer = torch.tensor([row.ask.is_answer for row in rows])
        lengths = torch.tensor([len(row.ask.horizon) for row in rows])
        loss, figures = nats.new_zeros(()), {}
        for name, chosen, weight in (
            ("lm_loss_nats", ~is_answer, 1.0),
            ("answer_loss_nats", is_answer, self.config.answer_weight),
        ):
            if chosen.any():
                mean = nats[chosen].sum() / lengths[chosen].sum()
                loss = loss + weight * mean
                figures[name] = mean.item()
        return loss, figures

    def _address_loss(
        self, trees: Sequence[Tree], addresses: Tensor, seen: Sequence[View]
    ) -> tuple[Tensor, Figures]:
        """InfoNCE (van den Oord et al. 2018): a question's blocks among those of all trees, its share in each equal."""
        begins = dict(zip(map(id, trees), np.cumsum([0, *(tree.num_blocks for tree in trees)]), strict=False))
        asked = [number for number, view in enumerate(seen) if view.ask.holding]
        if not asked:
            return addresses.new_zeros(()), {}
        blocks = torch.cat([tree.addresses for tree in trees])
        shares = torch.zeros(len(asked), len(blocks))
        for row, number in zip(shares, asked, strict=True):
            known = [block for block in seen[number].ask.holding if block < seen[number].tree.num_blocks]
            row[[int(begins[id(seen[number].tree)]) + block for block in known]] = 1 / len(known)
        logits = addresses[asked] @ blocks.T / self.config.address_temperature  # (Q, A), (N, A) -> (Q, N)
        nats = F.cross_entropy(logits.float(), shares)
        found = shares.gather(1, logits.argmax(dim=1, keepdim=True)) > 0
        return nats, {"address_loss_nats": nats.item(), "address_accuracy": found.float().mean().item()}

    def _preference_loss(
        self, rows: Sequence[Row], nats: Tensor, families: Sequence[Family]
    ) -> tuple[Tensor, Figures]:
        """Step preference, over every sampled context that has siblings."""
        mean = nats.detach().sum(dim=1).double().numpy() / [len(row.ask.horizon) for row in rows]
        given, targets, gains = [], [], []
        for family in families:
            context, price = rows[family.row].context, self.config.preference_price
            chosen = prefer(context, mean[family.row], family.siblings, mean[family.sibling_rows], price)
            given += [family.view.features(lesson.context) for lesson in chosen.lessons]
            targets += [torch.from_numpy(lesson.targets) for lesson in chosen.lessons]
            gains.append(chosen.gain)
        figures = {
            "preferred_share": float(np.mean(np.array(gains) > 0)),
            "preferred_gain_nats": float(np.mean(gains)),
        }
        if not given:
            return nats.new_zeros(()), figures
        logits = self.bundle.lens(collate(given))
        loss = preference_loss(logits, nn.utils.rnn.pad_sequence(targets, batch_first=True))
        return loss, figures | {"lens_loss_nats": loss.item()}

    def _counterfactual(
        self, stage: StageConfig, passages: Sequence[Passage], rng: np.random.Generator
    ) -> tuple[Tensor, Figures]:
        config, bundle = self.config, self.bundle
        _, _, seen = self._views(passages, gradient=False)
        found: list[Measured] = []
        for view in seen:
            score = view.scores(bundle.lens)
            for context in walked(
                view,
                bundle.lens,
                stage.budget,
                config.allocator,
                config.counterfactual,
                max_steps=config.max_steps,
                rng=rng,
            ):
                found.append(
                    measure(
                        view,
                        context,
                        score(context),
                        bundle.base,
                        bundle.config.positions,
                        stage.budget,
                        config.allocator,
                        config.counterfactual,
                        rng,
                    )
                )
        return self._measured_loss(found)

    def _measured_loss(self, found: Sequence[Measured]) -> tuple[Tensor, Figures]:
        config = self.config.counterfactual
        wanted = [targets_of(one, config) for one in found]
        targets = nn.utils.rnn.pad_sequence(
            [torch.from_numpy(row) for row in wanted], batch_first=True, padding_value=float("nan")
        )
        costs = [one.may_expand * np.float32(one.context.block_size - 1) for one in found]
        logits = self.bundle.lens(collate([one.view.features(one.context) for one in found])).float()
        loss = counterfactual_loss(
            logits,
            targets,
            nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in costs], batch_first=True),
            torch.tensor([float(one.room) for one in found]),
            config,
        )
        agreed = []
        for row, target in zip(logits.detach().numpy(), wanted, strict=True):
            known = np.flatnonzero(~np.isnan(target))
            if len(known) > 1 and (rank := spearman(row[known], target[known])) is not None:
                agreed.append(rank)
        figures = {"lens_loss_nats": loss.item()}
        return loss, figures | ({"lens_correlation": float(np.mean(agreed))} if agreed else {})

    def _cloze(
        self, stage: StageConfig, passages: Sequence[Passage], rng: np.random.Generator
    ) -> tuple[Tensor, Figures]:
        config, lens = self.config, self.bundle.lens
        _, _, seen = self._views(passages, gradient=False)
        pairs = [
            (view, context)
            for view in seen
            for context in cloze_contexts(
                view,
                lens,
                stage.budget - len(view.ask.prompt),
                config.allocator,
                noise=config.noise,
                max_steps=config.max_steps,
                rng=rng,
            )
        ]
        given, labels = cloze_batch(*map(list, zip(*pairs, strict=True)))
        loss, right = cloze_loss(lens, given, labels, config.miss_weight)
        return loss, {"lens_loss_nats": loss.item(), "lens_accuracy": right}


def _with_asks(
    draw: Callable[[np.random.Generator, PassageSpec], Passage], rng: np.random.Generator, stage: StageConfig
) -> Passage:
    """A passage that asks something: of a short one all facts may stand in the unfinished block."""
    for _ in range(_TRIES):
        if (passage := draw(rng, stage.shape)).asks:
            return passage
    raise ConfigError(
        f"a passage must ask something, {_TRIES} of stage {stage.name!r} did not; raise its min_blocks or keys"
    )


def _means(told: Sequence[Mapping[str, float]]) -> Figures:
    """Of the passes of one step, each figure's mean over those that have it."""
    names = dict.fromkeys(name for figures in told for name in figures)
    return {name: float(np.mean([figures[name] for figures in told if name in figures])) for name in names}
