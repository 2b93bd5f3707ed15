"""One run's networks, optimisers and reader, and the step that moves them.

A step is a function of the weights, the rows that it reads and its number: what is drawn at random is drawn from
seed and step anew. So a run that goes on from a saved step is the run that was never interrupted, and two processes
that share a batch do what one would have done with all of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from megacontext.corpus.rows import Place, RowReader, validation_rows
from megacontext.corpus.shards import Corpus
from megacontext.corpus.token_files import token_file
from megacontext.evals.bits_per_byte import BitsPerByte, TextLoss, text_loss
from megacontext.evals.trigram import Trigram
from megacontext.gistnet.gist import GistNet
from megacontext.models.gpt import GPT
from megacontext.models.initialise import initialise
from megacontext.models.pyramid import PyramidGPT
from megacontext.models.summaries import Summaries
from megacontext.tokenizer import Tokenizer
from megacontext.train.optimisers import Optimisers
from megacontext.train.pretrain.config import PretrainConfig
from megacontext.train.pretrain.folding import FoldedRows, fold
from megacontext.train.pretrain.plan import Plan
from megacontext.train.pretrain.world import World


class NextTokenLoss(nn.Module):
    """Mean cross-entropy in nats of folded rows; base and, where there are gists, GistNet receive its gradient."""

    def __init__(self, base: GPT | PyramidGPT, gistnet: GistNet | None):
        super().__init__()
        self.base, self.gistnet = base, gistnet

    def forward(self, rows: FoldedRows) -> Tensor:
        base, ids = self.base, rows.ids
        if self.gistnet is None or not len(rows.gist_slots):
            embeddings = base.embed(ids)
        else:
            gists = self.gistnet(base.embed(rows.gist_tokens), 1)
            flat = base.embed(ids.clamp_min(0)).flatten(0, 1)
            embeddings = flat.index_copy(0, rows.gist_slots, gists.to(flat.dtype)).view(*ids.shape, -1)
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        logits = base.unembed(base(embeddings, positions, ids=ids))
        return F.cross_entropy(logits.flatten(0, 1), rows.targets.flatten())


@dataclass(frozen=True)
class StepReport:
    """What one step did."""

    loss_nats: float
    """Mean over the targets of all processes."""
    learning_rate: float
    entries: int
    """Positions that the base read, over all processes: tokens and gists."""


class Trainer:
    """Networks under training. Made anew from a configuration; `state` and `restore` carry a run over."""

    def __init__(
        self,
        config: PretrainConfig,
        plan: Plan,
        corpus: Corpus,
        tokenizer: Tokenizer,
        cache: Path,
        world: World,
    ):
        self.config, self.plan, self.world, self.tokenizer = config, plan, world, tokenizer
        generator = torch.Generator().manual_seed(config.seed)
        self.base = GPT(config.model, config.window)
        initialise(self.base, generator)
        has_pyramid = config.attention == "pyramid"
        self.gistnet: GistNet | None = None
        self.summaries: Summaries | None = None
        self.model: GPT | PyramidGPT = self.base
        """What reads: the base, or the base with a pyramid."""
        # Beside the run's own generator: what is added must not change what the base begins with.
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            if config.mega or has_pyramid:
                block_size = config.pyramid.block if has_pyramid else config.folding.block_size
                self.gistnet = GistNet(config.gistnet, width=config.model.n_embd, block_size=block_size)
            if has_pyramid:
                self.model = PyramidGPT(self.base, self.gistnet, config.pyramid)
                self.summaries = self.model.summaries
        folds_by = self.gistnet if config.mega else None
        self._objective = NextTokenLoss(self.model, folds_by).to(world.device)
        beside = self.summaries or self.gistnet
        self.optimisers = Optimisers(config.rates.groups(self.base, beside, plan.batch_tokens))
        self._ready = self._prepared()
        self.step = 0
        self.tokens_digest = ""
        """Of all rows that this process has read, in order: two runs with equal digests read the same tokens."""
        self._corpus, self._cache = corpus, cache
        self.reader = self._reader(None)

    @cached_property
    def _validation(self) -> np.ndarray:
        """Rows that the training does not read, int64 (n, T + 1)."""
        return validation_rows(
            self._corpus.validation,
            self.tokenizer,
            self._cache,
            row_tokens=self.config.model.sequence_len,
            most_tokens=self.config.measure.eval_tokens,
        )

    def trigram(self) -> BitsPerByte:
        """Loss of a trigram model of all training tokens, on the text that `evaluate` reads."""
        shards = [token_file(shard, self.tokenizer, self._cache) for shard in self._corpus.train]
        model = Trigram(np.concatenate(shards), self.tokenizer.vocab_size)
        rows = self._validation
        text = np.append(rows[:, :-1].flatten(), rows[-1, -1])
        return model.text_loss(text, self.tokenizer.byte_lengths()).rates()

    def _prepared(self) -> nn.Module:
        """The objective as it is called in training: compiled where that pays, and averaged over the processes."""
        ready: nn.Module = self._objective
        on_gpu = self.world.device.type == "cuda"
        # A pyramid's kernel is compiled already, and asks the host which rows are seen.
        pays = on_gpu and self.summaries is None
        if self.config.compile == "yes" or (self.config.compile == "auto" and pays):
            # Rows are folded to another length each step.
            ready = torch.compile(ready, dynamic=self.config.mega)
        if self.world.size > 1:
            ready = DistributedDataParallel(ready, device_ids=[self.world.device] if on_gpu else None)
        return ready

    def _reader(self, place: Place | None) -> RowReader:
        return RowReader(
            self._corpus.train,
            self.tokenizer,
            self._cache,
            row_tokens=self.config.model.sequence_len,
            seed=self.config.seed,
            place=place,
        )

    def _arithmetic(self) -> torch.autocast:
        precision = self.config.precision
        on = precision == "bf16" or (precision == "auto" and self.world.device.type == "cuda")
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=on)

    def read_rows(self, micro_step: int) -> tuple[np.ndarray, np.ndarray | None]:
        """This process's rows of the step's next part, and which of their blocks are folded (None: vanilla)."""
        config, world = self.config, self.world
        count = config.batch.device_batch_size
        rows = self.reader.read(count, world.rank, world.size)
        self.tokens_digest = hashlib.blake2b(
            self.tokens_digest.encode() + rows.tobytes(), digest_size=16
        ).hexdigest()
        if not config.mega:
            return rows, None
        # Drawn for all rows of the step at once: neither passes nor processes change what a row looks like.
        rng = np.random.default_rng((config.seed, self.step))
        of_step = self.plan.batch_tokens // config.model.sequence_len
        first = (micro_step * world.size + world.rank) * count
        drawn = config.folding.draw(rng, of_step, config.model.sequence_len)
        return rows, drawn[first : first + count]

    def train_step(self) -> StepReport:
        """Read a batch, move the weights once."""
        config, plan = self.config, self.plan
        total = torch.zeros((), device=self.world.device)
        entries = 0
        for micro_step in range(plan.micro_steps):
            rows = fold(*self.read_rows(micro_step), config.folding.block_size)
            entries += rows.ids.numel()
            last = micro_step + 1 == plan.micro_steps
            waits = isinstance(self._ready, DistributedDataParallel) and not last
            with self._ready.no_sync() if waits else nullcontext():
                with self._arithmetic():
                    loss = self._ready(_moved(rows, self.world.device)) / plan.micro_steps
                loss.backward()
            total += loss.detach()
        rates = config.rates
        if rates.grad_clip:
            nn.utils.clip_grad_norm_(self._objective.parameters(), rates.grad_clip)
        factor = rates.factor(self.step, plan.steps)
        self.optimisers.step(
            factor,
            momentum=rates.momentum_at(self.step, plan.steps),
            decay_factor=rates.decay_factor(self.step, plan.steps),
        )
        self.step += 1
        mean = self.world.sum(total) / self.world.size
        return StepReport(mean.item(), factor * rates.matrix_lr, entries * self.world.size)

    @torch.inference_mode()
    def evaluate(self) -> BitsPerByte:
        """Loss of plain tokens on the validation shard; every process reads its share."""
        mine = self._validation[self.world.rank :: self.world.size]
        self.model.eval()
        with self._arithmetic():
            loss = text_loss(
                self.model, mine, self.tokenizer.byte_lengths(), batch=self.config.batch.device_batch_size
            )
        self.model.train()
        sums = torch.tensor([*loss], dtype=torch.float64, device=self.world.device)
        return TextLoss(*self.world.sum(sums).tolist()).rates()

    def networks(self) -> Sequence[tuple[str, nn.Module]]:
        """The networks with the prefix of their weights."""
        if self.summaries is not None:
            return [("base", self.base), ("summaries", self.summaries)]
        return [("base", self.base)] + ([("gistnet", self.gistnet)] if self.gistnet is not None else [])

    def go_to(self, step: int, place: Place, tokens_digest: str) -> None:
        """Go on after `step` steps with the row at `place`."""
        self.step, self.tokens_digest = step, tokens_digest
        self.reader = self._reader(place)


def _moved(rows: FoldedRows, device: torch.device) -> FoldedRows:
    if device.type == "cpu":
        return rows
    parts = (rows.ids, rows.targets, rows.gist_slots, rows.gist_tokens)
    return FoldedRows(*(part.to(device, non_blocking=True) for part in parts))
