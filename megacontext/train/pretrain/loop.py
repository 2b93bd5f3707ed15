"""A pretraining run from beginning to end: steps, measurements, logs, saved states, the finished checkpoint.

An interrupt is taken at the end of a step: the state is saved, and `--resume` goes on from there. What is made at the
end lies in nanochat's own layout as well, so that nanochat's programs can use it.
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megacontext.config import to_mapping
from megacontext.corpus.shards import open_corpus
from megacontext.models.checkpoint import ATTENTION, save_checkpoint, save_tokenizer
from megacontext.progress import Progress
from megacontext.runtime.generation import generate
from megacontext.runtime.run import RunFolder
from megacontext.telemetry import NullTelemetry, Telemetry
from megacontext.train.pretrain.config import PretrainConfig
from megacontext.train.pretrain.logs import Log, open_logs
from megacontext.train.pretrain.plan import Plan, plan
from megacontext.train.pretrain.state import restore_state, save_state
from megacontext.train.pretrain.trainer import StepReport, Trainer
from megacontext.train.pretrain.vocabulary import vocabulary
from megacontext.train.pretrain.world import World
from megacontext.train.stopping import Stop, graceful

_BEGINNINGS = ("The ", "It was ", "She said that ", "When the ")
_SAMPLE_TOKENS = 24
_LOSS_MEMORY = 0.9


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where a run writes."""

    run: RunFolder | None
    """None in the processes that do not lead."""
    nanochat: Path
    """Base directory in nanochat's layout for the finished checkpoint and the vocabulary."""
    tag: str
    """The checkpoint's folder in it."""
    cache: Path
    """Where tokens of the corpus are kept between runs."""
    wandb_run: str = ""
    resume: Path | None = None
    """A saved state to go on from."""
    told: dict[str, Any] = field(default_factory=dict)
    """Put into the checkpoint's meta as `user_config`."""


def pretrain(config: PretrainConfig, world: World, to: Destination) -> dict[str, Any]:
    """Run `config` in this process; returns the metrics, the same in every process but for the digest of its own rows.

    Raises ConfigError, CheckpointError; KeyboardInterrupt once an interrupted run is saved.
    """
    corpus = open_corpus(config.corpus)
    planned = plan(config, world.size)
    tokenizer = vocabulary(config.vocabulary, config.model.vocab_size, corpus, to.cache)
    trainer = Trainer(config, planned, corpus, tokenizer, to.cache, world)
    loop = _Loop(trainer, to)
    with ExitStack() as stack:
        stopping = stack.enter_context(graceful())
        if to.run is not None:
            loop.logs = open_logs(to.run.path, to.wandb_run, to_mapping(config))
            for log in loop.logs:
                stack.callback(log.close)
        loop.go(stopping)
    return loop.metrics()


class _Loop:
    """The steps of a run, with what is told of them."""

    def __init__(self, trainer: Trainer, to: Destination):
        self.trainer, self.to = trainer, to
        self.plan: Plan = trainer.plan
        self.logs: list[Log] = []
        self.telemetry: Telemetry = to.run.telemetry if to.run is not None else NullTelemetry()
        self.smooth_loss, self.training_s = 0.0, 0.0
        self.bits_per_byte, self.best = math.nan, math.inf
        self.entries = 0
        if to.resume is not None:
            noted = restore_state(trainer, to.resume)
            self.smooth_loss, self.training_s = noted["smooth_loss"], noted["training_s"]
            self.best, self.entries = noted["best"] or math.inf, noted["entries"]

    def go(self, stopping: Stop) -> None:
        """All steps that are left, and the end."""
        trainer, plan, measure = self.trainer, self.plan, self.trainer.config.measure
        with Progress("pretraining", plan.steps, quiet=not trainer.world.leads) as progress:
            progress.set(trainer.step)
            while trainer.step < plan.steps:
                if _due(trainer.step, measure.eval_every):
                    self._evaluate()
                began = time.monotonic()
                report = trainer.train_step()
                self._after(report, time.monotonic() - began)
                progress.set(
                    trainer.step, f"loss {self._debiased():.3f} · bits/byte {self.bits_per_byte:.3f}"
                )
                if trainer.step < plan.steps and _due(trainer.step, measure.save_every):
                    self._save()
                if trainer.step < plan.steps and _due(trainer.step, measure.sample_every):
                    self._sample()
                if trainer.world.agree(stopping.wanted) and trainer.step < plan.steps:
                    self._save()
                    raise KeyboardInterrupt
        self._evaluate()
        self._save()
        self._sample()
        self._finish()

    def _after(self, report: StepReport, seconds: float) -> None:
        trainer, plan = self.trainer, self.plan
        self.smooth_loss = _LOSS_MEMORY * self.smooth_loss + (1 - _LOSS_MEMORY) * report.loss_nats
        self.training_s += seconds
        self.entries += report.entries
        if trainer.step % trainer.config.measure.log_every and trainer.step < plan.steps:
            return
        tokens = trainer.step * plan.batch_tokens
        self.telemetry.emit(
            "train",
            stage="pretrain",
            step=trainer.step,
            wall_s=self.training_s,
            tokens_seen=tokens,
            loss_nats=report.loss_nats,
            lm_loss_nats=report.loss_nats,
            learning_rate=report.learning_rate,
            tokens_per_s=plan.batch_tokens / seconds,
        )
        self._log(
            {
                "train/loss": self._debiased(),
                "train/lrm": trainer.config.rates.factor(trainer.step - 1, plan.steps),
                "train/dt": seconds,
                "train/tok_per_sec": plan.batch_tokens / seconds,
                "total_training_time": self.training_s,
                "total_training_flops": plan.flops_per_token * tokens,
            }
        )

    def _debiased(self) -> float:
        return self.smooth_loss / (1 - _LOSS_MEMORY ** max(1, self.trainer.step))

    def _log(self, numbers: dict[str, float]) -> None:
        for log in self.logs:
            log.write(self.trainer.step, numbers)

    def _evaluate(self) -> None:
        loss = self.trainer.evaluate()
        self.bits_per_byte = loss.bits_per_byte
        self.best = min(self.best, loss.bits_per_byte)
        self.telemetry.emit(
            "validation",
            step=self.trainer.step,
            wall_s=self.training_s,
            tokens_seen=self.trainer.step * self.plan.batch_tokens,
            bits_per_byte=loss.bits_per_byte,
            nats_per_token=loss.nats_per_token,
        )
        self._log({"val/bpb": loss.bits_per_byte})

    def _sample(self) -> None:
        """How the model goes on from a few beginnings; in run.json, for whoever looks at the run."""
        if self.to.run is None or not self.trainer.config.is_causal:
            return
        trainer, tokenizer = self.trainer, self.trainer.tokenizer
        trainer.model.eval()
        samples = []
        for beginning in _BEGINNINGS:
            prompt = [tokenizer.bos_id, *tokenizer.encode(beginning).tolist()]
            ids = generate(
                trainer.model,
                prompt,
                max_tokens=_SAMPLE_TOKENS,
                stop_ids=(tokenizer.bos_id,),
            )
            samples.append(beginning + tokenizer.decode(ids))
        trainer.model.train()
        self.to.run.note(samples=samples)

    def _save(self) -> None:
        if self.to.run is not None:
            save_state(
                self.trainer,
                self.to.run.path,
                smooth_loss=self.smooth_loss,
                training_s=self.training_s,
                best=None if math.isinf(self.best) else self.best,
                entries=self.entries,
            )
            self.to.run.flush()
        self.trainer.world.wait()

    def _finish(self) -> None:
        """The checkpoint and the vocabulary as nanochat keeps them: the base alone, which nanochat reads in full.

        What it was trained to read otherwise is said in the meta, and `load_checkpoint` refuses it.
        """
        if self.to.run is None:
            return
        trainer, config, place = self.trainer, self.trainer.config, self.trainer.reader.place
        meta = {
            "val_bpb": self.bits_per_byte,
            ATTENTION: config.attention,
            "user_config": self.to.told,
            "device_batch_size": config.batch.device_batch_size,
            "max_seq_len": config.model.sequence_len,
            "total_batch_size": self.plan.batch_tokens,
            "dataloader_state_dict": {"pq_idx": place.shard, "rg_idx": 0, "epoch": place.epoch + 1},
            "loop_state": {
                "min_val_bpb": self.best,
                "smooth_train_loss": self.smooth_loss,
                "total_training_time": self.training_s,
            },
        }
        folder = self.to.nanochat / "base_checkpoints" / self.to.tag
        save_checkpoint(folder, trainer.step, trainer.base, meta)
        save_tokenizer(trainer.tokenizer, self.to.nanochat / "tokenizer")

    def metrics(self) -> dict[str, Any]:
        """What is reported at the end."""
        told: dict[str, Any] = {}
        if self.trainer.config.measure.trigram:
            told["trigram_bits_per_byte"] = self.trainer.trigram().bits_per_byte
        if not self.trainer.config.is_causal:
            told["causal"] = False  # its losses are no language model's
        return told | {
            "steps": self.trainer.step,
            "tokens": self.trainer.step * self.plan.batch_tokens,
            "entries": self.entries,
            "bits_per_byte": self.bits_per_byte,
            "best_bits_per_byte": self.best,
            "train_loss_nats": self._debiased(),
            "training_s": self.training_s,
            "parameters": self.plan.parameters,
            "tokens_digest": self.trainer.tokens_digest,
        }


def _due(step: int, every: int) -> bool:
    return every > 0 and step > 0 and step % every == 0
